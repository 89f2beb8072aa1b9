package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/settings"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// bus is what the program needs of the NATS server.
type bus interface {
	Admit(natsd.Subscribers)
	Recheck(client string)
	Addr() string
	Stop()
}

// showClients registers how many clients are connected to the embedded server's listener, if there is one.
func showClients(registry *prometheus.Registry, b bus) {
	server, embedded := b.(*natsd.Server)
	if !embedded || server.Addr() == "" {
		return
	}
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "audatex_relay_nats_clients",
		Help: "Subscribers that are logged in at RELAY_NATS_LISTEN; absent without it.",
	}, func() float64 { return float64(server.LoggedIn()) }))
}

// external is a NATS cluster that others run: subscribers log in there.
type external struct{}

func (external) Admit(natsd.Subscribers) {}
func (external) Recheck(string)          {}
func (external) Addr() string            { return "" }
func (external) Stop()                   {}

// connect connects to the external cluster, or starts the embedded server.
func (s start) connect(
	ctx context.Context, c settings.StoreConfig, listen settings.Listen, limits natsd.Limits,
	ingressMetrics *ingress.Metrics,
) (bus, *nats.Conn, error) {
	if c.NATSURL != "" {
		nc, err := s.dial(ctx, c)
		return external{}, nc, err
	}
	warnOfListen(listen, s.log)
	server, err := natsd.Start(natsd.Config{
		Dir: c.DataDir, SyncInterval: c.SyncEvery, SyncAlways: c.SyncAlways,
		Listen: listen.NATSListen, ListenCert: listen.NATSListenCert, ListenKey: listen.NATSListenKey,
		Prefix: c.NATSPrefix, Subscribers: limits, Ingress: ingressMetrics, Log: s.log,
	})
	switch {
	case errors.Is(err, natsd.ErrListen):
		return nil, nil, settings.Wrong("RELAY_NATS_LISTEN", "%w", err)
	case errors.Is(err, natsd.ErrCertificate):
		return nil, nil, settings.Wrong("RELAY_NATS_LISTEN_CERT", "%w", err)
	case errors.Is(err, natsd.ErrDir):
		return nil, nil, settings.Wrong("RELAY_DATA_DIR", "%w", err)
	case err != nil:
		return nil, nil, err
	}
	nc, err := server.Connect(natsd.ClientOptions(s.log)...)
	if err != nil {
		server.Stop()
		return nil, nil, err
	}
	return server, nc, nil
}

// dial connects to the external cluster. While no server can be reached it keeps trying: a relay may well start before
// its cluster. A cluster that cannot be used is a setting's error, returned at once.
func (s start) dial(ctx context.Context, c settings.StoreConfig) (nc *nats.Conn, err error) {
	cluster := natsd.Remote{
		URL: c.NATSURL, Creds: c.NATSCreds, User: c.NATSUser, Password: c.NATSPassword,
		CA: c.NATSCA, Cert: c.NATSCert, Key: c.NATSKey,
		LeastMessage: store.LeastMessage, WantedMessage: store.WantedMessage, Log: s.log,
	}
	passing := func(err error) bool { _, refused := errors.AsType[*natsd.RefusedError](err); return !refused }
	err = s.repeat(ctx, "NATS cannot be reached (RELAY_NATS_URL)", passing, func() (err error) {
		nc, err = cluster.Dial()
		return err
	})
	refused, ok := errors.AsType[*natsd.RefusedError](err)
	if !ok {
		if err != nil {
			return nil, fmt.Errorf("connect to NATS (RELAY_NATS_URL): %w", err)
		}
		return nc, nil
	}
	setting := "RELAY_NATS_URL"
	switch {
	case refused.Refusal == natsd.RefusedServer:
		setting = "RELAY_NATS_CA"
	case refused.Refusal == natsd.RefusedCertificate:
		setting = "RELAY_NATS_CERT"
	case refused.Refusal == natsd.RefusedLogin && c.NATSCreds != "":
		setting = "RELAY_NATS_CREDS"
	case refused.Refusal == natsd.RefusedLogin && c.NATSUser != "":
		setting = "RELAY_NATS_USER"
	}
	return nil, settings.Wrong(setting, "%w", err)
}

// newEvents returns what keeps the copy of the log for services, nil where nobody could read one:
// the embedded server without an address for subscribers. On the embedded server the readers are
// API keys, elsewhere the server's configuration names them.
func newEvents(
	c settings.Config, nc *nats.Conn, t topology.Topology, keys func() *access.Keys, log *slog.Logger,
) (*natsd.Events, error) {
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

// runEvents keeps the copy once it is known which keys there are, and removes the consumers of those that are gone.
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
