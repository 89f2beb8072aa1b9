// Package upgrade tests that one release of the relay can be replaced by another, under load and on the same store.
// Nothing may be lost, no order may lose its order, and the mark of the formats may rise only when the last relay of
// the old release has gone. Begin reading at roll_test.go.
package upgrade

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/topology"
)

// root is the module's root, seen from the package.
var root = filepath.Join("..", "..", "..")

// builds are the programs of the whole run, by the version of the formats they write.
var builds struct {
	mu   sync.Mutex
	dir  string
	have map[int]error
}

func TestMain(m *testing.M) {
	natstest.Waiting(4)
	code := m.Run()
	if builds.dir != "" {
		if err := os.RemoveAll(builds.dir); err != nil {
			fmt.Fprintln(os.Stderr, "upgrade:", err)
		}
	}
	if code == 0 {
		if err := goleak.Find(natstest.Leftovers()...); err != nil {
			fmt.Fprintln(os.Stderr, "upgrade:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// release returns the program, as if its formats were of the version given.
func release(t *testing.T, formats int) string {
	t.Helper()
	builds.mu.Lock()
	defer builds.mu.Unlock()
	if builds.dir == "" {
		dir, err := os.MkdirTemp("", "relay-upgrade-") //nolint:usetesting // it outlives the test that happens to build
		if err != nil {
			t.Fatal(err)
		}
		builds.dir, builds.have = dir, map[int]error{}
	}
	path := filepath.Join(builds.dir, strconv.Itoa(formats))
	err, done := builds.have[formats]
	if !done {
		var flags []string
		if formats != topology.Formats {
			flags = []string{"-ldflags", fmt.Sprintf("-X github.com/audatex-relay/relay/internal/topology.formatsForTests=%d", formats)}
		}
		err = harness.Build(t.Context(), root, "./cmd/relay", path, flags...)
		builds.have[formats] = err
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
