package e2e

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// tracked is an HTTP server that can tell when everything a dead client left behind has been dealt with.
type tracked struct {
	addr    string
	server  *http.Server
	handler http.Handler

	mu   sync.Mutex
	open map[net.Conn]bool
}

// quietPath is what settle asks for; it reaches no handler.
const quietPath = "/_quiet"

// serveTracked serves until the test ends.
func serveTracked(t testing.TB, l net.Listener, h http.Handler) *tracked {
	s := &tracked{addr: l.Addr().String(), handler: h, open: map[net.Conn]bool{}}
	s.server = &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == quietPath {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			h.ServeHTTP(w, r)
		}),
		ConnState: func(c net.Conn, state http.ConnState) {
			s.mu.Lock()
			defer s.mu.Unlock()
			switch state {
			case http.StateNew:
				s.open[c] = true
			case http.StateClosed, http.StateHijacked:
				delete(s.open, c)
			case http.StateActive, http.StateIdle:
			}
		},
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serving %s: %v", s.addr, err)
		}
	})
	t.Cleanup(func() {
		_ = s.server.Close()
		serving.Wait()
	})
	return s
}

// settle waits until every connection that a dead relay had opened is closed and its requests have ended: what
// arrives from then on comes of a later run. Connections are accepted in the order in which they were opened, so
// once one of our own has been answered all of the dead one's are known.
func (s *tracked) settle(t testing.TB) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+s.addr+quietPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	eventually(t, "the connections of a dead relay close", func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.open) > 0 {
			return "some are open at " + s.addr
		}
		return ""
	})
}
