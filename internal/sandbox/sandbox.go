// Package sandbox is the vendor's double: the AudaConnect BMS API, its OAuth
// portal and a control API on one http.Handler, faithful to what is known of
// the vendor and hostile where the vendor may be.
//
// It is what tests, the demo, the benchmark and a developer's own machine talk
// to, as the vendor's hosts cannot be reached from there. Like a good test
// authority it does not make life easy: unless Config.Tame is set, notifications
// come in both forms, with upper-case uuids, without time zones and with URLs
// that nobody may call; orders carry unknown fields, unknown part statuses, odd
// digits and missing dates in every spelling. A client that cuts a corner fails
// here and not in production.
//
// Polling is destructive here as it is there: what an answer carried is gone,
// also when the connection was cut before anybody read it. A ledger keeps the
// ground truth (what was queued, handed out, lost), so that a verifier can tell
// what a client had a right to see.
//
// The package imports nothing of the relay: a double that shared code with the
// client would share its mistakes.
package sandbox

import (
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Where the double answers, relative to the address it is served on. They are
// the vendor's own paths.
const (
	// APIPath is the base of the vendor's API: calls stand below it at
	// /v1/bmsapi/.
	APIPath = "/AudaAPI.BMSAPI"
	// AuthorizePath is where a user's browser is sent for consent.
	AuthorizePath = "/AudaAPI.Portal/OAuth20"
	// SignInPath is where the portal's sign-in page sends its form.
	SignInPath = "/AudaAPI.Portal/SignIn"
	// UsersMePath is the sister API's call that says who a token is.
	UsersMePath = "/AudaAPI.WebAPI/api/users/me"
	// TokenPath is the OAuth token endpoint.
	TokenPath = "/AudaAPI.Portal/OAuth20/token"
	// ControlPath is the base of the control API.
	ControlPath = "/_sandbox"
	// TrapPath is the base of everything that must never be called.
	TrapPath = "/_trap"
)

// The scopes a consent can carry.
const (
	// ScopeBasic covers events, topics, whoami and the assessment look-up.
	ScopeBasic = "BMS.Basic"
	// ScopePartsOrders covers reading orders; see Config.OrdersScope for its
	// other spelling.
	ScopePartsOrders = "BMS.PartsOrders"
	// ScopeCompany covers UsersMePath.
	ScopeCompany = "ReferenceData.Company"
)

// Config says how the double behaves. The zero value is a hostile sandbox with
// the vendor's figures.
type Config struct {
	// ClientID and ClientSecret are the one OAuth client that is known here.
	// Default "sandbox-client" and "sandbox-secret".
	ClientID     string
	ClientSecret string
	// RedirectURIs are the addresses a consent may return to; none means any
	// absolute http or https URL.
	RedirectURIs []string
	// OrdersScope is the scope that reading orders needs. Default
	// ScopePartsOrders; an older help page of the vendor spells it
	// "BMS.PartOrders".
	OrdersScope string
	// AccessTokenLifetime is how long an access token is taken. Default 1,800 s,
	// the vendor's.
	AccessTokenLifetime time.Duration
	// PageSize is the most notifications that one poll returns. Default 100, the
	// vendor's.
	PageSize int
	// RateLimit is the most API requests in a minute (by the clock's minutes)
	// before 429 with Retry-After answers the rest of it. 0 means no limit. The
	// vendor documents none; third parties speak of 100 and 1,000.
	RateLimit int
	// Accounts are those who can sign in at the portal; see SetAccounts. Default
	// the one of DefaultUser.
	Accounts []Account
	// Behaviour is that at the start and after Reset.
	Behaviour Behaviour
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Seed makes everything random repeatable: the same calls in the same order
	// give the same ids, orders, forms and faults. What concerns one order
	// depends only on its site and on how many orders the site had before it.
	Seed uint64
	// Tame turns the hostility off: newer form only, no unknown fields or
	// statuses, plain dates and prices.
	Tame bool
	// Log receives a debug line per request. Default none. No token or secret is
	// ever logged.
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
	if c.ClientID == "" {
		c.ClientID = "sandbox-client"
	}
	if c.ClientSecret == "" {
		c.ClientSecret = "sandbox-secret"
	}
	if c.OrdersScope == "" {
		c.OrdersScope = ScopePartsOrders
	}
	if c.AccessTokenLifetime <= 0 {
		c.AccessTokenLifetime = 1800 * time.Second
	}
	if c.PageSize <= 0 {
		c.PageSize = 100
	}
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

// Sandbox is one vendor with its users, orders and queues, all in memory. All
// methods may be called at the same time from anywhere.
type Sandbox struct {
	cfg     Config
	handler http.Handler

	faults    atomic.Pointer[[]Faults]
	behaviour atomic.Pointer[Behaviour]

	answers atomic.Uint64 // numbers the answers: their correlation ids
	fates   atomic.Uint64 // numbers the draws of faults

	mu sync.Mutex // guards everything below; held for microseconds only
	world
}

// world is all that Reset starts anew.
type world struct {
	tally  tally
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
		tally:       newTally(),
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

// Check returns what is wrong with Accounts or Behaviour.
func (c Config) Check() error {
	_, err := build(c)
	return err
}

// New builds a sandbox with nobody in it: no grants, no orders, no faults. It
// panics if Config.Check returns an error.
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

// Reset forgets every grant, token, subscription, order, counter and fault, and
// has the accounts and the behaviour that were configured. Answers under way end as they began.
func (s *Sandbox) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.world = newWorld()
	s.accounts = s.cfg.Accounts
	s.faults.Store(&[]Faults{})
	b := s.cfg.Behaviour
	s.behaviour.Store(&b)
}
