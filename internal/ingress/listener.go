package ingress

import (
	"container/list"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
)

// The waits after a connection could not be accepted, for example because the process has no free
// descriptors.
const (
	acceptRetryFirst = 5 * time.Millisecond
	acceptRetryMost  = time.Second
	// acceptLineEvery is how often that, and refused connections, are logged.
	acceptLineEvery = time.Minute
)

// Bounds are the limits of a listener's connections.
type Bounds struct {
	Total      int // connections in total
	PerAddress int // connections per network (see Network)
	// Exempt are proxies. They act for many callers and have no limit per address.
	Exempt Proxies
}

// Listener limits the connections of another listener. When there is no room for a new connection,
// an inactive one is closed to make room: of the network with the most connections, the oldest in
// the state that most of them are in (see state). If all connections are active, the new one is
// closed at once. Connections that do nothing, or whose callers neither send nor read on, can
// therefore never lock out others. Accept never fails while the listener is open.
type Listener struct {
	net.Listener
	name   string
	bounds Bounds
	log    *slog.Logger
	counts *counts

	open  context.Context // until Close
	close context.CancelFunc

	mu       sync.Mutex
	conns    int    // that are open
	listed   uint64 // how often a connection has been put in a list
	networks map[netip.Prefix]*network
	lastLine time.Time // when a refused connection was last logged
	unlogged int
}

// NewListener limits the connections of a listener. The name is used in the log and in the metrics.
func NewListener(inner net.Listener, name string, b Bounds, metrics *Metrics, log *slog.Logger) *Listener {
	l := &Listener{
		Listener: inner, name: name, bounds: b, log: log, networks: map[netip.Prefix]*network{},
	}
	l.open, l.close = context.WithCancel(context.Background())
	l.counts = metrics.listener(name, b.Total, l.count)
	return l
}

// Serve serves HTTP on the listener, as http.Server.Serve does.
func (l *Listener) Serve(server *http.Server) error {
	inner := server.Handler
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*conn); ok {
			c.enter(working)
			if r.Body != nil && r.Body != http.NoBody {
				r.Body = body{r.Body, c}
			}
			defer c.enter(stalled) // the server is still writing the response, and reading the rest of the body
		}
		inner.ServeHTTP(w, r)
	})
	server.ConnState = func(nc net.Conn, to http.ConnState) {
		if c, ok := nc.(*conn); ok && to == http.StateIdle {
			c.enter(idle)
		}
	}
	return server.Serve(l)
}

// body is a request's body. While it is being read, its connection waits for the caller.
type body struct {
	io.ReadCloser
	c *conn
}

func (b body) Read(p []byte) (int, error) {
	before := b.c.enter(stalled)
	defer b.c.enter(before)
	return b.ReadCloser.Read(p)
}

type connKey struct{}

// Pause marks the request of a context as inactive until resume is called, because its caller has
// too many others under way. Meanwhile its connection may be closed for another.
func Pause(ctx context.Context) (resume func()) {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return func() {}
	}
	before := c.enter(stalled)
	return func() { c.enter(before) }
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for wait := acceptRetryFirst; ; {
		inner, err := l.Listener.Accept()
		if err != nil {
			if l.open.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil, err
			}
			l.counts.failed.Inc()
			l.warn("a connection could not be accepted; trying again", "error", err)
			if !backoff.Sleep(l.open, wait) {
				return nil, net.ErrClosed
			}
			wait = min(2*wait, acceptRetryMost)
			continue
		}
		wait = acceptRetryFirst
		if c := l.admit(inner); c != nil {
			return c, nil
		}
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.close()
	return l.Listener.Close()
}

func (l *Listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns
}

// warn logs at most one problem in each acceptLineEvery.
func (l *Listener) warn(what string, args ...any) {
	l.mu.Lock()
	now := time.Now()
	if !l.lastLine.IsZero() && now.Sub(l.lastLine) < acceptLineEvery {
		l.unlogged++
		l.mu.Unlock()
		return
	}
	more := l.unlogged
	l.lastLine, l.unlogged = now, 0
	l.mu.Unlock()
	l.log.Warn(what, append([]any{"listener", l.name, "more_since_last_line", more}, args...)...)
}

// admit registers a connection, or closes it and returns nil.
func (l *Listener) admit(inner net.Conn) *conn {
	c := &conn{Conn: inner, l: l, state: working} // in no list yet
	addr := AddrOf(inner.RemoteAddr())
	l.mu.Lock()
	victim, reason := l.room(Network(addr))
	if reason != "" {
		l.mu.Unlock()
		_ = inner.Close()
		l.counts.refused[reason].Inc()
		l.warn("a connection was refused: there are too many", "reason", reason, "remote", addr.String())
		return nil
	}
	if victim != nil {
		l.remove(victim)
	}
	c.of = l.networks[Network(addr)]
	if c.of == nil {
		c.of = &network{key: Network(addr), exempt: l.bounds.Exempt.Contains(addr)}
		for state := range c.of.lists {
			c.of.lists[state] = list.New()
		}
		l.networks[c.of.key] = c.of
	}
	c.of.open++
	c.list(fresh)
	l.conns++
	l.mu.Unlock()
	if victim != nil {
		_ = victim.Conn.Close()
		l.counts.evicted.Inc()
		l.warn("a connection that did nothing was closed to make room for another",
			"remote", AddrOf(victim.RemoteAddr()).String())
	}
	return c
}

// remove stops counting a connection, once. The caller must hold mu.
func (l *Listener) remove(c *conn) {
	if c.state == closing {
		return
	}
	c.list(closing)
	c.of.open--
	l.conns--
	if c.of.open == 0 {
		delete(l.networks, c.of.key)
	}
}

// conn is a connection that is counted until it is closed.
type conn struct {
	net.Conn
	l  *Listener
	of *network

	// Guarded by the listener's mu.
	state state
	at    *list.Element // in of.lists[state], or nil
	since uint64        // orders connections by the time at which they entered their state
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.l.mu.Lock()
	c.l.remove(c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// Write implements net.Conn. While it runs, the connection waits for the caller to read.
func (c *conn) Write(p []byte) (int, error) {
	before := c.enter(stalled)
	defer c.enter(before)
	return c.Conn.Write(p)
}

// enter moves the connection to a state and returns the previous one. If the state stays the same,
// so does its age.
func (c *conn) enter(to state) (before state) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if before = c.state; before != to && before != closing {
		c.list(to)
	}
	return before
}

// list puts the connection at the end of a state's list. The caller must hold mu.
func (c *conn) list(to state) {
	if c.at != nil {
		c.of.lists[c.state].Remove(c.at)
		c.at = nil
	}
	c.l.listed++
	c.state, c.since = to, c.l.listed
	if to < working {
		c.at = c.of.lists[to].PushBack(c)
	}
}

// requestGrace is how long a request under way may take to end once its server stops.
const requestGrace = time.Second

// Serve serves HTTP on a listener, a Listener or any other, until ctx ends, then gives requests
// under way a second to end.
func Serve(ctx context.Context, server *http.Server, listener net.Listener) error {
	ended := make(chan error, 1)
	go func() {
		if bounded, ok := listener.(*Listener); ok {
			ended <- bounded.Serve(server)
			return
		}
		ended <- server.Serve(listener)
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestGrace)
	defer cancel()
	if err := server.Shutdown(stopping); err != nil {
		_ = server.Close() // what is still open was given its time
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
