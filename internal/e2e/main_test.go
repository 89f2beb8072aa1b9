package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// binary is the program under test: built once for the whole run, and without the race detector, which would change the
// moments that kills hit.
var binary = struct {
	once sync.Once
	dir  string
	err  error
}{}

func TestMain(m *testing.M) {
	code := m.Run()
	if binary.dir != "" {
		if err := os.RemoveAll(binary.dir); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
	}
	if code == 0 {
		if err := goleak.Find(
			// Loops of the embedded NATS server's packages that live as long as the process (remains_test.go starts one).
			goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*consumer).setActive"),
			goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
		); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// relayBinary answers the path of the program.
func relayBinary(t testing.TB) string {
	t.Helper()
	binary.once.Do(func() {
		if binary.dir, binary.err = os.MkdirTemp("", "relay-e2e-"); binary.err != nil { //nolint:usetesting // it outlives the test that happens to build it
			return
		}
		cmd := exec.CommandContext(context.Background(), "go", "build", "-o", filepath.Join(binary.dir, "relay"), "./cmd/relay")
		cmd.Dir = filepath.Join("..", "..")
		if out, err := cmd.CombinedOutput(); err != nil {
			binary.err = fmt.Errorf("go build ./cmd/relay: %w\n%s", err, out)
		}
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return filepath.Join(binary.dir, "relay")
}

// patience is how long a condition may take to come true on a machine that is busy with other things. It decides only how
// long a failing test takes.
const patience = 90 * time.Second

// eventually waits until ok answers "", and fails with its last answer if it does not.
func eventually(t testing.TB, what string, ok func() string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		missing := ok()
		if missing == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: not within %s: %s", what, patience, missing)
		}
	}
}
