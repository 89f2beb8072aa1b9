package store

import (
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// known is what this process knows of the end of a log: of each message that it was shown or has
// written only the last one, as a log that still has it has all before it.
type known struct {
	stream string

	mu    sync.Mutex
	shown point
	wrote own               // if it is above what was shown
	last  map[string]uint64 // of each connection: its last page, or the last event of what one brought
}

// point is a message by its number and by when the log took it. Of two messages that had the same
// number, one after the other, the times differ.
type point struct {
	seq uint64
	at  time.Time
}

// own is a message that this process has written, by its number and its bytes.
type own struct{ seq, sum uint64 }

// seed is that of all sums.
var seed = maphash.MakeSeed()

// begin notes where the log ends, if nothing is known of it. The nil known is that of a log that no
// cursor refers to.
func (k *known) begin(p point) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.shown.seq == 0 {
		k.shown = p
	}
}

// show notes a message that a reader of the whole log was shown.
func (k *known) show(m Message) {
	connection := connectionOf(m.Subject, m.Header)
	k.mu.Lock()
	defer k.mu.Unlock()
	if m.Seq > k.shown.seq {
		k.shown = point{m.Seq, m.Time}
	}
	k.note(connection, m.Seq)
}

// write notes a message that was written.
func (k *known) write(m *nats.Msg, seq uint64) {
	connection, sum := connectionOf(m.Subject, m.Header), maphash.Bytes(seed, m.Data)
	k.mu.Lock()
	defer k.mu.Unlock()
	if seq > max(k.shown.seq, k.wrote.seq) {
		k.wrote = own{seq, sum}
	}
	k.note(connection, seq)
}

// note must be called with mu locked.
func (k *known) note(connection string, seq uint64) {
	if connection == "" {
		return
	}
	if k.last == nil {
		k.last = map[string]uint64{}
	}
	k.last[connection] = max(k.last[connection], seq)
}

// connectionOf returns the connection whose page a message is, or whose notification an event was
// made of; "" if there is none.
func connectionOf(subject string, h nats.Header) string {
	if ref := h.Get(HeaderInbox); ref != "" {
		connection, _, _ := strings.Cut(ref, "/")
		return connection
	}
	if h.Get(headerPollID) != "" {
		return subject[strings.LastIndexByte(subject, '.')+1:]
	}
	return ""
}

// highest returns the highest number that is known.
func (k *known) highest() uint64 {
	if k == nil {
		return 0
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return max(k.shown.seq, k.wrote.seq)
}

// ends returns what a log must have; wrote is zero if what was shown is above.
func (k *known) ends() (shown point, wrote own) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wrote.seq > k.shown.seq {
		wrote = k.wrote
	}
	return k.shown, wrote
}

// beyond returns the connections of which something above a number is known.
func (k *known) beyond(seq uint64) (connections []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for connection, last := range k.last {
		if last > seq {
			connections = append(connections, connection)
		}
	}
	return connections
}
