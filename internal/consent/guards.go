package consent

import (
	"net/netip"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/audatex-relay/relay/internal/ingress"
)

// The pages are open to everybody, so the requests of each network are limited.
const (
	// pagesPerSecond and pageBurst limit the requests of one network, pagesAtOnce the simultaneous
	// requests of all networks.
	pagesPerSecond = 20
	pageBurst      = 200
	pagesAtOnce    = 128
	// maxWaiting and maxWaitingEach limit the requests that wait for a consent to end, in total and
	// per network.
	maxWaiting     = 256
	maxWaitingEach = 16
	// maxNetworks bounds how many networks are remembered. Beyond it the one that was seen longest
	// ago is forgotten, which gives it a new burst.
	maxNetworks = 4096
)

// guards limit what strangers can use up.
type guards struct {
	guesses *ingress.Guesses // of unknown tokens and states
	places  chan struct{}

	mu      sync.Mutex
	rates   *lru.Cache[lane, *rate.Limiter]
	waiting map[netip.Prefix]int
	waits   int
}

// lane is what has a rate of its own. The redirect back from the vendor has another rate than all
// other pages of a network: its code is valid for a minute only, and requests for the other pages
// must not lock it out.
type lane struct {
	network netip.Prefix
	back    bool
}

func newGuards() *guards {
	rates, _ := lru.New[lane, *rate.Limiter](maxNetworks) // it fails only without a size
	return &guards{
		guesses: ingress.NewGuesses(0), places: make(chan struct{}, pagesAtOnce),
		rates: rates, waiting: map[netip.Prefix]int{},
	}
}

// allow takes one request from a network's rate, either of the redirect back or of all other pages.
func (g *guards) allow(addr netip.Addr, back bool) bool {
	at := lane{ingress.Network(addr), back}
	g.mu.Lock()
	limiter, known := g.rates.Get(at)
	if !known {
		limiter = rate.NewLimiter(pagesPerSecond, pageBurst)
		g.rates.Add(at, limiter)
	}
	g.mu.Unlock()
	return limiter.Allow()
}

// wait takes a place among the requests that wait for a consent. The caller must call done to
// return it.
func (g *guards) wait(addr netip.Addr) (done func(), ok bool) {
	network := ingress.Network(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waits >= maxWaiting || g.waiting[network] >= maxWaitingEach {
		return nil, false
	}
	g.waits++
	g.waiting[network]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.waits--
		if g.waiting[network]--; g.waiting[network] == 0 {
			delete(g.waiting, network)
		}
	}, true
}
