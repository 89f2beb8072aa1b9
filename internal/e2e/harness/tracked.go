package harness

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Tracked is an HTTP server that can report when everything a dead client left behind has been
// dealt with.
type Tracked struct {
	Addr    string
	server  *http.Server
	handler http.Handler

	mu   sync.Mutex
	open map[net.Conn]bool
}

// quietPath is what Settle requests; it reaches no handler.
const quietPath = "/_quiet"

// ServeTracked serves until the test ends.
func ServeTracked(t testing.TB, l net.Listener, h http.Handler) *Tracked {
	s := &Tracked{Addr: l.Addr().String(), handler: h, open: map[net.Conn]bool{}}
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
			t.Errorf("serving %s: %v", s.Addr, err)
		}
	})
	t.Cleanup(func() {
		_ = s.server.Close()
		serving.Wait()
	})
	return s
}

// Settle waits until every connection that a dead relay had opened is closed and its requests have
// ended: what arrives from then on comes from a later run. Connections are accepted in the order in
// which they were opened, so once one of our own gets a response, all of the dead relay's are
// known.
func (s *Tracked) Settle(t testing.TB) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+s.Addr+quietPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	Eventually(t, "the connections of a dead relay close", func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.open) > 0 {
			return "some are open at " + s.Addr
		}
		return ""
	})
}

// Listen returns a listener of this machine's own.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Patience is how long a condition may take to come true on a machine that is busy with other
// things. It decides only how long a failing test takes.
const Patience = 90 * time.Second

// Eventually waits until ok returns "", and fails with what it returned last if it does not.
func Eventually(t testing.TB, what string, ok func() string) {
	t.Helper()
	began := time.Now()
	for {
		missing := ok()
		waited := time.Since(began)
		if missing == "" {
			return
		}
		if waited > Patience {
			t.Fatalf("%s: not within %s: %s", what, Patience, missing)
		}
		<-time.After(pause(waited))
	}
}

// pause is how long to wait before a condition is looked at again. It grows with the time that has
// been waited for: looking may cost the program under test more than what it is waited for.
func pause(waited time.Duration) time.Duration {
	return min(max(waited/8, 20*time.Millisecond), 500*time.Millisecond)
}
