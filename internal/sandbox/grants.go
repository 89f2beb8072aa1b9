package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Level is how much one consent covers.
type Level string

// The vendor's three levels; they are also path segments of the event calls.
const (
	Site    Level = "site"
	Company Level = "company"
	User    Level = "user"
)

// The errors of the control methods.
var (
	ErrNoGrant        = errors.New("no such grant")
	ErrNoOrder        = errors.New("no such order")
	ErrNoSubscription = errors.New("no such subscription")
	ErrOrderEnded     = errors.New("the order has come to its end")
	ErrOrderRaw       = errors.New("the order was set as raw JSON: set it again to change it")
)

// Consent is what a vendor user agrees to.
type Consent struct {
	// Level defaults to Site.
	Level Level `json:"level"`
	// Sites are the vendor's site ids. A site consent has exactly one.
	Sites []string `json:"sites"`
	// Scopes default to ScopeBasic and the orders' scope.
	Scopes []string `json:"scopes,omitempty"`
	// CompanyCode is the company of the sites. Default "C" and the first site. Company consents
	// with the same code share their subscriptions, as site consents for the same site do.
	CompanyCode string `json:"companyCode,omitempty"`
	// User is the name of the user who consents, which whoami returns. Default "bms." and the first
	// site. User consents with the same user share their subscriptions.
	User string `json:"user,omitempty"`
	// Terminal is the user's terminal id, which users/me returns with the first site and the
	// company. Default "T" and the first site.
	Terminal string `json:"terminal,omitempty"`
}

// Grant is a given consent.
type Grant struct {
	ID string `json:"id"`
	// RefreshToken is the first one. Its first use spends it.
	RefreshToken string `json:"refreshToken"`
}

// String describes the grant without its token.
func (g Grant) String() string { return g.ID + " (token withheld)" }

// GoString keeps the token out of %#v as well.
func (g Grant) GoString() string { return g.String() }

// LogValue keeps the token out of logs.
func (g Grant) LogValue() slog.Value { return slog.StringValue(g.String()) }

// grant is one consent and its tokens.
type grant struct {
	id      string
	number  int
	owner   *owner
	consent Consent
	revoked bool
	issued  []*accessToken // not expired yet, oldest first

	polling    int // polls under way
	refreshing int // refreshes under way
	counters   GrantCounters
}

func (g *grant) has(scope string) bool { return slices.Contains(g.consent.Scopes, scope) }

// owner is what subscriptions belong to: a site, a company or a user. It and its queues outlive its
// grants.
type owner struct {
	level   Level
	name    string
	company string
	sites   map[string]bool
	subs    []*subscription
}

type accessToken struct {
	value   string
	grant   *grant
	expires time.Time
}

type refreshToken struct {
	grant *grant
	spent bool
}

// Grant gives a consent without a browser, and returns the refresh token that an OAuth consent
// would have given. It returns an error if the consent is invalid.
func (s *Sandbox) Grant(c Consent) (Grant, error) {
	c, err := s.complete(c)
	if err != nil {
		return Grant{}, fmt.Errorf("granting: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.newGrant(c)
	return Grant{ID: g.id, RefreshToken: s.newRefreshToken(g)}, nil
}

func (s *Sandbox) complete(c Consent) (Consent, error) {
	c.Level = cmp.Or(c.Level, Site)
	if c.Level != Site && c.Level != Company && c.Level != User {
		return c, fmt.Errorf("level %q is none of site, company, user", c.Level)
	}
	if len(c.Sites) == 0 || slices.Contains(c.Sites, "") {
		return c, errors.New("a consent names the vendor's site ids it covers")
	}
	if c.Level == Site && len(c.Sites) != 1 {
		return c, fmt.Errorf("a site consent covers one site, not %d", len(c.Sites))
	}
	if c.Scopes == nil {
		c.Scopes = []string{ScopeBasic, s.cfg.OrdersScope}
	}
	c.CompanyCode = cmp.Or(c.CompanyCode, "C"+c.Sites[0])
	c.User = cmp.Or(c.User, "bms."+c.Sites[0])
	c.Terminal = cmp.Or(c.Terminal, "T"+c.Sites[0])
	c.Sites = slices.Clone(c.Sites)
	return c, nil
}

// newGrant must be called with mu held.
func (s *Sandbox) newGrant(c Consent) *grant {
	s.nextGrant++
	c.Scopes = slices.Clone(c.Scopes)
	g := &grant{id: fmt.Sprintf("grant-%d", s.nextGrant), number: s.nextGrant, consent: c}
	name := c.Sites[0]
	switch c.Level {
	case Company:
		name = c.CompanyCode
	case User:
		name = c.User
	case Site:
	}
	key := string(c.Level) + "/" + name
	o := s.owners[key]
	if o == nil {
		o = &owner{level: c.Level, name: name, company: c.CompanyCode, sites: map[string]bool{}}
		s.owners[key] = o
	}
	for _, site := range c.Sites {
		if !o.sites[site] {
			o.sites[site] = true
			s.bySite[site] = append(s.bySite[site], o)
		}
	}
	g.owner = o
	s.grants[g.id] = g
	return g
}

// newRefreshToken must be called with mu held.
func (s *Sandbox) newRefreshToken(g *grant) string {
	s.nextToken++
	value := "rt-" + s.dice("refresh token", s.nextToken).token()
	s.refreshes[value] = &refreshToken{grant: g}
	return value
}

// newAccessToken must be called with mu held. Older access tokens stay valid until they expire.
func (s *Sandbox) newAccessToken(g *grant, now time.Time) *accessToken {
	for len(g.issued) > 0 && !now.Before(g.issued[0].expires) {
		delete(s.accesses, g.issued[0].value)
		g.issued = g.issued[1:]
	}
	s.nextToken++
	t := &accessToken{
		value:   "at-" + s.dice("access token", s.nextToken).token(),
		grant:   g,
		expires: now.Add(s.cfg.AccessTokenLifetime),
	}
	s.accesses[t.value] = t
	g.issued = append(g.issued, t)
	return t
}

// bearer returns the grant of a request's valid access token, or nil. The caller must hold mu.
func (s *Sandbox) bearer(r *http.Request, now time.Time) *grant {
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil
	}
	t := s.accesses[value]
	if t == nil || t.grant.revoked || !now.Before(t.expires) {
		return nil
	}
	return t.grant
}

// bearing is bearer for enter, which holds mu.
func (s *Sandbox) bearing(r *http.Request) *grant { return s.bearer(r, s.now()) }

// refreshing returns the grant of a token request's refresh token. The caller must hold mu.
func (s *Sandbox) refreshing(r *http.Request) *grant {
	if t := s.refreshes[r.PostForm.Get("refresh_token")]; t != nil {
		return t.grant
	}
	return nil
}

// RevokeGrant revokes a consent: its tokens are refused from now on, and its subscriptions still
// queue. It returns ErrNoGrant if there is no such grant.
func (s *Sandbox) RevokeGrant(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.grants[id]
	if g == nil {
		return fmt.Errorf("revoking grant %q: %w", id, ErrNoGrant)
	}
	g.revoked = true
	return nil
}

// ExpireAccessTokens ends all access tokens of a grant early; its refresh token stays valid. It
// returns ErrNoGrant if there is no such grant.
func (s *Sandbox) ExpireAccessTokens(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.grants[id]
	if g == nil {
		return fmt.Errorf("expiring the access tokens of grant %q: %w", id, ErrNoGrant)
	}
	for _, t := range g.issued {
		delete(s.accesses, t.value)
	}
	g.issued = nil
	return nil
}
