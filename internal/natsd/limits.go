package natsd

import (
	"cmp"
	"net"

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
