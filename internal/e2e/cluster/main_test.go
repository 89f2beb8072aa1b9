package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

const (
	nodes    = 3
	replicas = 3
)

// root is the module's root, seen from the package.
var root = filepath.Join("..", "..", "..")

// programs are the relays and the NATS server.
var programs harness.Programs

func TestMain(m *testing.M) {
	// A link of toxiproxy whose other end was cut in the middle of a message keeps one of its
	// goroutines.
	cut := goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*NoopToxic).Pipe")
	os.Exit(harness.FindLeaks(programs.Run(m), cut))
}

// natsServer returns the path of the NATS server, of the very version that is embedded.
func natsServer(t testing.TB) string {
	t.Helper()
	return programs.Made(t, "nats-server", func(path string) error {
		return harness.Build(context.Background(), root, "./internal/natstest/nats-server", path)
	})
}

// relayOf returns the path of a replica's relay. Each has a version of its own, and so a User-Agent
// of its own: that is how receivers know who delivers. Only the first is built. In the others'
// copies its version is overwritten, which takes no time.
func relayOf(t testing.TB, replica int, broken *mutant) string {
	t.Helper()
	name, flags := "relay-", []string{"-ldflags", "-X main.version=" + versionOf(0)}
	if broken != nil {
		name = "relay-" + broken.name + "-"
	}
	first := programs.Made(t, name+versionOf(0), func(path string) error {
		switch {
		case broken != nil:
			flags = append(flags, "-overlay", overlay(t, broken.sources(t)))
		case pace() > 1:
			flags = append(flags, "-overlay", overlay(t, replaced(t, "the relay", paced())))
		}
		return harness.Build(context.Background(), root, "./cmd/relay", path, flags...)
	})
	if replica == 0 {
		return first
	}
	return programs.Made(t, name+versionOf(replica), func(path string) error {
		program, err := os.ReadFile(first)
		if err != nil {
			return err
		}
		copied := bytes.ReplaceAll(program, []byte(versionOf(0)), []byte(versionOf(replica)))
		return os.WriteFile(path, copied, 0o700)
	})
}

func versionOf(replica int) string { return fmt.Sprintf("replica-%d", replica) }

// replicaOf is the replica that sent a request with this User-Agent, -1 if none did.
func replicaOf(userAgent string) int {
	for n := range replicas {
		if userAgent == "audatex-relay/"+versionOf(n) {
			return n
		}
	}
	return -1
}
