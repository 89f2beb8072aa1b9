package natsd

import (
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

// payload watches how large a message NATS takes. It may be another size after a reconnect.
type payload struct {
	least, wanted int64
	log           *slog.Logger
	reported      atomic.Int64 // the limit that was last complained of, 0 if the present one is large enough
}

// check returns a RefusedError for a limit that is too low. One that is lower than wanted is a warning.
func (p *payload) check(nc *nats.Conn) error {
	// An account's limit comes after the login; without an answer the server's own counts for now.
	_ = nc.FlushTimeout(dialTimeout)
	limit := nc.MaxPayload()
	switch {
	case limit < p.least:
		return &RefusedError{RefusedSize, fmt.Errorf("NATS takes messages of at most %d bytes, and the relay needs %d: set max_payload: 8MB in the configuration of every NATS server, and for the account (docs/nats.md)",
			limit, p.least)}
	case limit < p.wanted && p.reported.Swap(limit) != limit:
		p.log.Warn("NATS takes smaller messages than the relay wants: larger pages of the vendor's queue are stored in parts, and an order whose event is larger is set aside as unresolved (too-large). "+
			"Set max_payload: 8MB in the configuration of every NATS server, and for the account (docs/nats.md)", "max_payload", limit, "wanted", p.wanted)
	case limit >= p.wanted:
		p.reported.Store(0)
	}
	return nil
}

// again looks at a connection that was made again. A limit that is too low cannot end the relay then; what does not
// fit is reported when it comes.
func (p *payload) again(nc *nats.Conn) {
	if err := p.check(nc); err != nil && p.reported.Swap(nc.MaxPayload()) != nc.MaxPayload() {
		p.log.Error("after a reconnect NATS takes smaller messages than the relay needs", "error", err)
	}
}
