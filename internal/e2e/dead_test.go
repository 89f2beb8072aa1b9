package e2e

import (
	"net"
	"os"
	"syscall"
	"testing"
)

// reserve returns an address at which connections are refused until wake, and which nobody else can
// take: that of a socket that is bound, but does not listen.
func reserve(t testing.TB) (addr string, wake func() net.Listener) {
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
	t.Cleanup(func() {
		if fd >= 0 {
			_ = syscall.Close(fd)
		}
	})
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	//nolint:forcetypeassert // what was bound
	bound := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}
	return bound.String(), func() net.Listener {
		t.Helper()
		if err := syscall.Listen(fd, 128); err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "reserved")
		fd = -1
		l, err := net.FileListener(f)
		_ = f.Close() // the listener has a copy
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
}
