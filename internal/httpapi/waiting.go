package httpapi

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/ingress"
)

// maxWaiting is how many requests of one key may wait for something outside the relay: an event of
// the feed, or a response of the vendor or a receiver.
const maxWaiting = 32

// waiting limits such requests in total, per address and per client. Each occupies a connection for
// up to a minute, and together they could occupy all that the API has.
type waiting struct {
	bounds ingress.Bounds

	mu       sync.Mutex
	total    int
	networks map[netip.Prefix]int
	clients  map[string]int
	keys     map[string]int
}

func newWaiting(b ingress.Bounds) *waiting {
	return &waiting{bounds: b, networks: map[netip.Prefix]int{}, clients: map[string]int{}, keys: map[string]int{}}
}

// take takes a place for a caller whose connection comes from an address; the caller must call done
// to return it. The error explains why there is none. The admin token always gets one.
func (w *waiting) take(c caller, peer netip.Addr) (done func(), err error) {
	network := ingress.Network(peer)
	w.mu.Lock()
	defer w.mu.Unlock()
	if why := w.full(c, peer); why != "" {
		return nil, &problem{kind: kindTooMany, detail: why, retryAfter: 5 * time.Second}
	}
	w.count(network, c, 1)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.count(network, c, -1)
	}, nil
}

// full returns why a caller may not wait, or "". The caller must hold mu.
func (w *waiting) full(c caller, peer netip.Addr) string {
	client := w.clients[c.client.ID]
	switch {
	case c.isAdmin():
		return ""
	case w.keys[c.key.ID] >= maxWaiting:
		return fmt.Sprintf("%d requests of the key wait, and %d may. ", w.keys[c.key.ID], maxWaiting) + waitingAdvice
	case client >= c.client.Allowed().WaitingRequests:
		return fmt.Sprintf("%d requests of the client wait at this relay, and %d may. ", client,
			c.client.Allowed().WaitingRequests) + waitingAdvice
	// A client must leave at least as many places to others as it takes, so that one with many keys
	// cannot occupy the API.
	case client+1 > w.bounds.Total-w.total-1:
		return "Too many requests wait at this relay. " + waitingAdvice
	case !w.bounds.Exempt.Contains(peer) && w.networks[ingress.Network(peer)] >= w.bounds.PerAddress:
		return "Too many requests from this address wait. " + waitingAdvice
	}
	return ""
}

// waitingAdvice advises callers how to need fewer waiting requests.
const waitingAdvice = "Ask without waitSeconds, or let one request read for all that want to know."

// count counts a place taken (1) or returned (-1). The caller must hold mu.
func (w *waiting) count(network netip.Prefix, c caller, by int) {
	w.total += by
	add(w.networks, network, by)
	add(w.clients, c.client.ID, by)
	add(w.keys, c.key.ID, by)
}

// add changes a count, and removes it if it is 0.
func add[K comparable](counts map[K]int, key K, by int) {
	if counts[key] += by; counts[key] == 0 {
		delete(counts, key)
	}
}
