package natsd

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// Subscribers judges the login of a subscriber: user is a key's id, password the key.
type Subscribers interface {
	Lookup(keyID, key string) (relay.Client, relay.Key, bool)
}

// authenticator admits the relay itself by a password made at start, and subscribers by their API keys.
type authenticator struct {
	own, subscribers *server.Account
	password         string
	log              *slog.Logger
	server           *server.Server

	mu      sync.Mutex
	keys    Subscribers      // nil until Admit
	clients map[uint64]login // connections of subscribers by id
}

// login is what a subscriber logged in with, and what it may hear since.
type login struct{ keyID, key, hears string }

func newAuthenticator(password string, log *slog.Logger) *authenticator {
	return &authenticator{password: password, log: log, clients: map[uint64]login{}}
}

// attach finds the server's own copies of the accounts in the options; it is called before the server starts.
func (a *authenticator) attach(s *server.Server) (err error) {
	a.server = s
	if a.own, err = s.LookupAccount(relayAccount); err == nil {
		a.subscribers, err = s.LookupAccount(subscribersAccount)
	}
	if err != nil {
		return fmt.Errorf("look up the accounts of the embedded NATS server: %w", err)
	}
	return nil
}

// Check implements server.Authentication.
func (a *authenticator) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Username == relayUser && subtle.ConstantTimeCompare([]byte(o.Password), []byte(a.password)) == 1 {
		c.RegisterUser(&server.User{Username: relayUser, Account: a.own})
		return true
	}
	a.mu.Lock() // throughout: a client that changes meanwhile is rechecked after this subscriber is known
	defer a.mu.Unlock()
	if a.keys == nil {
		return false
	}
	client, key, ok := a.keys.Lookup(o.Username, o.Password)
	if !ok {
		a.log.Warn("nats: a subscriber's login was refused", "user", keyName(o.Username), "remote", c.RemoteAddress().String())
		return false
	}
	user := &server.User{Username: key.ID, Account: a.subscribers, Permissions: permissions(client)}
	if key.ExpiresAt != nil {
		user.ConnectionDeadline = *key.ExpiresAt
	}
	c.RegisterUser(user)
	a.clients[c.GetID()] = login{o.Username, o.Password, hears(client)}
	return true
}

// ownersOnly are the operational events about one client's callbacks. On the bus nobody can tell whose a callback is, so no
// subscriber hears them; their client gets them by the API and by callbacks.
var ownersOnly = []string{
	topology.OperationalSubject("*", string(relay.KindCallbackDisabled), "*"),
	topology.OperationalSubject("*", string(relay.KindCallbackRecovered), "*"),
	topology.OperationalSubject("*", string(relay.KindDeliveriesExpired), "*"),
}

// permissions lets a subscriber read the live subjects of its sites, and nothing else. Publishing is denied altogether: the
// account has no JetStream and no service, so there is nobody to ask.
func permissions(c relay.Client) *server.Permissions {
	p := &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{">"}}, Subscribe: &server.SubjectPermission{Deny: slices.Clone(ownersOnly)}}
	if c.AllSites {
		p.Subscribe.Allow = []string{topology.AllEvents}
		return p
	}
	for _, site := range c.Sites {
		p.Subscribe.Allow = append(p.Subscribe.Allow, topology.SiteFilter(site))
	}
	if len(p.Subscribe.Allow) == 0 {
		p.Subscribe.Deny = []string{">"}
	}
	return p
}

// Admit lets subscribers log in with the keys that it knows. The keys lie in the store, which needs the server first.
func (s *Server) Admit(keys Subscribers) {
	s.auth.mu.Lock()
	defer s.auth.mu.Unlock()
	s.auth.keys = keys
}

// Recheck disconnects every subscriber whose key no longer opens anything or may hear something else now; it may log in again and
// gets what it may see. Who may hear what it did stays, and misses nothing. It is called after a client changed.
func (s *Server) Recheck(string) {
	a := s.auth
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, l := range a.clients {
		if a.server.GetClient(id) == nil {
			delete(a.clients, id)
			continue
		}
		if client, _, ok := a.keys.Lookup(l.keyID, l.key); ok && hears(client) == l.hears {
			continue
		}
		delete(a.clients, id)
		if err := a.server.DisconnectClientByID(id); err != nil {
			a.log.Warn("nats: a subscriber could not be disconnected", "key", l.keyID, "error", err)
		}
	}
}

// share lets the subscribers' account hear the live subjects of the relay's.
func (a *authenticator) share() error {
	if err := a.own.AddStreamExport(topology.AllEvents, []*server.Account{a.subscribers}); err != nil {
		return fmt.Errorf("export the live subjects: %w", err)
	}
	if err := a.subscribers.AddStreamImport(a.own, topology.AllEvents, ""); err != nil {
		return fmt.Errorf("import the live subjects: %w", err)
	}
	if err := a.own.EnableJetStream(nil, nil); err != nil {
		return fmt.Errorf("enable JetStream for the relay's account: %w", err)
	}
	return nil
}

func splitListen(listen string) (string, int, error) {
	host, p, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("RELAY_NATS_LISTEN: %w", err)
	}
	port, err := strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("RELAY_NATS_LISTEN: %q is not a port", p)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	if host == "" {
		host = "0.0.0.0"
	}
	return host, port, nil
}

// hears sums up what a client's subscribers may hear.
func hears(c relay.Client) string {
	if c.AllSites {
		return "*"
	}
	return strings.Join(slices.Sorted(slices.Values(c.Sites)), " ")
}

// keyName answers what a login called itself if that has the form of a key's id. Anything else may be a key in the wrong place, which
// must not be logged.
func keyName(user string) string {
	const longest = 32
	if user == "" || len(user) > longest || strings.ContainsFunc(user, func(r rune) bool { return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') }) {
		return "(not a key's id)"
	}
	return user
}
