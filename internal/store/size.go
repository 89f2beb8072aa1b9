package store

import "github.com/nats-io/nats.go"

const (
	// LeastMessage is the least that NATS must take in one message: every document of the relay's
	// own fits in it.
	LeastMessage = 512 << 10
	// WantedMessage is what NATS should take: a response of the vendor's queue with its envelope,
	// and an order with what of it has changed, fit in it.
	WantedMessage = 8 << 20
	// headerReserve is the room for the headers that a write's conditions become.
	headerReserve = 512
)

// MaxMessage returns how many bytes NATS takes in one message now, headers included: the
// max_payload of the server that this connection leads to, or of the account. It may change when
// the connection is made again.
func (s *Store) MaxMessage() int { return int(s.conn.MaxPayload()) }

// MaxDocument returns how many bytes of a document fit in a bucket now.
func (s *Store) MaxDocument() int { return s.MaxMessage() - headerReserve }

// headerBytes returns how many bytes of a message's size are its headers, those of its conditions
// included.
func headerBytes(h nats.Header) int {
	n := headerReserve
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}
