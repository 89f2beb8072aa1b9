package main

import (
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/store"
)

// payload watches how large a message NATS takes. It may be another size after a reconnect.
type payload struct {
	log  *slog.Logger
	told atomic.Int64 // the limit that was last complained of, 0 if the present one is large enough
}

// check returns the setting's error that too low a limit is when the relay starts. One that is lower than wanted is a warning.
func (p *payload) check(nc *nats.Conn) error {
	// An account's limit comes after the login; without an answer the server's own counts for now.
	_ = nc.FlushTimeout(dialTimeout)
	limit := nc.MaxPayload()
	switch {
	case limit < store.LeastMessage:
		return wrong("RELAY_NATS_URL", "%w", tooSmall(limit))
	case limit < store.WantedMessage && p.told.Swap(limit) != limit:
		p.log.Warn("NATS takes smaller messages than the relay wants: larger pages of the vendor's queue are stored in parts, and an order whose event is larger is set aside as unresolved (too-large). "+
			"Set max_payload: 8MB in the configuration of every NATS server, and for the account (docs/nats.md)", "max_payload", limit, "wanted", store.WantedMessage)
	case limit >= store.WantedMessage:
		p.told.Store(0)
	}
	return nil
}

// again looks at a connection that was made again. A limit that is too low cannot end the relay then; what does not fit is told
// when it comes.
func (p *payload) again(nc *nats.Conn) {
	if err := p.check(nc); err != nil && p.told.Swap(nc.MaxPayload()) != nc.MaxPayload() {
		p.log.Error("after a reconnect NATS takes smaller messages than the relay needs", "error", tooSmall(nc.MaxPayload()))
	}
}

func tooSmall(limit int64) error {
	return fmt.Errorf("NATS takes messages of at most %d bytes, and the relay needs %d: set max_payload: 8MB in the configuration of every NATS server, and for the account (docs/nats.md)",
		limit, store.LeastMessage)
}
