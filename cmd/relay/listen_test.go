package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/settings"
)

func TestKeysInTheClearAreWarnedOf(t *testing.T) {
	t.Parallel()
	for listen, warns := range map[string]bool{
		"": false, "127.0.0.1:4222": false, "127.9.9.9:4222": false, "localhost:4222": false, "[::1]:4222": false,
		"[::ffff:127.0.0.1]:4222": false, ":4222": true, "0.0.0.0:4222": true, "[::]:4222": true,
		"192.0.2.1:4222": true, "10.0.0.1:4222": true, "relay.example.com:4222": true,
	} {
		for _, cert := range []string{"", "cert.pem"} {
			var log bytes.Buffer
			var c settings.Listen
			c.NATSListen, c.NATSListenCert = listen, cert
			warnOfListen(c, slog.New(slog.NewTextHandler(&log, nil)))
			if got := strings.Contains(log.String(), "RELAY_NATS_LISTEN_CERT"); got != (warns && cert == "") {
				t.Errorf("listening on %q, certificate %q: %q", listen, cert, log.String())
			}
		}
	}
}
