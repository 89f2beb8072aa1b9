package capacity

import (
	"sync"
	"sync/atomic"
)

// unknownEvents is how many events are read at once while none has been seen.
const unknownEvents = 4

// Bodies bounds the bodies that attempts have read from the log for themselves: those are shared with nobody, and are
// kept for as long as the receiver takes. A client takes no more than it leaves free, but always one body, so that
// receivers that hang do not take what others need. Bodies is safe for concurrent use.
type Bodies struct {
	bound int64
	usual atomic.Int64 // what a body is expected to weigh before it is read: the largest of late

	mu      sync.Mutex
	used    int64
	clients map[string]int64
}

// NewBodies returns room for so many bytes.
func NewBodies(bound int64) *Bodies { return &Bodies{bound: bound, clients: map[string]int64{}} }

// Saw notes the size of an event of the log.
func (b *Bodies) Saw(size int) {
	for {
		usual := b.usual.Load()
		if b.usual.CompareAndSwap(usual, max(int64(size), usual-usual/64)) {
			return
		}
	}
}

// Fit returns how many events of the log may be read at once, at most, to have about so many bytes.
func (b *Bodies) Fit(bytes int64, most int) int {
	usual := b.usual.Load()
	if usual == 0 { // nothing is known yet
		return min(unknownEvents, most)
	}
	return int(min(max(bytes/usual, 1), int64(most)))
}

// Room is what one attempt has taken. The zero Room of a Bodies is empty.
type Room struct {
	bodies *Bodies
	client string
	bytes  int64
	last   int64 // of bytes, what Reserve took for the body that is being read
}

// Room returns an empty Room for an attempt of a client. It must be freed.
func (b *Bodies) Room(client string) Room { return Room{bodies: b, client: client} }

// Reserve takes what one more body is expected to weigh. False means that there is no room for it now.
func (r *Room) Reserve() bool {
	b := r.bodies
	b.mu.Lock()
	defer b.mu.Unlock()
	own, n := b.clients[r.client], max(b.usual.Load(), 1)
	if own > 0 && own+n > b.bound-b.used-n {
		return false
	}
	r.last = n
	r.add(n)
	return true
}

// Settle corrects what the last Reserve took to what the body weighs; 0 if it is not kept.
func (r *Room) Settle(size int) {
	r.bodies.mu.Lock()
	defer r.bodies.mu.Unlock()
	r.add(int64(size) - r.last)
	r.last = 0
}

// Free gives everything back.
func (r *Room) Free() {
	if r.bytes == 0 {
		return
	}
	r.bodies.mu.Lock()
	defer r.bodies.mu.Unlock()
	r.add(-r.bytes)
}

// add counts, with mu locked.
func (r *Room) add(n int64) {
	b := r.bodies
	r.bytes += n
	b.used += n
	if b.clients[r.client] += n; b.clients[r.client] == 0 {
		delete(b.clients, r.client)
	}
}
