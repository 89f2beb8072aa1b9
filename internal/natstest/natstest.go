// Package natstest gives tests a real NATS: the relay's own embedded server on a directory of the
// test's, or a cluster of three servers. Both run on loopback, and end with the test. Begin reading
// at Start and NewCluster.
package natstest

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

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

const natsServer = "github.com/nats-io/nats-server/v2/server"

// Leftovers are the goroutines that a NATS server of this process may leave behind although it was
// shut down and waited for (2.15.2). Each of them is one loop or one request of the server's own. A
// server that a test forgot to end has many others.
func Leftovers() []goleak.Option {
	return []goleak.Option{
		// The log of a raft group: a node that stops while it makes a group leaves it to the
		// shutdown, which may be over by then (createRaftGroup: "let n be reaped at shutdown"). The
		// second ticks for as long as any file store is open.
		goleak.IgnoreTopFunction(natsServer + ".(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction(natsServer + "/ats.Register.func1"),
		// A stream that looks for its source waits up to half a minute for a response.
		goleak.IgnoreTopFunction(natsServer + ".(*stream).trySetupSourceConsumer.func3"),
	}
}

// Waiting lets so many tests of a package run in parallel, regardless of the number of cores. It is
// for packages whose tests mostly wait (for a lease to end, for a node to come back). -parallel on
// the command line overrides it. TestMain calls it before it runs the tests.
func Waiting(tests int) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if chosen {
		return
	}
	if err := flag.Set("test.parallel", fmt.Sprint(tests)); err != nil {
		fmt.Fprintln(os.Stderr, "natstest:", err)
		os.Exit(1)
	}
}

// Long chooses how much a test does: few in every run, many where RELAY_LONG is set, as .ci/full
// does.
func Long(few, many int) int {
	if os.Getenv("RELAY_LONG") == "" {
		return few
	}
	return many
}
