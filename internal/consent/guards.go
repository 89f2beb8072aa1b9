package consent

import (
	"net/netip"
	"sync"

	"golang.org/x/time/rate"

	"github.com/audatex-relay/relay/internal/ingress"
)

// The pages are open to everybody, so what one network can ask for is bounded.
const (
	// pagesPerSecond and pageBurst are the requests of a network; pagesAtOnce those of all networks that are served at once.
	pagesPerSecond = 20
	pageBurst      = 200
	pagesAtOnce    = 128
	// maxWaiting and maxWaitingEach bound the requests that wait for a consent to end, in all and of a network.
	maxWaiting     = 256
	maxWaitingEach = 16
	// maxNetworks bounds the networks remembered; beyond it all are forgotten, which gives each one fresh burst.
	maxNetworks = 4096
)

// guards bound what strangers can take.
type guards struct {
	guesses *ingress.Guesses // of tokens and states that there are not
	places  chan struct{}

	mu      sync.Mutex
	rates   map[lane]*rate.Limiter
	waiting map[netip.Prefix]int
	waits   int
}

// lane is what has a rate of its own. The way back from the vendor has one beside that of all other pages of a network: its code is good for
// a minute only, and whoever fills the other must not keep it out.
type lane struct {
	network netip.Prefix
	back    bool
}

func newGuards() *guards {
	return &guards{
		guesses: ingress.NewGuesses(0), places: make(chan struct{}, pagesAtOnce),
		rates: map[lane]*rate.Limiter{}, waiting: map[netip.Prefix]int{},
	}
}

// allow takes one request of a network's rate: of that of the way back, or of that of all other pages.
func (g *guards) allow(addr netip.Addr, back bool) bool {
	at := lane{ingress.Network(addr), back}
	g.mu.Lock()
	limiter := g.rates[at]
	if limiter == nil {
		if len(g.rates) >= maxNetworks {
			clear(g.rates)
		}
		limiter = rate.NewLimiter(pagesPerSecond, pageBurst)
		g.rates[at] = limiter
	}
	g.mu.Unlock()
	return limiter.Allow()
}

// wait takes a place among the requests that wait for a consent; done gives it back.
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
