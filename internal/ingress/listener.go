package ingress

import (
	"container/list"
	"context"
	"errors"
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

// Listener bounds the connections of another listener. When there is no room for a new connection, one that serves no
// request is closed to make room: of the network that has the most, first one that never sent a whole request, then the
// one that has been idle for longest. Where all of them are at work the new connection is closed at once. So idle
// connections, however many, keep nobody out. Accept never fails while the listener is open.
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

// network is what one network has of a listener's connections. Those that serve a request are in neither list.
type network struct {
	key    netip.Prefix
	exempt bool
	open   int
	fresh  *list.List // of *conn that have not sent a whole request, the oldest in front
	idle   *list.List // of *conn between two requests, the one idle for longest in front
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
			c.begin()
		}
		inner.ServeHTTP(w, r)
	})
	server.ConnState = func(nc net.Conn, state http.ConnState) {
		if c, ok := nc.(*conn); ok && state == http.StateIdle { // not when the handler returns: the answer is written after that
			c.end()
		}
	}
	return server.Serve(l)
}

type connKey struct{}

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
	c := &conn{Conn: inner, l: l}
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
		c.of = &network{key: Network(addr), exempt: l.bounds.Exempt.Contains(addr), fresh: list.New(), idle: list.New()}
		l.networks[c.of.key] = c.of
	}
	c.list(c.of.fresh)
	c.of.open++
	l.open++
	l.mu.Unlock()
	if victim != nil {
		_ = victim.Conn.Close()
		l.counts.evicted.Inc()
		l.tell("an idle connection was closed to make room for another", "remote", AddrOf(victim.RemoteAddr()).String())
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

// largest returns the network with the most connections, of those that have one without a request. Proxies speak for
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

// before reports whether a connection without a request is missed less than another of another network.
func (c *conn) before(other *conn) bool {
	if fresh := c.in == c.of.fresh; fresh != (other.in == other.of.fresh) {
		return fresh
	}
	return c.since < other.since
}

// victim returns the connection of the network that is missed least: one that has never sent a request, or else the one
// that has been idle for longest. Nil: all of them serve requests. The listener's mu is held.
func (n *network) victim() *conn {
	for _, of := range []*list.List{n.fresh, n.idle} {
		if e := of.Front(); e != nil {
			return e.Value.(*conn)
		}
	}
	return nil
}

// remove takes a connection out of the books, once. mu is held.
func (l *Listener) remove(c *conn) {
	if c.gone {
		return
	}
	c.gone = true
	c.unlist()
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
	in   *list.List    // of.fresh, of.idle, or nil while a request is served
	at   *list.Element // in that list
	gone bool
	// since orders the times at which connections entered their lists.
	since uint64
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.l.mu.Lock()
	c.l.remove(c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// begin says that a whole request head has come: the connection is at work, and is not closed for another.
func (c *conn) begin() {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.unlist()
}

// end says that the request was answered.
func (c *conn) end() {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if !c.gone {
		c.unlist()
		c.list(c.of.idle)
	}
}

// list puts the connection at the end of a list.
func (c *conn) list(in *list.List) {
	c.l.listed++
	c.in, c.at, c.since = in, in.PushBack(c), c.l.listed
}

// unlist takes the connection out of the list that it is in.
func (c *conn) unlist() {
	if c.in != nil {
		c.in.Remove(c.at)
		c.in, c.at = nil, nil
	}
}
