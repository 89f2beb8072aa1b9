package capacity

import (
	"sync"
	"sync/atomic"
)

// unknownEvents is how many events are read at once while the size of none is known.
const unknownEvents = 4

// Bodies bounds the bodies that attempts have read from the log for themselves. An attempt shares its bodies with no
// other, and keeps them until the receiver has responded. A client gets no more bytes than it leaves free for others,
// but always one body; so receivers that hang do not take what others need. Bodies is safe for concurrent use.
type Bodies struct {
	bound    int64
	expected atomic.Int64 // the size that a body is expected to have before it is read: the largest of the last ones

	mu      sync.Mutex
	used    int64
	clients map[string]int64
}

// NewBodies returns a Bodies that admits so many bytes.
func NewBodies(bound int64) *Bodies { return &Bodies{bound: bound, clients: map[string]int64{}} }

// NoteSize takes the size of an event that was read from the log into account.
func (b *Bodies) NoteSize(size int) {
	for {
		expected := b.expected.Load()
		if b.expected.CompareAndSwap(expected, max(int64(size), expected-expected/64)) {
			return
		}
	}
}

// eventsIn returns how many events of the log have about so many bytes together: at least one, at most most.
func (b *Bodies) eventsIn(bytes int64, most int) int {
	expected := b.expected.Load()
	if expected == 0 { // nothing is known yet
		return min(unknownEvents, most)
	}
	return int(min(max(bytes/expected, 1), int64(most)))
}

// Reservation is what one attempt has reserved for the bodies that it reads.
type Reservation struct {
	bodies *Bodies
	client string
	bytes  int64
	last   int64 // of bytes, what Reserve took for the body that is being read
}

// NewReservation returns an empty Reservation for an attempt of a client. It must be freed.
func (b *Bodies) NewReservation(client string) Reservation {
	return Reservation{bodies: b, client: client}
}

// Reserve reserves the expected size of one more body. It returns false if there is not so much free now.
func (r *Reservation) Reserve() bool {
	b := r.bodies
	b.mu.Lock()
	defer b.mu.Unlock()
	own, n := b.clients[r.client], max(b.expected.Load(), 1)
	if own > 0 && own+n > b.bound-b.used-n {
		return false
	}
	r.last = n
	r.add(n)
	return true
}

// Correct replaces what the last Reserve took by the size that the body has; 0 if it is not kept.
func (r *Reservation) Correct(size int) {
	r.bodies.mu.Lock()
	defer r.bodies.mu.Unlock()
	r.add(int64(size) - r.last)
	r.last = 0
}

// Free gives everything back.
func (r *Reservation) Free() {
	if r.bytes == 0 {
		return
	}
	r.bodies.mu.Lock()
	defer r.bodies.mu.Unlock()
	r.add(-r.bytes)
}

// add adds n bytes. The caller must hold mu.
func (r *Reservation) add(n int64) {
	b := r.bodies
	r.bytes += n
	b.used += n
	if b.clients[r.client] += n; b.clients[r.client] == 0 {
		delete(b.clients, r.client)
	}
}
