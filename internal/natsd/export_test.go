package natsd

import (
	"log/slog"

	"github.com/nats-io/nats.go"
)

// WatchPayload returns the two looks at how large a message NATS takes: when the relay starts, and after a reconnect.
func WatchPayload(least, wanted int64, log *slog.Logger) (check func(*nats.Conn) error, again func(*nats.Conn)) {
	p := &payload{least: least, wanted: wanted, log: log}
	return p.check, p.again
}
