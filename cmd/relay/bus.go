package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/natsd"
)

// connect starts the embedded server, or connects to the external cluster; then bus does nothing. Waiting hears what is waited for.
func connect(ctx context.Context, c config, limits natsd.Limits, doors *ingress.Metrics, log *slog.Logger, waiting func(reason string)) (bus, *nats.Conn, error) {
	if c.NATSURL != "" {
		nc, err := dial(ctx, c, log, waiting)
		return external{}, nc, err
	}
	warnOfListen(c, log)
	server, err := natsd.Start(natsd.Config{
		Dir: c.DataDir, SyncInterval: c.syncEvery, SyncAlways: c.syncAlways, Listen: c.NATSListen, ListenCert: c.NATSListenCert, ListenKey: c.NATSListenKey,
		Prefix: c.NATSPrefix, Subscribers: limits, Ingress: doors, Log: log,
	})
	switch {
	case errors.Is(err, natsd.ErrListen):
		return nil, nil, wrong("RELAY_NATS_LISTEN", "%w", err)
	case errors.Is(err, natsd.ErrCertificate):
		return nil, nil, wrong("RELAY_NATS_LISTEN_CERT", "%w", err)
	case errors.Is(err, natsd.ErrDir):
		return nil, nil, wrong("RELAY_DATA_DIR", "%w", err)
	case err != nil:
		return nil, nil, err
	}
	nc, err := server.Connect(clientOptions(log)...)
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

// warnOfListen warns when keys would cross a network in the clear.
func warnOfListen(c config, log *slog.Logger) {
	if c.NATSListen == "" || c.NATSListenCert != "" {
		return
	}
	host, _, _ := net.SplitHostPort(c.NATSListen) // it has been checked
	if addr, err := netip.ParseAddr(host); host == "localhost" || err == nil && addr.Unmap().IsLoopback() {
		return
	}
	log.Warn("RELAY_NATS_LISTEN takes subscribers from beyond this machine without TLS: their keys and events cross the network in the clear. "+
		"Set RELAY_NATS_LISTEN_CERT and RELAY_NATS_LISTEN_KEY, or listen on 127.0.0.1 behind something that does TLS", "listen", c.NATSListen)
}
