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
)

// The waits after a connection could not be accepted: the process may be out of descriptors for a while.
const (
	acceptRetryFirst = 5 * time.Millisecond
	acceptRetryMost  = time.Second
	// acceptLineEvery is how often the log tells of that, and of connections that were refused.
	acceptLineEvery = time.Minute
)

// Bounds of a listener's connections.
type Bounds struct {
	Total      int // connections in all
	PerAddress int // connections of one network (see Network)
	// Exempt are proxies: they speak for many, so they have no bound per address.
	Exempt Proxies
}

// Listener bounds the connections of another listener. When there is no room for a new connection, one on which the relay
// does nothing is closed to make room: of the network that has the most, the oldest of the kind that it has most of (see
// state). Where all of them are at work the new connection is closed at once. So connections that do nothing, or whose
// requests never end because their callers neither send nor read on, keep nobody out, however many. Accept never fails
// while the listener is open.
type Listener struct {
	net.Listener
	name   string
	bounds Bounds
	log    *slog.Logger
	counts *counts

	closed chan struct{}
	once   sync.Once

	mu       sync.Mutex
	open     int
	listed   uint64 // how often a connection has entered a list
	networks map[netip.Prefix]*network
	told     time.Time // when refused connections were last logged
	untold   int
}

// state is what a connection does. In the first three it only waits for its caller, and may be closed for another.
type state int

const (
	fresh   state = iota // no whole head of a request has come
	idle                 // between two requests
	stalled              // the rest of a request's body is to come, or an answer is to be taken; or see Pause
	working
	closing // closed, or about to be: it is counted no more
)

// network is what one network has of a listener's connections.
type network struct {
	key    netip.Prefix
	exempt bool
	open   int
	lists  [working]*list.List // of *conn in each state in which it may be closed, the oldest in front
}

// NewListener bounds a listener. The name stands in the log and in the metrics.
func NewListener(inner net.Listener, name string, b Bounds, metrics *Metrics, log *slog.Logger) *Listener {
	l := &Listener{
		Listener: inner, name: name, bounds: b, log: log, closed: make(chan struct{}), networks: map[netip.Prefix]*network{},
	}
	l.counts = metrics.listener(name, b.Total, l.count)
	return l
}

// Serve serves HTTP on the listener, as http.Server.Serve does.
func (l *Listener) Serve(server *http.Server) error {
	inner := server.Handler
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*conn); ok {
			c.enter(working)
			if r.Body != nil && r.Body != http.NoBody {
				r.Body = body{r.Body, c}
			}
			defer c.enter(stalled) // the server still writes the answer, and reads what is left of the body
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

// body is a request's body. While it is read, its connection waits for the caller.
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

// Pause says that the request of a context does nothing until resume is called, as its caller has too many others under
// way: meanwhile its connection may be closed for another.
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
			if l.isClosed() || errors.Is(err, net.ErrClosed) {
				return nil, err
			}
			l.counts.failed.Inc()
			l.tell("a connection could not be accepted; trying again", "error", err)
			if !l.pause(wait) {
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
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

func (l *Listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// pause waits for d; false says that the listener was closed.
func (l *Listener) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.closed:
		return false
	case <-t.C:
		return true
	}
}

func (l *Listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// tell logs at most one line of trouble in each acceptLineEvery.
func (l *Listener) tell(what string, args ...any) {
	l.mu.Lock()
	now := time.Now()
	if !l.told.IsZero() && now.Sub(l.told) < acceptLineEvery {
		l.untold++
		l.mu.Unlock()
		return
	}
	more := l.untold
	l.told, l.untold = now, 0
	l.mu.Unlock()
	l.log.Warn(what, append([]any{"listener", l.name, "more_since_last_line", more}, args...)...)
}

// admit takes a connection in, or closes it and returns nil.
func (l *Listener) admit(inner net.Conn) *conn {
	c := &conn{Conn: inner, l: l, state: working} // in no list yet
	addr := AddrOf(inner.RemoteAddr())
	l.mu.Lock()
	victim, reason := l.room(Network(addr))
	if reason != "" {
		l.mu.Unlock()
		_ = inner.Close()
		l.counts.refused[reason].Inc()
		l.tell("a connection was refused: there are too many", "reason", reason, "remote", addr.String())
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
	l.open++
	l.mu.Unlock()
	if victim != nil {
		_ = victim.Conn.Close()
		l.counts.evicted.Inc()
		l.tell("a connection that did nothing was closed to make room for another", "remote", AddrOf(victim.RemoteAddr()).String())
	}
	return c
}

// The reasons for which a connection is refused.
const (
	refusedTotal   = "total"
	refusedAddress = "address"
)

// room returns the connection to be closed for a new one of a network, nil if there is room without, or why there is
// none. mu is held.
func (l *Listener) room(key netip.Prefix) (victim *conn, reason string) {
	own := l.networks[key]
	if own != nil && !own.exempt && own.open >= l.bounds.PerAddress {
		if victim = own.victim(); victim == nil {
			return nil, refusedAddress
		}
		return victim, ""
	}
	if l.open < l.bounds.Total {
		return nil, ""
	}
	most := l.largest(own)
	switch {
	case most == nil:
		return nil, refusedTotal
	case own != nil && !own.exempt && (own.open > most.open || most.exempt):
		// Who has more than anybody who could give something up must not grow at their cost.
		if victim = own.victim(); victim == nil {
			return nil, refusedTotal
		}
		return victim, ""
	}
	return most.victim(), ""
}

// largest returns the network with the most connections, of those that have one that may be closed. Proxies speak for
// many, so theirs come last. Of equals it is the new connection's own, or else the one whose connection is missed least.
// mu is held.
func (l *Listener) largest(own *network) *network {
	var most *network
	for _, n := range l.networks {
		if n.victim() == nil {
			continue
		}
		switch {
		case most == nil, most.exempt && !n.exempt:
			most = n
		case n.exempt && !most.exempt:
		case n.open > most.open, n.open == most.open && (n == own || most != own && n.victim().before(most.victim())):
			most = n
		}
	}
	return most
}

// before reports whether a connection that may be closed is missed less than another of another network.
func (c *conn) before(other *conn) bool {
	if (c.state == idle) != (other.state == idle) {
		return other.state == idle
	}
	return c.since < other.since
}

// victim returns the connection of the network that is missed least: the oldest of the state that most are in, and of
// equally many first one that never sent a request, then an idle one. So connections that come to stay in one state push
// out one another: a new connection has the time to send its request, and a request the time to come and to be answered.
// Nil: all of them are at work. The listener's mu is held.
func (n *network) victim() *conn {
	most := n.lists[fresh]
	for _, of := range n.lists[1:] {
		if of.Len() > most.Len() {
			most = of
		}
	}
	if e := most.Front(); e != nil {
		return e.Value.(*conn)
	}
	return nil
}

// remove takes a connection out of the books, once. mu is held.
func (l *Listener) remove(c *conn) {
	if c.state == closing {
		return
	}
	c.list(closing)
	c.of.open--
	l.open--
	if c.of.open == 0 {
		delete(l.networks, c.of.key)
	}
}

// conn is a connection that counts until it is closed.
type conn struct {
	net.Conn
	l  *Listener
	of *network

	// The listener's mu guards these.
	state state
	at    *list.Element // in of.lists[state], if it has one
	since uint64        // orders the times at which connections entered their states
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.l.mu.Lock()
	c.l.remove(c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// Write implements net.Conn. While it lasts the connection waits for the caller to read.
func (c *conn) Write(p []byte) (int, error) {
	before := c.enter(stalled)
	defer c.enter(before)
	return c.Conn.Write(p)
}

// enter moves the connection to a state, and returns the one it was in. One that stays in its state keeps its age.
func (c *conn) enter(to state) (before state) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if before = c.state; before != to && before != closing {
		c.list(to)
	}
	return before
}

// list puts the connection at the end of a state's list. mu is held.
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
