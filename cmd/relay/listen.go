package main

import (
	"log/slog"
	"net"
	"net/netip"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/settings"
)

// listen listens on a setting's address, within bounds.
func listen(
	setting, address, name string, bounds ingress.Bounds, doors *ingress.Metrics, log *slog.Logger,
) (*ingress.Listener, error) {
	inner, err := net.Listen("tcp", address)
	if err != nil {
		return nil, settings.Wrong(setting, "%w", err)
	}
	return ingress.NewListener(inner, name, bounds, doors, log), nil
}

// warnOfListen warns when keys would cross a network in the clear.
func warnOfListen(c settings.Listen, log *slog.Logger) {
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

// schemaBase is where events claim that their schemas are served. CloudEvents requires an absolute
// address there, so without RELAY_PUBLIC_URL it is this machine's own.
func schemaBase(c settings.Config, api net.Addr) string {
	if c.PublicURL != "" {
		return c.PublicURL
	}
	_, port, _ := net.SplitHostPort(api.String())
	return "http://localhost:" + port
}
