package httpapi

import (
	"net/netip"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/ingress"
)

// maxWaiting is how many requests of one key may wait at once for what is not the relay's to hasten: an event of the feed, an answer of
// the vendor, or a receiver's.
const maxWaiting = 32

// waiting bounds such requests in all, per address and per client. Each has a connection to itself for as long as a minute, so these
// could be all that the API may have.
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

// take takes a place for a caller whose connection comes from an address; done gives it back. An error says why there is none. The
// admin token always gets one.
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

// full says why a caller may not wait, "" if it may. mu is held.
func (w *waiting) full(c caller, peer netip.Addr) string {
	client := w.clients[c.client.ID]
	switch {
	case c.isAdmin():
		return ""
	case w.keys[c.key.ID] >= maxWaiting:
		return "The key has too many waiting requests."
	// What one client takes it leaves others as well, so that one with many keys is not alone with the API.
	case client+1 > w.bounds.Total-w.total-1:
		return "Too many requests wait at this relay. Ask without waitSeconds, or let one request read for all that want to know."
	case !w.bounds.Exempt.Contains(peer) && w.networks[ingress.Network(peer)] >= w.bounds.PerAddress:
		return "Too many requests from this address wait. Ask without waitSeconds, or let one request read for all that want to know."
	}
	return ""
}

// count counts a place taken (1) or given back (-1). mu is held.
func (w *waiting) count(network netip.Prefix, c caller, by int) {
	w.total += by
	add(w.networks, network, by)
	add(w.clients, c.client.ID, by)
	add(w.keys, c.key.ID, by)
}

// add forgets what is 0.
func add[K comparable](counts map[K]int, key K, by int) {
	if counts[key] += by; counts[key] == 0 {
		delete(counts, key)
	}
}
