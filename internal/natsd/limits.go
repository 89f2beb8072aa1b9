package natsd

import (
	"cmp"
	"context"
	"net"
	"runtime/metrics"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
)

// Limits limit what subscribers may use of the embedded server.
type Limits struct {
	Connections int   // in total, including those that have not logged in yet; 0: DefaultConnections
	PerKey      int   // connections with one key; 0: an eighth of Connections, between 4 and 64
	PerAddress  int   // logged-in connections from one address; 0: a quarter of Connections, at least 8
	Pending     int64 // bytes that may wait for one connection, including the relay's own; 0: 256 MiB
	Together    int64 // bytes that may wait for all connections except the relay's own; 0: Pending
}

// DefaultConnections is the default of Limits.Connections.
const DefaultConnections = 1024

const (
	// maxSubscriptions bounds the subscriptions of one connection. Each that matches an event gets
	// a copy of it.
	maxSubscriptions = 100
	// maxRequest bounds a subscriber's messages. It only sends requests about its consumer, and
	// acknowledgements.
	maxRequest = 64 << 10
	// ownConnections are for the relay itself.
	ownConnections = 4
	// accountInfo is JetStream's request for how much of it an account uses.
	accountInfo = api + ".INFO"
	// makesRoom is how many connections are closed if the relay's own finds no room.
	makesRoom = 8
)

func (l Limits) withDefaults() Limits {
	l.Connections = cmp.Or(l.Connections, DefaultConnections)
	l.PerKey = cmp.Or(l.PerKey, min(max(l.Connections/8, 4), 64))
	l.PerAddress = cmp.Or(l.PerAddress, max(l.Connections/4, 8))
	l.Pending = cmp.Or(l.Pending, 256<<20)
	l.Together = cmp.Or(l.Together, l.Pending)
	return l
}

// limit limits each connection of an account, which must not have imports or exports yet: setting
// an account's claims removes them.
func (a *accounts) limit(account *server.Account) {
	claims := jwt.NewAccountClaims(account.Name)
	claims.Limits.Subs, claims.Limits.Payload = maxSubscriptions, maxRequest
	// To an account without a JetStream of its own the server adds an import of all of $JS.API,
	// which would be used instead of the imports from EVENTS. It does not if the account has this
	// import. Nobody may publish there.
	claims.Imports.Add(&jwt.Import{Type: jwt.Service, Account: systemAccount, Subject: accountInfo})
	a.server.UpdateAccountClaims(account, claims)
}

// inProcess connects the relay itself. If strangers use all connections, some of theirs are closed
// for it: the relay must always be able to reach its own store.
type inProcess struct{ s *Server }

// InProcessConn implements nats.InProcessConnProvider.
func (p inProcess) InProcessConn() (net.Conn, error) {
	p.s.makeRoom()
	return p.s.server.InProcessConn()
}

// makeRoom closes connections if the maximum is open: the newest of those that have not logged in,
// or else the newest of all.
func (s *Server) makeRoom() {
	most := s.auth.limits.Connections + ownConnections
	if s.server.NumClients() < most {
		return
	}
	open, err := s.server.Connz(&server.ConnzOptions{Limit: most, Sort: server.ByCid, State: server.ConnOpen})
	if err != nil {
		return // the connection is tried again, and so is this
	}
	var others, known []uint64
	s.auth.mu.Lock()
	for _, c := range open.Conns {
		if _, ok := s.auth.clients[c.Cid]; ok {
			known = append(known, c.Cid)
		} else if c.Cid != s.auth.own {
			others = append(others, c.Cid)
		}
	}
	s.auth.mu.Unlock()
	for n := range makesRoom {
		switch last := len(others) - 1; {
		case last >= n:
			_ = s.server.DisconnectClientByID(others[last-n]) // it may have closed by itself
		case len(known) > n-len(others):
			_ = s.server.DisconnectClientByID(known[len(known)-1-(n-len(others))])
		}
	}
}

// What waits for subscribers that do not read is copied for each of them, and the server limits it
// per connection only. A limit so small that all connections together fit into the memory would
// disconnect those that are behind by one large event. So the sum is watched as well, and while it
// is too large, the connections with the most waiting bytes are closed. Subscribers that read are
// rarely among them, because bytes accumulate for those that do not. Only if one event for
// everybody is too large by itself, any subscriber may be affected.

const (
	// pendingEvery is how often it is checked whether the process has allocated much. That is very
	// cheap.
	pendingEvery = 20 * time.Millisecond
	// pendingPart is the part of Limits.Together after whose allocation the connections are
	// examined: the sum can grow by that much without being noticed.
	pendingPart = 16
)

// watchPending closes connections while too much waits for all of them together, until ctx ends.
func (s *Server) watchPending(ctx context.Context) {
	allocated := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	var seen uint64
	tick := time.NewTicker(pendingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(allocated)
		now := allocated[0].Value.Uint64()
		if now-seen < uint64(s.auth.limits.Together/pendingPart) {
			continue
		}
		seen = now
		s.shedPending()
	}
}

// shedPending closes the connections with the most waiting bytes until half of the limit is left,
// if the limit is exceeded.
func (s *Server) shedPending() {
	s.auth.mu.Lock()
	idle, own := len(s.auth.clients) == 0, s.auth.own
	s.auth.mu.Unlock()
	if idle {
		return
	}
	most := s.auth.limits.Connections + ownConnections
	open, err := s.server.Connz(&server.ConnzOptions{Limit: most, Sort: server.ByPending, State: server.ConnOpen})
	if err != nil {
		return // the server is ending
	}
	together := int64(0)
	for _, c := range open.Conns {
		if c.Cid != own {
			together += int64(c.Pending)
		}
	}
	if together <= s.auth.limits.Together {
		return
	}
	for _, c := range open.Conns {
		if together <= s.auth.limits.Together/2 {
			return
		}
		if c.Cid == own {
			continue
		}
		s.auth.mu.Lock()
		key := s.auth.clients[c.Cid].keyID
		s.auth.mu.Unlock()
		together -= int64(c.Pending)
		if s.server.DisconnectClientByID(c.Cid) == nil {
			s.mistakes.add("slow", "a subscriber was disconnected: it does not read, "+
				"and too much waits for all subscribers together (key "+key+")")
		}
	}
}
