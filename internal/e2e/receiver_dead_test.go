package e2e

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

// reserved is an address at which connections are refused, and which is nobody else's: a socket that is bound, but does
// not listen before wake.
type reserved struct {
	fd   int
	addr string
}

func reserve(t testing.TB) *reserved {
	t.Helper()
	syscall.ForkLock.RLock() // no child may inherit it
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	r := &reserved{fd: fd}
	t.Cleanup(func() {
		if r.fd >= 0 {
			_ = syscall.Close(r.fd)
		}
	})
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	r.addr = fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port) //nolint:forcetypeassert // what was bound
	return r
}

// wake lets the address answer.
func (r *reserved) wake(t testing.TB) net.Listener {
	t.Helper()
	if err := syscall.Listen(r.fd, 128); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(r.fd), "reserved")
	r.fd = -1
	l, err := net.FileListener(f)
	_ = f.Close() // the listener has a copy
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// newDeadReceiver makes a receiver at which connections are refused until wake.
func (w *world) newDeadReceiver(id string, settings map[string]any) *receiver {
	r := &receiver{id: id, behave: healthy, world: w, settings: settings, bodies: map[string][]byte{}, dead: reserve(w.t)}
	w.receivers = append(w.receivers, r)
	return r
}

// wake brings a dead receiver to life.
func (r *receiver) wake() { r.server = serveTracked(r.world.t, r.dead.wake(r.world.t), r) }

// address is where deliveries go.
func (r *receiver) address() string {
	if r.dead != nil {
		return r.dead.addr
	}
	return r.server.addr
}
