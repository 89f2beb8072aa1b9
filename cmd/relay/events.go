package main

import (
	"context"
	"log/slog"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/topology"
)

// newEvents answers what keeps the copy of the log for services, nil where nobody could read one: the embedded server without an
// address for subscribers. On the embedded server the readers are API keys, elsewhere the server's configuration names them.
func newEvents(c config, nc *nats.Conn, t topology.Topology, keys func() *access.Keys, log *slog.Logger) (*natsd.Events, error) {
	copied := natsd.EventsConfig{Conn: nc, Topology: t, Log: log}
	if c.NATSURL == "" {
		if c.NATSListen == "" {
			return nil, nil
		}
		copied.MaxBytes = natsd.EventsBytes(c.DataDir)
		copied.Known = func(reader string) bool { return keys().ReadsAll(reader) }
	}
	return natsd.NewEvents(copied)
}

// runEvents keeps the copy once it is known which keys there are: the consumers of those that are gone are removed.
func runEvents(ctx context.Context, events *natsd.Events, keys *access.Keys) error {
	if events == nil {
		<-ctx.Done()
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-keys.Ready():
		return events.Run(ctx)
	}
}
