// Package sandbox simulates the vendor: the AudaConnect BMS API, its OAuth portal and a control API in one
// http.Handler. It behaves like the vendor where that is known, and is hostile where the vendor may be. Begin with New
// and Config; server.go has the routes and what all calls have in common.
package sandbox

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// The paths, relative to the address that the sandbox is served on. They are the vendor's own.
const (
	// APIPath is the base of the vendor's API: the calls are below it at /v1/bmsapi/.
	APIPath = "/AudaAPI.BMSAPI"
	// AuthorizePath is where a user's browser is sent for consent.
	AuthorizePath = "/AudaAPI.Portal/OAuth20"
	// SignInPath receives the form of the portal's sign-in page.
	SignInPath = "/AudaAPI.Portal/SignIn"
	// UsersMePath is the sister API's call that returns who owns a token.
	UsersMePath = "/AudaAPI.WebAPI/api/users/me"
	// TokenPath is the OAuth token endpoint.
	TokenPath = "/AudaAPI.Portal/OAuth20/token"
	// ControlPath is the base of the control API.
	ControlPath = "/_sandbox"
	// TrapPath is the base of everything that must never be called.
	TrapPath = "/_trap"
)

// The scopes of consents.
const (
	// ScopeBasic covers events, topics, whoami and the assessment look-up.
	ScopeBasic = "BMS.Basic"
	// ScopePartsOrders covers reading orders; see Config.OrdersScope for its other spelling.
	ScopePartsOrders = "BMS.PartsOrders"
	// ScopeCompany covers UsersMePath.
	ScopeCompany = "ReferenceData.Company"
)

// Config configures the sandbox. The zero value is a hostile sandbox with the vendor's limits.
type Config struct {
	// ClientID and ClientSecret belong to the only OAuth client. Default "sandbox-client" and
	// "sandbox-secret".
	ClientID     string
	ClientSecret string
	// RedirectURIs are the addresses that a consent may return to; none means any absolute http or
	// https URL.
	RedirectURIs []string
	// OrdersScope is the scope needed for reading orders. Default ScopePartsOrders; an older help
	// page of the vendor spells it "BMS.PartOrders".
	OrdersScope string
	// AccessTokenLifetime is how long an access token is valid. Default 1,800 s, like the vendor's.
	AccessTokenLifetime time.Duration
	// PageSize is the largest number of notifications that one poll returns. Default 100, like the
	// vendor's.
	PageSize int
	// RateLimit is the largest number of API requests in a minute (of the clock); further ones get
	// 429 with Retry-After. 0 means no limit. The vendor documents none; third parties mention 100
	// and 1,000.
	RateLimit int
	// Accounts can sign in at the portal; see SetAccounts. Default: the account of DefaultUser.
	Accounts []Account
	// Behaviour is the behaviour at the start and after Reset.
	Behaviour Behaviour
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Seed makes everything random repeatable: the same calls in the same order give the same ids,
	// orders, forms and faults. An order depends only on its site and on how many orders the site
	// had before it.
	Seed uint64
	// Tame turns hostility off: newer form only, no unknown fields or statuses, plain dates and
	// prices.
	Tame bool
	// Log receives a debug line per request. Default: none. Tokens and secrets are never logged.
	Log *slog.Logger
}

// String describes the configuration without its secret.
func (c Config) String() string {
	return fmt.Sprintf("sandbox client %q (secret withheld), page %d, access token %s, seed %d, tame %t",
		c.ClientID, c.PageSize, c.AccessTokenLifetime, c.Seed, c.Tame)
}

// GoString keeps the secret out of %#v as well.
func (c Config) GoString() string { return c.String() }

// LogValue keeps the secret out of logs.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

func (c Config) withDefaults() Config {
	c.ClientID = cmp.Or(c.ClientID, "sandbox-client")
	c.ClientSecret = cmp.Or(c.ClientSecret, "sandbox-secret")
	c.OrdersScope = cmp.Or(c.OrdersScope, ScopePartsOrders)
	c.AccessTokenLifetime = cmp.Or(max(c.AccessTokenLifetime, 0), 1800*time.Second)
	c.PageSize = cmp.Or(max(c.PageSize, 0), 100)
	if c.Accounts == nil {
		c.Accounts = []Account{{Password: DefaultPassword, Consent: Consent{Sites: []string{"4711"}}}}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Sandbox is one vendor with its users, orders and queues, all in memory. Its methods are safe for
// concurrent use.
//
// Tests, the demo, the benchmark and developers' machines use it, because they cannot reach the
// vendor's hosts. Unless Config.Tame is set, it does not make life easy: notifications come in both
// forms, with upper-case uuids, without time zones and with URLs that must not be called; orders
// have unknown fields, unknown part statuses, odd digits, and missing dates in every spelling. A
// client that cuts a corner fails here and not in production.
//
// Polling is destructive, like the vendor's: what a response carried is gone, even if the
// connection was cut before anybody read it. A ledger records the truth (what was queued, handed
// out, lost), so that a verifier knows what a client could see.
//
// The package imports nothing of the relay: if it shared code with the client, it would share the
// client's mistakes.
type Sandbox struct {
	cfg     Config
	handler http.Handler

	faults    atomic.Pointer[[]Faults]
	behaviour atomic.Pointer[Behaviour]

	answers    atomic.Uint64 // numbers the responses, for their correlation ids
	faultDraws atomic.Uint64 // numbers the draws of faults

	mu sync.Mutex // guards everything below; held for microseconds only
	world
}

// world is everything that Reset replaces.
type world struct {
	tally  Counters
	window rateWindow

	nextGrant   int
	nextToken   uint64
	nextSub     uint64
	auto        *Consent
	accounts    []Account
	sessions    map[string]*session
	grants      map[string]*grant
	refreshes   map[string]*refreshToken
	accesses    map[string]*accessToken
	codes       map[string]*code
	owners      map[string]*owner
	bySite      map[string][]*owner
	subs        map[string]*subscription
	subOrder    []*subscription
	orders      map[string]*order
	orderList   []*order
	siteOrders  map[string]int
	assessments map[assessmentKey]string
	rawNotes    []*notification
}

func newWorld() world {
	return world{
		tally:       Counters{Requests: map[Operation]int64{}, Statuses: map[int]int64{}, Faults: map[string]int64{}},
		grants:      map[string]*grant{},
		refreshes:   map[string]*refreshToken{},
		accesses:    map[string]*accessToken{},
		codes:       map[string]*code{},
		sessions:    map[string]*session{},
		owners:      map[string]*owner{},
		bySite:      map[string][]*owner{},
		subs:        map[string]*subscription{},
		orders:      map[string]*order{},
		siteOrders:  map[string]int{},
		assessments: map[assessmentKey]string{},
	}
}

// Check returns an error if Accounts or Behaviour are invalid.
func (c Config) Check() error {
	_, err := build(c)
	return err
}

// New returns an empty sandbox: no grants, no orders, no faults. It panics if Config.Check returns
// an error.
func New(cfg Config) *Sandbox {
	s, err := build(cfg)
	if err != nil {
		panic("sandbox.New: " + err.Error())
	}
	s.handler = s.routes()
	return s
}

func build(cfg Config) (*Sandbox, error) {
	s := &Sandbox{cfg: cfg.withDefaults()}
	accounts, err := s.completeAccounts(s.cfg.Accounts)
	if err != nil {
		return nil, err
	}
	s.cfg.Accounts = accounts
	if err := s.SetBehaviour(s.cfg.Behaviour); err != nil {
		return nil, err
	}
	s.cfg.Behaviour = s.Behaviour()
	s.Reset()
	return s, nil
}

// Handler serves the vendor's API, its OAuth portal and the control API.
func (s *Sandbox) Handler() http.Handler { return s.handler }

// Reset removes every grant, token, subscription, order, counter and fault, and restores the
// configured accounts and behaviour. Responses under way are not affected.
func (s *Sandbox) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.world = newWorld()
	s.accounts = s.cfg.Accounts
	s.faults.Store(&[]Faults{})
	b := s.cfg.Behaviour
	s.behaviour.Store(&b)
}
