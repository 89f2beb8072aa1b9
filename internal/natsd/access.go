package natsd

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
)

// Subscribers checks a subscriber's login: the user is a key's id, the password the key.
type Subscribers interface {
	Lookup(keyID, key string) (relay.Client, relay.Key, bool)
	// Recheck is Lookup for a login that there is; it is no use of the key.
	Recheck(keyID, key string) (relay.Client, relay.Key, bool)
}

// authenticator admits the relay itself with a password made at the start, and subscribers with
// their API keys.
type authenticator struct {
	accounts accounts
	password string
	limits   Limits
	log      *slog.Logger
	mistakes *mistakes
	guesses  *ingress.Guesses
	failures map[string]prometheus.Counter // by reason

	mu      sync.Mutex
	own     uint64           // the relay's newest connection
	keys    Subscribers      // nil until Admit
	clients map[uint64]login // connections of subscribers by id
	counted time.Time        // when connections that are gone were last removed
}

// login is a subscriber's login, where it came from, and what the subscriber may hear since.
type login struct {
	keyID, key, subscribes string
	network                netip.Prefix
}

func newAuthenticator(prefix, password string, c Config, m *mistakes) *authenticator {
	a := &authenticator{
		accounts: accounts{prefix: prefix}, password: password, limits: c.Subscribers, log: c.Log, mistakes: m,
		guesses: ingress.NewGuesses(0), failures: map[string]prometheus.Counter{}, clients: map[uint64]login{},
	}
	for _, reason := range []string{failureMissing, failureToken, failureKey} {
		a.failures[reason] = c.Ingress.FailureCounter("nats", reason)
	}
	return a
}

// The reasons of a refused login, used as the metric's label.
const (
	failureMissing = "missing" // there is neither a user nor a password
	failureToken   = "token"   // the user is not a key's id
	failureKey     = "key"     // the key is unknown, revoked, expired, or not the user's
)

// Check implements server.Authentication.
func (a *authenticator) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Username == relayUser && subtle.ConstantTimeCompare([]byte(o.Password), []byte(a.password)) == 1 {
		c.RegisterUser(&server.User{Username: relayUser, Account: a.accounts.relay})
		a.mu.Lock()
		a.own = c.GetID()
		a.mu.Unlock()
		return true
	}
	a.mu.Lock() // held until the end: if a client changes now, its subscribers are rechecked after this one is known
	defer a.mu.Unlock()
	if a.keys == nil {
		return false
	}
	client, key, ok := a.keys.Lookup(o.Username, o.Password)
	if !ok {
		a.refused(c, o)
		return false
	}
	network := ingress.Network(ingress.AddrOf(c.RemoteAddress()))
	if what := a.full(key.ID, network); what != "" {
		a.mistakes.add(what, fmt.Sprintf("a subscriber was refused: %s has too many connections (key %s, from %s)",
			what, key.ID, network.Addr()))
		return false
	}
	user := &server.User{Username: key.ID, Account: a.accounts.subscribers, Permissions: permissions(client, key.ID)}
	if client.AllSites {
		reader, err := a.accounts.reader(key.ID)
		if err != nil {
			a.log.Error("nats: a subscriber's account could not be made", "key", key.ID, "error", err)
			return false
		}
		user.Account = reader
	}
	if key.ExpiresAt != nil {
		user.ConnectionDeadline = *key.ExpiresAt
	}
	c.RegisterUser(user)
	a.clients[c.GetID()] = login{o.Username, o.Password, subscribes(client), network}
	return true
}

// refused counts and logs a refused login. The user and the password are not logged: they may be a
// secret in the wrong place. The caller must hold mu.
func (a *authenticator) refused(c server.ClientAuthentication, o *server.ClientOpts) {
	reason := failureKey
	switch {
	case o.Username == "" && o.Password == "" && o.Token == "":
		reason = failureMissing
	case !isKeyID(o.Username):
		reason = failureToken
	}
	a.failures[reason].Inc()
	remote := ingress.AddrOf(c.RemoteAddress())
	f := a.guesses.Failed(remote, time.Now())
	if !f.Log {
		return
	}
	user := "(not a key's id)"
	if reason == failureKey {
		user = o.Username
	}
	a.log.Warn("nats: a subscriber's login was refused", "user", user, "remote", remote.String(), "reason", reason,
		"more_since_last_line", f.More, "more_of_others", f.Others)
}

// LoggedIn returns how many subscribers are logged in.
func (s *Server) LoggedIn() (n int) {
	s.auth.mu.Lock()
	defer s.auth.mu.Unlock()
	for id := range s.auth.clients {
		if s.auth.accounts.server.GetClient(id) != nil {
			n++
		}
	}
	return n
}

// recount is how often connections that are gone are removed. The server does not report them.
const recount = 50 * time.Millisecond

// full returns what has too many connections: "a key", "an address", or "". The caller must hold
// mu.
func (a *authenticator) full(key string, network netip.Prefix) string {
	what := a.count(key, network)
	if now := time.Now(); what != "" && now.Sub(a.counted) >= recount || len(a.clients) > 2*a.limits.Connections {
		a.counted = now
		for id := range a.clients {
			if a.accounts.server.GetClient(id) == nil {
				delete(a.clients, id)
			}
		}
		what = a.count(key, network)
	}
	return what
}

func (a *authenticator) count(key string, network netip.Prefix) string {
	ofKey, ofNetwork := 0, 0
	for _, l := range a.clients {
		if l.keyID == key {
			ofKey++
		}
		if l.network == network {
			ofNetwork++
		}
	}
	switch {
	case ofKey >= a.limits.PerKey:
		return "a key"
	case ofNetwork >= a.limits.PerAddress:
		return "an address"
	}
	return ""
}

// Admit lets subscribers log in with the given keys. The keys are stored in the store, which needs
// the server first.
func (s *Server) Admit(keys Subscribers) {
	s.auth.mu.Lock()
	defer s.auth.mu.Unlock()
	s.auth.keys = keys
}

// Recheck disconnects every subscriber whose key is no longer valid, or may hear something else
// than at its login. It can log in again and gets what it may see. Other subscribers stay connected
// and miss nothing. It must be called after a client has changed.
func (s *Server) Recheck(string) {
	a := s.auth
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, l := range a.clients {
		if a.accounts.server.GetClient(id) == nil {
			delete(a.clients, id)
			continue
		}
		if client, _, ok := a.keys.Recheck(l.keyID, l.key); ok && subscribes(client) == l.subscribes {
			continue
		}
		delete(a.clients, id)
		if err := a.accounts.server.DisconnectClientByID(id); err != nil {
			a.log.Warn("nats: a subscriber could not be disconnected", "key", l.keyID, "error", err)
		}
	}
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

// subscribes describes what a client's subscribers may receive.
func subscribes(c relay.Client) string {
	if c.AllSites {
		return "*"
	}
	return strings.Join(slices.Sorted(slices.Values(c.Sites)), " ")
}

// isKeyID reports whether a text has the form of a key's id. No token of the relay has that form.
func isKeyID(user string) bool {
	const length = 12
	other := func(r rune) bool { return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') }
	return len(user) == length && !strings.ContainsFunc(user, other)
}
