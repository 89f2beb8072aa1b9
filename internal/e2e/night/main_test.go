package night

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
)

// root is the directory of the project.
var root = filepath.Join("..", "..", "..")

// binary is the program under test, built once.
var binary = struct {
	once sync.Once
	dir  string
	err  error
}{}

func TestMain(m *testing.M) {
	natstest.Waiting(3)
	code := m.Run()
	if binary.dir != "" {
		if err := os.RemoveAll(binary.dir); err != nil {
			fmt.Fprintln(os.Stderr, "night:", err)
		}
	}
	if code == 0 {
		if err := goleak.Find(natstest.Leftovers()...); err != nil {
			fmt.Fprintln(os.Stderr, "night:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// relayBinary returns the path of the program.
func relayBinary(t testing.TB) string {
	t.Helper()
	binary.once.Do(func() {
		if binary.dir, binary.err = os.MkdirTemp("", "relay-night-"); binary.err != nil { //nolint:usetesting // it outlives the test that happens to build it
			return
		}
		binary.err = harness.Build(context.Background(), root, "./cmd/relay", filepath.Join(binary.dir, "relay"))
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return filepath.Join(binary.dir, "relay")
}
