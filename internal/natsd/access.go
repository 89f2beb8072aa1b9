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
)

// Subscribers judges the login of a subscriber: user is a key's id, password the key.
type Subscribers interface {
	Lookup(keyID, key string) (relay.Client, relay.Key, bool)
}

// authenticator admits the relay itself by a password made at start, and subscribers by their API keys.
type authenticator struct {
	accounts accounts
	password string
	log      *slog.Logger

	mu      sync.Mutex
	keys    Subscribers      // nil until Admit
	clients map[uint64]login // connections of subscribers by id
}

// login is what a subscriber logged in with, and what it may hear since.
type login struct{ keyID, key, hears string }

func newAuthenticator(prefix, password string, log *slog.Logger) *authenticator {
	return &authenticator{accounts: accounts{prefix: prefix}, password: password, log: log, clients: map[uint64]login{}}
}

// Check implements server.Authentication.
func (a *authenticator) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Username == relayUser && subtle.ConstantTimeCompare([]byte(o.Password), []byte(a.password)) == 1 {
		c.RegisterUser(&server.User{Username: relayUser, Account: a.accounts.relay})
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
	a.clients[c.GetID()] = login{o.Username, o.Password, hears(client)}
	return true
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
		if a.accounts.server.GetClient(id) == nil {
			delete(a.clients, id)
			continue
		}
		if client, _, ok := a.keys.Lookup(l.keyID, l.key); ok && hears(client) == l.hears {
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
