package sandbox

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// PKCE says what the portal makes of RFC 7636: of a code challenge and the verifier that proves it.
type PKCE string

// What a vendor's server may do with it.
const (
	// PKCEVerify takes the method S256 and verifies it: a code asked for with a challenge is exchanged with its
	// verifier only, and a code asked for without one with none.
	PKCEVerify PKCE = "verify"
	// PKCEIgnore neither looks at challenges nor at verifiers, as a server from before RFC 7636 does.
	PKCEIgnore PKCE = "ignore"
	// PKCERefuse refuses a request that has a challenge or a verifier, as a server does that takes known parameters
	// only.
	PKCERefuse PKCE = "refuse"
)

// Behaviour says how the vendor behaves where accounts and configurations differ. The zero value is a vendor where all
// is enabled.
type Behaviour struct {
	// PKCE defaults to PKCEVerify.
	PKCE PKCE `json:"pkce,omitempty"`
	// GrantScopes are the most that a consent carries, whatever is asked for; nil means all.
	GrantScopes []string `json:"grantScopes,omitempty"`
	// OmitScope leaves out of token answers which scopes were granted.
	OmitScope bool `json:"omitScope,omitempty"`
	// KeepCodeGrants leaves the tokens of a code good when the code is used again. Without it the second use withdraws
	// the grant that the first one gave (RFC 6749, section 4.1.2), unless Config.Tame is set.
	KeepCodeGrants bool `json:"keepCodeGrants,omitempty"`
	// RememberSignIn keeps a browser signed in after its user's decision: the next request for consent in it asks for
	// no password and goes on as the same user.
	RememberSignIn bool `json:"rememberSignIn,omitempty"`
	// TopicsNotEnabled are the topics that the service desk has not enabled, with all below them: GET /topics does not
	// list them and a subscription to them is refused with 404. Subscriptions that exist go on.
	TopicsNotEnabled []string `json:"topicsNotEnabled,omitempty"`
	// DateOffsetSeconds is how far the vendor's clock is off in the headers Date and Retry-After.
	DateOffsetSeconds int64 `json:"dateOffsetSeconds,omitempty"`
}

// maxDateOffset keeps dates within four digits of a year.
const maxDateOffset = 100 * 365 * 24 * 60 * 60

// SetBehaviour replaces the behaviour; the zero value has everything as it was at the start. It changes nothing and
// returns an error if the behaviour names something that does not exist.
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

// Behaviour returns what SetBehaviour was last given.
func (s *Sandbox) Behaviour() Behaviour { return *s.behaviour.Load() }

// scopes are all that exist here.
func (s *Sandbox) scopes() []string { return []string{ScopeBasic, s.cfg.OrdersScope, ScopeCompany} }

func (s *Sandbox) knowsScope(scope string) bool { return slices.Contains(s.scopes(), scope) }

// grantable returns those of the scopes that the behaviour leaves, in their order and each once.
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

// clock is the time by the vendor's clock.
func (b Behaviour) clock(now time.Time) time.Time {
	return now.Add(time.Duration(b.DateOffsetSeconds) * time.Second)
}

// date sets the Date header if it is off; net/http sets the right one.
func (b Behaviour) date(header http.Header, now time.Time) {
	if b.DateOffsetSeconds != 0 {
		header.Set("Date", b.clock(now).UTC().Format(http.TimeFormat))
	}
}
