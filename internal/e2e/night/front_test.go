package night

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// front is a server whose address stays while it is away: connections are refused then.
type front struct {
	t       testing.TB
	addr    string
	handler http.Handler
	tls     *tls.Config // nil: plain

	mu      sync.Mutex
	server  *http.Server
	serving sync.WaitGroup
}

// newFront serves until the test ends.
func newFront(t testing.TB, handler http.Handler, secured *tls.Config) *front {
	t.Helper()
	l := harness.Listen(t)
	f := &front{t: t, addr: l.Addr().String(), handler: handler, tls: secured}
	f.serve(l)
	t.Cleanup(f.close)
	return f
}

func (f *front) serve(l net.Listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	server := &http.Server{Handler: f.handler, ReadHeaderTimeout: time.Minute, TLSConfig: f.tls}
	f.server = server
	f.serving.Go(func() {
		serve := server.Serve
		if f.tls != nil {
			serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
		}
		if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
			f.t.Errorf("serving %s: %v", f.addr, err)
		}
	})
}

// close refuses connections from now on, and ends those there are.
func (f *front) close() {
	f.mu.Lock()
	_ = f.server.Close()
	f.mu.Unlock()
	f.serving.Wait()
}

// open accepts connections again.
func (f *front) open() {
	f.t.Helper()
	harness.Eventually(f.t, "the address "+f.addr+" is free", func() string {
		l, err := net.Listen("tcp", f.addr)
		if err != nil {
			return err.Error()
		}
		f.serve(l)
		return ""
	})
}
