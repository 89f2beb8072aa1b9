// Package natstest gives tests a real NATS: the relay's own embedded server on a directory of the
// test's, or a cluster of three servers. Both run on loopback, and end with the test. Begin reading
// at Start and NewCluster.
package natstest

import (
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/natsd"
)

// Start runs an embedded server until the test ends and returns a connection like the relay's.
func Start(t testing.TB) *nats.Conn {
	t.Helper()
	return StartIn(t, t.TempDir())
}

// StartIn is Start on a directory that outlives the server, to see what a restart finds.
func StartIn(t testing.TB, dir string) *nats.Conn {
	t.Helper()
	s, err := natsd.Start(natsd.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := s.Connect()
	if err != nil {
		s.Stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		s.Stop()
	})
	return nc
}
