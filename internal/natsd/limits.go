package natsd

import (
	"cmp"
	"net"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
)

// Limits bound what subscribers may have of the embedded server.
type Limits struct {
	Connections int   // in all, those that have not logged in yet included; 0: DefaultConnections
	PerKey      int   // connections with one key; 0: an eighth of Connections, between 4 and 64
	PerAddress  int   // connections that have logged in from one address; 0: a quarter of Connections, at least 8
	Pending     int64 // bytes that may wait for one connection, the relay's own included; 0: 256 MiB
	Together    int64 // bytes that may wait for all connections but the relay's own; 0: Pending
}

// DefaultConnections is Limits.Connections unless it is set.
const DefaultConnections = 1024

const (
	// maxSubscriptions bounds the subscriptions of one connection: each that matches an event gets a copy of its own.
	maxSubscriptions = 100
	// maxRequest bounds what a subscriber may send: it only asks for its consumer, and acknowledges.
	maxRequest = 64 << 10
	// ownConnections are those of the relay itself.
	ownConnections = 4
	// accountInfo is where JetStream says how much of it an account uses.
	accountInfo = api + ".INFO"
	// makesRoom is how many connections are closed when the relay's own finds none.
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

// limit bounds each connection of an account that has no imports or exports yet: setting the claims of an account removes them.
func (a *accounts) limit(account *server.Account) {
	claims := jwt.NewAccountClaims(account.Name)
	claims.Limits.Subs, claims.Limits.Payload = maxSubscriptions, maxRequest
	// To an account without a JetStream of its own the server adds an import of all of $JS.API, which would answer in place of
	// what is imported of EVENTS; but not if it has this one. Nobody has the right to publish there.
	claims.Imports.Add(&jwt.Import{Type: jwt.Service, Account: systemAccount, Subject: accountInfo})
	a.server.UpdateAccountClaims(account, claims)
}

// inProcess connects the relay itself. Where strangers have all connections some of theirs are closed for it: the relay must
// get back to its own store whoever knocks.
type inProcess struct{ s *Server }

// InProcessConn implements nats.InProcessConnProvider.
func (p inProcess) InProcessConn() (net.Conn, error) {
	p.s.makeRoom()
	return p.s.server.InProcessConn()
}

// makeRoom closes connections if there are as many as there may be: the newest of those that have not logged in, or else the
// newest of all.
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
			_ = s.server.DisconnectClientByID(others[last-n]) // it may have gone by itself
		case len(known) > n-len(others):
			_ = s.server.DisconnectClientByID(known[len(known)-1-(n-len(others))])
		}
	}
}
