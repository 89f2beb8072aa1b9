package ingress

import (
	"container/list"
	"net/netip"
)

// state is what a connection is doing. In the first three states it waits for its caller and may be
// closed for another.
type state int

const (
	fresh state = iota // no complete request header has arrived
	idle               // between two requests
	// waiting for the rest of a request's body, or for the caller to read the response; see also
	// Pause
	stalled
	working
	closing // closed, or about to be; no longer counted
)

// network holds one network's connections to a listener.
type network struct {
	key    netip.Prefix
	exempt bool
	open   int
	lists  [working]*list.List // the *conn in each state in which it may be closed, the oldest in front
}

// The reasons for refusing a connection.
const (
	refusedTotal   = "total"
	refusedAddress = "address"
)

// room returns the connection to close for a new one of a network, nil if there is room without, or
// the reason why there is none. The caller must hold mu.
func (l *Listener) room(key netip.Prefix) (victim *conn, reason string) {
	own := l.networks[key]
	if own != nil && !own.exempt && own.open >= l.bounds.PerAddress {
		if victim = own.victim(); victim == nil {
			return nil, refusedAddress
		}
		return victim, ""
	}
	if l.conns < l.bounds.Total {
		return nil, ""
	}
	most := l.largest(own)
	switch {
	case most == nil:
		return nil, refusedTotal
	case own != nil && !own.exempt && (own.open > most.open || most.exempt):
		// A network that has more than any other with an inactive connection must not grow at their
		// expense.
		if victim = own.victim(); victim == nil {
			return nil, refusedTotal
		}
		return victim, ""
	}
	return most.victim(), ""
}

// largest returns the network with the most connections, among those with one that may be closed.
// Proxies act for many callers and come last. Among equals it prefers the new connection's own
// network, and then the one whose connection can best be closed. The caller must hold mu.
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

// before reports whether a connection can better be closed than one of another network.
func (c *conn) before(other *conn) bool {
	if (c.state == idle) != (other.state == idle) {
		return other.state == idle
	}
	return c.since < other.since
}

// victim returns the connection of the network that can best be closed: the oldest in the state
// that most of them are in; among equal states first one that never sent a request, then an idle
// one. Connections that stay in one state therefore displace each other: a new connection has time
// to send its request, and a request has time to arrive and to be answered. It returns nil if all
// of them are active. The caller must hold the listener's mu.
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
