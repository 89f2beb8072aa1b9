package harness

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

// Reserved is an address at which connections are refused, and which nobody else can take: a socket
// that is bound, but does not listen before wake.
type Reserved struct {
	fd   int
	addr string
}

// Reserve returns an address at which nobody listens until Wake.
func Reserve(t testing.TB) *Reserved {
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
	r := &Reserved{fd: fd}
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

// wake makes the address accept connections.
func (r *Reserved) wake(t testing.TB) net.Listener {
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

// Wake brings a dead receiver to life.
func (r *Receiver) Wake(t testing.TB) { r.Server = ServeTracked(t, r.Dead.wake(t), r) }

// Address is where deliveries go.
func (r *Receiver) Address() string {
	if r.Dead != nil {
		return r.Dead.addr
	}
	return r.Server.Addr
}
