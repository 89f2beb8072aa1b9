package sandbox

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// PKCE is how the portal handles RFC 7636: a code challenge, and the verifier that proves it.
type PKCE string

// The ways in which a vendor's server may handle it.
const (
	// PKCEVerify accepts the method S256 and verifies it. A code requested with a challenge needs
	// its verifier; a code requested without one must have none.
	PKCEVerify PKCE = "verify"
	// PKCEIgnore ignores challenges and verifiers, like a server older than RFC 7636.
	PKCEIgnore PKCE = "ignore"
	// PKCERefuse refuses a request with a challenge or a verifier, like a server that accepts known
	// parameters only.
	PKCERefuse PKCE = "refuse"
)

// Behaviour configures the vendor's behaviour where accounts and configurations differ. The zero
// value is a vendor with everything enabled.
type Behaviour struct {
	// PKCE defaults to PKCEVerify.
	PKCE PKCE `json:"pkce,omitempty"`
	// GrantScopes are the most that a consent can have, even if more is asked for; nil means all.
	GrantScopes []string `json:"grantScopes,omitempty"`
	// OmitScope leaves the granted scopes out of token responses.
	OmitScope bool `json:"omitScope,omitempty"`
	// KeepCodeGrants keeps the tokens of a code valid when the code is used again. Without it the
	// second use revokes the grant made by the first (RFC 6749, section 4.1.2), unless Config.Tame
	// is set.
	KeepCodeGrants bool `json:"keepCodeGrants,omitempty"`
	// RememberSignIn keeps a browser signed in after its user's decision: its next request for
	// consent asks for no password and continues as the same user.
	RememberSignIn bool `json:"rememberSignIn,omitempty"`
	// TopicsNotEnabled are the topics, with all below them, that the service desk has not enabled:
	// GET /topics does not list them, and a subscription to them is refused with 404. Existing
	// subscriptions continue.
	TopicsNotEnabled []string `json:"topicsNotEnabled,omitempty"`
	// DateOffsetSeconds is the error of the vendor's clock in the headers Date and Retry-After.
	DateOffsetSeconds int64 `json:"dateOffsetSeconds,omitempty"`
}

// maxDateOffset keeps years at four digits.
const maxDateOffset = 100 * 365 * 24 * 60 * 60

// SetBehaviour replaces the behaviour; the zero value is that at the start. If the behaviour names
// something that does not exist, it returns an error and changes nothing.
func (s *Sandbox) SetBehaviour(b Behaviour) error {
	switch b.PKCE {
	case "":
		b.PKCE = PKCEVerify
	case PKCEVerify, PKCEIgnore, PKCERefuse:
	default:
		return fmt.Errorf("pkce %q is none of verify, ignore, refuse", b.PKCE)
	}
	for _, scope := range b.GrantScopes {
		if !s.knowsScope(scope) {
			return fmt.Errorf("scope %q is none of %s", scope, strings.Join(s.scopes(), ", "))
		}
	}
	for _, topic := range b.TopicsNotEnabled {
		if !slices.Contains(allTopics, topic) {
			return fmt.Errorf("topic %q is none of the vendor's", topic)
		}
	}
	if b.DateOffsetSeconds > maxDateOffset || b.DateOffsetSeconds < -maxDateOffset {
		return errors.New("dateOffsetSeconds is more than a hundred years")
	}
	b.GrantScopes, b.TopicsNotEnabled = slices.Clone(b.GrantScopes), slices.Clone(b.TopicsNotEnabled)
	s.behaviour.Store(&b)
	return nil
}

// Behaviour returns the present behaviour.
func (s *Sandbox) Behaviour() Behaviour { return *s.behaviour.Load() }

// scopes returns all existing scopes.
func (s *Sandbox) scopes() []string { return []string{ScopeBasic, s.cfg.OrdersScope, ScopeCompany} }

func (s *Sandbox) knowsScope(scope string) bool { return slices.Contains(s.scopes(), scope) }

// grantable returns the scopes that the behaviour allows, in order and each once.
func (b Behaviour) grantable(scopes []string) []string {
	var out []string
	for _, scope := range scopes {
		if (b.GrantScopes == nil || slices.Contains(b.GrantScopes, scope)) && !slices.Contains(out, scope) {
			out = append(out, scope)
		}
	}
	return out
}

// enabled reports whether a topic, or at least one topic below it, can be subscribed to.
func (b Behaviour) enabled(topic string) bool {
	off := func(code string) bool {
		return slices.ContainsFunc(b.TopicsNotEnabled, func(stem string) bool { return covers(stem, code) })
	}
	return !off(topic) &&
		slices.ContainsFunc(leafTopics, func(leaf string) bool { return covers(topic, leaf) && !off(leaf) })
}

// clock returns the time of the vendor's clock.
func (b Behaviour) clock(now time.Time) time.Time {
	return now.Add(time.Duration(b.DateOffsetSeconds) * time.Second)
}

// date sets the Date header if the clock is wrong; net/http sets the right one.
func (b Behaviour) date(header http.Header, now time.Time) {
	if b.DateOffsetSeconds != 0 {
		header.Set("Date", b.clock(now).UTC().Format(http.TimeFormat))
	}
}
