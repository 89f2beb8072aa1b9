package ingress

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

// remote is a connection that comes from an address of the test's choice.
type remote struct {
	net.Conn
	addr   net.Addr
	closed atomic.Bool
}

func (r *remote) RemoteAddr() net.Addr { return r.addr }
func (r *remote) Close() error         { r.closed.Store(true); return r.Conn.Close() }

// script is a listener that accepts what it is given.
type script struct {
	results chan any // net.Conn or error
	done    chan struct{}
	once    sync.Once
}

func newScript() *script { return &script{results: make(chan any), done: make(chan struct{})} }

func (s *script) Accept() (net.Conn, error) {
	select {
	case r := <-s.results:
		if err, ok := r.(error); ok {
			return nil, err
		}
		return r.(net.Conn), nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}
func (s *script) Close() error   { s.once.Do(func() { close(s.done) }); return nil }
func (s *script) Addr() net.Addr { return &net.TCPAddr{} }

// dial makes a connection from an address; the other end is the client's.
func dial(addr string) (*remote, net.Conn) {
	server, client := net.Pipe()
	return &remote{Conn: server, addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))}, client
}

func bounded(inner net.Listener, b Bounds) *Listener {
	return NewListener(inner, "api", b, NewMetrics(nil), slog.New(slog.DiscardHandler))
}

func TestAListenerKeepsItsBoundsWhateverHappens(t *testing.T) {
	t.Parallel()
	proxies := Proxies{netip.MustParsePrefix("10.9.0.0/16")}
	rapid.Check(t, func(t *rapid.T) {
		b := Bounds{Total: rapid.IntRange(1, 12).Draw(t, "total"), PerAddress: rapid.IntRange(1, 6).Draw(t, "each"),
			Exempt: proxies}
		l := bounded(newScript(), b)
		var live []*conn
		atWork := map[*conn]bool{}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch op := rapid.IntRange(0, 5).Draw(t, "op"); {
			case op <= 2 || len(live) == 0:
				addr := rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.2", "[2001:db8::1]", "[2001:db8::ffff:2]",
					"10.9.1.1"}).Draw(t, "from")
				r, _ := dial(addr + ":1000")
				before := len(live)
				c := l.admit(r)
				if c != nil {
					live = append(live, c)
				}
				still := live[:0:0]
				for _, c := range live {
					switch closed := c.Conn.(*remote).closed.Load(); {
					case closed && atWork[c]:
						t.Fatal("a connection at work was closed for another")
					case !closed:
						still = append(still, c)
					}
				}
				live = still
				if c == nil && (before < b.Total && addr == "10.9.1.1" || before == 0) {
					t.Fatalf("refused although there was room: %d of %d open", before, b.Total)
				}
			case op == 3:
				c := rapid.SampledFrom(live).Draw(t, "closing")
				_ = c.Close()
				_ = c.Close()
				for i := range live {
					if live[i] == c {
						live = append(live[:i:i], live[i+1:]...)
						break
					}
				}
			default:
				c := rapid.SampledFrom(live).Draw(t, "changing")
				to := rapid.SampledFrom([]state{idle, stalled, working, working}).Draw(t, "to")
				atWork[c] = to == working
				c.enter(to)
			}
			each := map[netip.Prefix]int{}
			for _, c := range live {
				each[c.of.key]++
			}
			if l.count() != len(live) || len(live) > b.Total {
				t.Fatalf("%d counted, %d open, %d allowed", l.count(), len(live), b.Total)
			}
			for key, n := range each {
				if n > b.PerAddress && !proxies.Contains(key.Addr()) {
					t.Fatalf("%s has %d connections", key, n)
				}
			}
			if len(each) != len(l.networks) {
				t.Fatalf("%d networks are remembered, %d have connections", len(l.networks), len(each))
			}
		}
	})
}

func TestIdleConnectionsOfAStrangerGiveWay(t *testing.T) {
	t.Parallel()
	l := bounded(newScript(), Bounds{Total: 10, PerAddress: 8})
	var stranger []*remote
	for range 8 {
		r, _ := dial("192.0.2.66:1")
		stranger = append(stranger, r)
		if l.admit(r) == nil {
			t.Fatal("refused below the bounds")
		}
	}
	l.networks[Network(netip.MustParseAddr("192.0.2.66"))].victim().enter(working) // one is at work
	for i := range 6 {
		r, _ := dial(fmt.Sprintf("198.51.100.%d:1", i))
		if l.admit(r) == nil {
			t.Fatal("others are locked out by connections that do nothing")
		}
	}
	closed := 0
	for _, r := range stranger {
		if r.closed.Load() {
			closed++
		}
	}
	if closed != 4 || stranger[0].closed.Load() || !stranger[1].closed.Load() {
		t.Errorf("%d of the stranger's are closed", closed)
	}
}

func TestAcceptErrorsDoNotEndAListener(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		inner := newScript()
		l := bounded(inner, Bounds{Total: 10, PerAddress: 8})
		accepted := make(chan error)
		go func() {
			_, err := l.Accept()
			accepted <- err
			_, err = l.Accept()
			accepted <- err
		}()
		for _, err := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPERM,
			errors.New("odd")} {
			inner.results <- &net.OpError{Op: "accept", Err: err}
		}
		r, _ := dial("192.0.2.1:1")
		inner.results <- r
		if err := <-accepted; err != nil {
			t.Errorf("accept: %v", err)
		}
		inner.results <- errors.New("odd")
		_ = l.Close() // while it waits to try again
		if err := <-accepted; !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// A request in the middle of its head does not keep its connection from being closed, one that is
// being served does; and a response arrives whole.
func TestServeTellsWhichConnectionsAreAtWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		inner := newScript()
		l := bounded(inner, Bounds{Total: 2, PerAddress: 2})
		release := make(chan struct{})
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			<-release
			_, _ = io.WriteString(w, strings.Repeat("x", 1<<16))
		})}
		ended := make(chan error)
		go func() { ended <- l.Serve(server) }()

		busy, busyEnd := dial("192.0.2.1:1")
		inner.results <- busy
		_, _ = io.WriteString(busyEnd, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		half, halfEnd := dial("192.0.2.2:1")
		inner.results <- half
		_, _ = io.WriteString(halfEnd, "GET / HTTP/1.1\r\nHo")
		synctest.Wait()
		third, _ := dial("192.0.2.3:1")
		inner.results <- third
		synctest.Wait()
		if busy.closed.Load() || !half.closed.Load() || third.closed.Load() {
			t.Errorf("closed: at work %v, half a request %v, new %v", busy.closed.Load(), half.closed.Load(),
				third.closed.Load())
		}
		close(release)
		answer, err := http.ReadResponse(bufio.NewReader(busyEnd), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(answer.Body); err != nil || len(body) != 1<<16 {
			t.Errorf("the answer has %d bytes: %v", len(body), err)
		}
		synctest.Wait()
		var fresh []*remote
		for i := range 2 { // of those that do nothing, the ones that never sent a request go first
			r, _ := dial(fmt.Sprintf("192.0.2.%d:1", 10+i))
			fresh = append(fresh, r)
			inner.results <- r
			synctest.Wait()
		}
		if busy.closed.Load() || !third.closed.Load() || !fresh[0].closed.Load() || fresh[1].closed.Load() {
			t.Errorf("closed: idle %v, fresh %v %v %v", busy.closed.Load(), third.closed.Load(), fresh[0].closed.Load(),
				fresh[1].closed.Load())
		}
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// A caller that stops sending its request or reading the response does not lock out others,
// although its request has begun.
func TestConnectionsThatWaitForTheirCallersGiveWay(t *testing.T) {
	t.Parallel()
	const head = "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx"
	for name, request := range map[string]string{
		"a body that the handler reads":            fmt.Sprintf(head, "/read"),
		"a body that is left when it has answered": fmt.Sprintf(head, "/refuse"),
		"an answer that is not read":               "GET /large HTTP/1.1\r\nHost: a\r\n\r\n",
		"one that lets others go first":            "GET /pause HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				inner := newScript()
				l := bounded(inner, Bounds{Total: 3, PerAddress: 3})
				server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/read":
						_, _ = io.Copy(io.Discard, r.Body)
					case "/large":
						_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
					case "/pause":
						resume := Pause(r.Context())
						<-r.Context().Done()
						resume()
					}
				})}
				ended := make(chan error)
				go func() { ended <- l.Serve(server) }()
				var held []*remote
				for i := range 3 {
					r, end := dial(fmt.Sprintf("192.0.2.%d:1", i))
					held = append(held, r)
					inner.results <- r
					_, _ = io.WriteString(end, request)
					synctest.Wait()
				}
				for i := range 2 { // the first is answered, and then idle, which counts for more than to be stalled
					r, end := dial(fmt.Sprintf("198.51.100.%d:1", i))
					inner.results <- r
					if _, err := io.WriteString(end, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
						t.Fatalf("a connection was refused: %v", err)
					}
					answer, err := http.ReadResponse(bufio.NewReader(end), nil)
					if err != nil || answer.StatusCode != http.StatusOK {
						t.Fatalf("no answer: %v", err)
					}
					synctest.Wait()
				}
				if !held[0].closed.Load() || !held[1].closed.Load() || held[2].closed.Load() {
					t.Errorf("closed: %v %v %v; want the two oldest", held[0].closed.Load(), held[1].closed.Load(),
						held[2].closed.Load())
				}
				_ = server.Close()
				if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
					t.Error(err)
				}
			})
		})
	}
}

// A connection that has just come has the time to send its request, however many others stall
// theirs.
func TestNewConnectionsOutliveStalledOnes(t *testing.T) {
	t.Parallel()
	l := bounded(newScript(), Bounds{Total: 8, PerAddress: 8})
	for range 8 {
		r, _ := dial("192.0.2.66:1")
		l.admit(r).enter(stalled)
	}
	r, _ := dial("192.0.2.66:1")
	l.admit(r)
	for range 6 {
		other, _ := dial("192.0.2.66:1")
		l.admit(other).enter(stalled)
	}
	if r.closed.Load() {
		t.Error("a new connection was closed for requests that do not go on")
	}
}
