package cluster

import (
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// replica is one of the relays. It may die and start again.
type replica struct {
	t       *testing.T
	number  int
	program string
	env     map[string]string
	book    harness.Logbook

	process *harness.Process
	away    bool // suspended or cut off: no requests should go to it
}

// begin starts the relay without waiting for it.
func (r *replica) begin() {
	r.t.Helper()
	env := make([]string, 0, len(r.env))
	for _, name := range slices.Sorted(maps.Keys(r.env)) {
		env = append(env, name+"="+r.env[name])
	}
	r.process = harness.StartProcess(r.t, r.program, []string{"serve"}, env, &r.book)
}

// awaitServing waits until the relay reports that it serves.
func (r *replica) awaitServing() {
	r.t.Helper()
	r.process.AwaitServing(r.t, fmt.Sprint("replica ", r.number))
}

// signal sends a signal to the relay, which must be there.
func (r *replica) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.process.Cmd.Process.Signal(s); err != nil {
		r.t.Fatalf("replica %d was gone: %v\n%s", r.number, err, r.book.Tail(40))
	}
}

// kill ends the relay with SIGKILL and waits until it is gone.
func (r *replica) kill() {
	r.t.Helper()
	r.signal(syscall.SIGKILL)
	if code := r.process.ExitCode(r.t); code != -1 {
		r.t.Fatalf("replica %d ended with code %d before it was killed\n%s", r.number, code, r.book.Tail(40))
	}
}

// stop ends the relay with SIGTERM and waits until it is gone.
func (r *replica) stop() {
	r.t.Helper()
	r.signal(syscall.SIGTERM)
	if code := r.process.ExitCode(r.t); code != 0 {
		r.t.Errorf("replica %d: exit code %d after SIGTERM\n%s", r.number, code, r.book.Tail(40))
	}
}

// suspend stops the process where it is, resume lets it go on.
func (r *replica) suspend() {
	r.t.Helper()
	r.signal(syscall.SIGSTOP)
	r.away = true
}

func (r *replica) resume() {
	r.t.Helper()
	r.signal(syscall.SIGCONT)
	r.away = false
}

// serving reports whether requests can be sent to it.
func (r *replica) serving() bool {
	if r.process == nil || r.away {
		return false
	}
	select {
	case <-r.process.Exited:
		return false
	default:
	}
	select {
	case <-r.process.Serves:
		return true
	default:
		return false
	}
}
