package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
)

// binary is the program under test: built once for the whole run, and without the race detector,
// which would change the moments that kills hit.
var binary = struct {
	once sync.Once
	dir  string
	err  error
}{}

func TestMain(m *testing.M) {
	natstest.Waiting(6)
	if err := flag.Set("rapid.checks", strconv.Itoa(natstest.Long(20, 100))); err != nil { // each makes a replay
		panic(err)
	}
	code := m.Run()
	if binary.dir != "" {
		if err := os.RemoveAll(binary.dir); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
	}
	if code == 0 {
		if err := goleak.Find(natstest.Leftovers()...); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// relayBinary returns the path of the program.
func relayBinary(t testing.TB) string {
	t.Helper()
	binary.once.Do(func() {
		if binary.dir, binary.err = os.MkdirTemp("", "relay-e2e-"); binary.err != nil { //nolint:usetesting // it outlives the test that happens to build it
			return
		}
		binary.err = harness.Build(context.Background(), filepath.Join("..", ".."), "./cmd/relay", filepath.Join(binary.dir, "relay"))
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return filepath.Join(binary.dir, "relay")
}
