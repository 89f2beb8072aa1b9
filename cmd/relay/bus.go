package main

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/natsd"
)

// connect starts the embedded server, or connects to the external cluster; then bus does nothing.
func connect(c config, log *slog.Logger) (bus, *nats.Conn, error) {
	options := []nats.Option{
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("the connection to NATS is lost; reconnecting", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("connected to NATS again", "server", nc.ConnectedUrlRedacted()) }),
	}
	if c.NATSURL != "" {
		options = append(options, nats.Name("audatex-relay"), nats.MaxReconnects(-1), nats.ReconnectJitter(time.Second, 2*time.Second))
		if c.NATSCreds != "" {
			options = append(options, nats.UserCredentials(c.NATSCreds))
		}
		nc, err := nats.Connect(c.NATSURL, options...)
		if err != nil {
			return nil, nil, fmt.Errorf("connect to NATS (RELAY_NATS_URL): %w", err)
		}
		return external{}, nc, nil
	}
	server, err := natsd.Start(natsd.Config{Dir: c.DataDir, SyncInterval: c.syncEvery, SyncAlways: c.syncAlways, Listen: c.NATSListen, Log: log})
	switch {
	case errors.Is(err, natsd.ErrListen):
		return nil, nil, wrong("RELAY_NATS_LISTEN", "%w", err)
	case errors.Is(err, natsd.ErrDir):
		return nil, nil, wrong("RELAY_DATA_DIR", "%w", err)
	case err != nil:
		return nil, nil, err
	}
	nc, err := server.Connect(options...)
	if err != nil {
		server.Stop()
		return nil, nil, err
	}
	return server, nc, nil
}

// bus is the NATS server as far as the program has to do with it.
type bus interface {
	Admit(natsd.Subscribers)
	Recheck(client string)
	Addr() string
	Stop()
}

// external is a NATS cluster that others run: subscribers log in there.
type external struct{}

func (external) Admit(natsd.Subscribers) {}
func (external) Recheck(string)          {}
func (external) Addr() string            { return "" }
func (external) Stop()                   {}
