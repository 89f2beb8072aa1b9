package dispatcher

import (
	"errors"
	"sync/atomic"
	"time"
)

// errBodies reports that an attempt was not made as too many bytes of bodies are under way.
var errBodies = errors.New("too many bytes of bodies are under way")

// unknownEvents is how many events are read at once while none has been seen.
const unknownEvents = 4

// bodiesRetry is how long a callback waits after that.
const bodiesRetry = 200 * time.Millisecond

// bodies bounds the bodies that attempts have read from the log for themselves: those are shared with nobody, and are
// kept for as long as the receiver takes. A client takes no more than it leaves free, but always one body, so that
// receivers that hang do not take what others need. One goroutine owns it, see limits; what is usual anybody may ask
// and note.
type bodies struct {
	bound   int64
	used    int64
	clients map[string]int64
	usual   atomic.Int64 // what a body is expected to weigh before it is read: the largest of late
}

func newBodies(bound int64) *bodies { return &bodies{bound: bound, clients: map[string]int64{}} }

// saw notes the size of an event of the log.
func (b *bodies) saw(size int) {
	for {
		usual := b.usual.Load()
		if b.usual.CompareAndSwap(usual, max(int64(size), usual-usual/64)) {
			return
		}
	}
}

// fit returns how many events of the log may be read at once, at most, to have about so many bytes.
func (b *bodies) fit(bytes int64, most int) int {
	usual := b.usual.Load()
	if usual == 0 { // nothing is known yet
		return min(unknownEvents, most)
	}
	return int(min(max(bytes/usual, 1), int64(most)))
}

// begin takes what one body is expected to weigh. False means that there is no room for it now.
func (b *bodies) begin(client string) (taken int64, ok bool) {
	own, n := b.clients[client], max(b.usual.Load(), 1)
	if own > 0 && own+n > b.bound-b.used-n {
		return 0, false
	}
	b.add(client, n)
	return n, true
}

// read corrects what was taken to what the body weighs.
func (b *bodies) read(client string, taken *int64, size int) {
	n := max(int64(size), 1)
	b.add(client, n-*taken)
	*taken = n
}

// end gives back what was taken.
func (b *bodies) end(client string, taken int64) {
	b.add(client, -taken)
}

// add counts.
func (b *bodies) add(client string, n int64) {
	b.used += n
	if b.clients[client] += n; b.clients[client] == 0 {
		delete(b.clients, client)
	}
}
