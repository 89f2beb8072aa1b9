package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
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

// binaries are the programs of the whole run, built when first asked for.
var binaries = struct {
	mu   sync.Mutex
	dir  string
	have map[string]error
}{have: map[string]error{}}

func TestMain(m *testing.M) {
	code := m.Run()
	if binaries.dir != "" {
		if err := os.RemoveAll(binaries.dir); err != nil {
			fmt.Fprintln(os.Stderr, "cluster:", err)
		}
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "cluster:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// built answers the path of a program, building it if nobody has yet.
func built(t testing.TB, name, program string, flags ...string) string {
	t.Helper()
	binaries.mu.Lock()
	defer binaries.mu.Unlock()
	if binaries.dir == "" {
		dir, err := os.MkdirTemp("", "relay-cluster-") //nolint:usetesting // it outlives the test that happens to build
		if err != nil {
			t.Fatal(err)
		}
		binaries.dir = dir
	}
	path := filepath.Join(binaries.dir, name)
	err, done := binaries.have[name]
	if !done {
		err = harness.Build(context.Background(), root, program, path, flags...)
		binaries.have[name] = err
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// natsServer answers the path of the NATS server, of the very version that is embedded.
func natsServer(t testing.TB) string {
	t.Helper()
	return built(t, "nats-server", "github.com/nats-io/nats-server/v2")
}

// relayOf answers the path of a replica's relay. Each has a version of its own, and so a User-Agent of its own: that is how
// receivers know who delivers.
func relayOf(t testing.TB, replica int, broken *mutant) string {
	t.Helper()
	version := versionOf(replica)
	if broken == nil {
		return built(t, "relay-"+version, "./cmd/relay", "-ldflags", "-X main.version="+version)
	}
	return built(t, "relay-"+broken.name+"-"+version, "./cmd/relay", "-ldflags", "-X main.version="+version, "-overlay", broken.overlay(t))
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
