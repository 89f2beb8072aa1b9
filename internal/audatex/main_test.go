package audatex

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vendor runs handler as the vendor's host and returns a client of it.
func vendor(t *testing.T, cfg Config, handler http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	cfg.BaseURL = srv.URL + "/AudaAPI.BMSAPI/"
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// answering gives the same response to every request.
func answering(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Correlation-Id", testCorrelation)
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

const (
	testCorrelation  = "0d9c61f8-4f86-4b6e-9f4e-6b0f0c7c1a11"
	testSubscription = "6F9619FF-8B86-D011-B42D-00CF4FC964FF"
	testOrder        = "5f0c2a34-9d1e-4c6b-8a7f-0123456789ab"
)

var testToken = relay.NewSecret("access-token-of-the-test")

// outcomeIs fails unless err has the outcome and, for anything but Done, is an *Error; it returns
// that.
func outcomeIs(t *testing.T, err error, want Outcome) *Error {
	t.Helper()
	if got := OutcomeOf(err); got != want {
		t.Fatalf("outcome %s, want %s (error: %v)", got, want, err)
	}
	e, ok := errors.AsType[*Error](err)
	if !ok && want != Done {
		t.Fatalf("%T is no *Error: %v", err, err)
	}
	return e
}

// memoryListener is a network within the process: a real socket would keep a synctest bubble from
// idling.
type memoryListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newMemoryListener() *memoryListener {
	return &memoryListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (l *memoryListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// pass lets virtual time pass. It is for synctest bubbles only.
func pass(d time.Duration) { <-time.After(d) }

// quiet is for what logs its troubles.
var quiet = slog.New(slog.DiscardHandler)

// serveInMemory runs handler until the test ends; the returned function dials it.
func serveInMemory(t *testing.T, handler http.Handler) func(context.Context, string, string) (net.Conn, error) {
	t.Helper()
	l := newMemoryListener()
	var handlers sync.WaitGroup // a bubble must not end before those a killed client left behind
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		handler.ServeHTTP(w, r)
	})
	srv := &http.Server{Handler: counted, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
		handlers.Wait()
	})
	return l.dial
}

// logBuffer collects log lines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
