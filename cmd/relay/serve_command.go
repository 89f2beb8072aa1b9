package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"runtime/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/settings"
)

type serveCommand struct {
	settings.Serve
	CPUProfile string `name:"cpuprofile" hidden:"" help:"Write a CPU profile here when the relay stops."`
}

// Help describes the settings that have no default.
func (serveCommand) Help() string {
	return "Needs RELAY_ADMIN_TOKEN, RELAY_AUDATEX_CLIENT_ID and RELAY_AUDATEX_CLIENT_SECRET, and with an external " +
		"NATS RELAY_ENCRYPTION_KEYS. Everything else has a default."
}

// Run serves until SIGTERM, then drains.
func (c *serveCommand) Run(p program) error {
	signals := takeSignals()
	defer signals.stop()
	checked, err := c.Check()
	if err != nil {
		return err
	}
	log := newLogger(p, checked.StoreConfig)
	defer log.Close()
	slog.SetDefault(log.Logger) // what libraries write by the log package goes the same way
	p.warn(checked.StoreConfig, log.Logger)
	checked.Rereads = &settings.Rereads{}
	signals.follow(log, checked.Rereads)
	if c.CPUProfile != "" {
		stop, err := profile(c.CPUProfile)
		if err != nil {
			return settings.Wrong("--cpuprofile", "%w", err)
		}
		defer stop()
	}
	err = serve(p.ctx, checked, log.Logger, func(addresses) {})
	if err != nil && p.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		log.Info("stopped before it served")
		return nil
	}
	return err
}

// profile writes a CPU profile until the function that it returns is called.
func profile(path string) (stop func(), err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}

func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "audatex_relay_build_info", Help: "Version of the running relay.",
		ConstLabels: prometheus.Labels{"version": buildVersion()},
	})
	info.Set(1)
	registry.MustRegister(info)
	return registry
}

// listen listens on a setting's address, within bounds.
func listen(
	setting, address, name string, bounds ingress.Bounds, ingressMetrics *ingress.Metrics, log *slog.Logger,
) (*ingress.Listener, error) {
	inner, err := net.Listen("tcp", address)
	if err != nil {
		return nil, settings.Wrong(setting, "%w", err)
	}
	return ingress.NewListener(inner, name, bounds, ingressMetrics, log), nil
}

// warnOfListen warns when keys would cross a network in the clear.
func warnOfListen(c settings.Listen, log *slog.Logger) {
	if !c.InTheClear() {
		return
	}
	log.Warn(
		"RELAY_NATS_LISTEN takes subscribers from beyond this machine without TLS: their keys and events cross the "+
			"network in the clear. "+
			"Set RELAY_NATS_LISTEN_CERT and RELAY_NATS_LISTEN_KEY, or listen on 127.0.0.1 behind something that "+
			"does TLS",
		"listen", c.NATSListen)
}

// schemaBase is where events claim that their schemas are served. CloudEvents requires an absolute
// address there, so without RELAY_PUBLIC_URL it is this machine's own.
func schemaBase(c settings.Config, api net.Addr) string {
	if c.PublicURL != "" {
		return c.PublicURL
	}
	_, port, _ := net.SplitHostPort(api.String())
	return "http://localhost:" + port
}
