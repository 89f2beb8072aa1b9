package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// Programs are what the tests of a package run as child processes. Each is made when it is first
// asked for, once for the whole run.
type Programs struct {
	mu   sync.Mutex
	dir  string
	made map[string]error
}

// Relay returns the path of the relay, whose last element is relay. Root is the module's.
func (p *Programs) Relay(t testing.TB, root string) string {
	t.Helper()
	return p.Made(t, "relay", func(path string) error { return Build(context.Background(), root, "./cmd/relay", path) })
}

// Made returns the path of a program, and calls make if it is not there yet.
func (p *Programs) Made(t testing.TB, name string, make func(path string) error) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir == "" {
		dir, err := os.MkdirTemp("", "relay-programs-") //nolint:usetesting // it outlives the test
		if err != nil {
			t.Fatal(err)
		}
		p.dir, p.made = dir, map[string]error{}
	}
	path := filepath.Join(p.dir, name)
	err, done := p.made[name]
	if !done {
		err = make(path)
		p.made[name] = err
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Run runs the tests of a package, removes the programs, and returns the exit code.
func (p *Programs) Run(m *testing.M) int {
	code := m.Run()
	if err := os.RemoveAll(p.dir); err != nil {
		fmt.Fprintln(os.Stderr, "remove the programs of the tests:", err)
	}
	return code
}

// FindLeaks returns the exit code of tests. If they have passed, and goroutines are left that should
// not be, it prints these and returns 1.
func FindLeaks(code int, except ...goleak.Option) int {
	if code != 0 {
		return code
	}
	if err := goleak.Find(except...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
