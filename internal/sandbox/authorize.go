package sandbox

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// codeLifetime is how long an authorization code is valid. RFC 6749 4.1.2 asks for at most ten
// minutes; a strict vendor gives one.
const codeLifetime = time.Minute

// code is an authorization code: its consent, and what it is bound to (RFC 6749 4.1.3, RFC 7636
// 4.4). It is kept after its use, so that a second use can be distinguished from an unknown code.
type code struct {
	consent     Consent
	redirectURI string
	challenge   string // S256, "" for none
	expires     time.Time
	used        bool
	grant       *grant // the grant made by its use, nil if that was refused
}

// SetAutoConsent makes the authorize page send the browser straight back with a code for this
// consent, with the scopes that were asked for. nil shows the pages again.
func (s *Sandbox) SetAutoConsent(c *Consent) error {
	if c != nil {
		full, err := s.complete(*c)
		if err != nil {
			return err
		}
		c = &full
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auto = c
	return nil
}

// authorization is a valid request for consent.
type authorization struct {
	ClientID, RedirectURI, State string

	scopes    []string // asked for
	challenge string
	query     string // the request as it was received
	redirect  *url.URL
}

// s256 matches a challenge of the method S256: 32 bytes in unpadded base64url.
var s256 = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// authorization parses a request for consent. An unknown client or redirect URI is reported to the
// user and never redirected to (RFC 6749 4.1.2.1); other errors are sent back as OAuth errors.
func (s *Sandbox) authorization(query string) (authorization, answer, bool) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return authorization{}, plain(http.StatusBadRequest, "The query cannot be read."), false
	}
	a := authorization{
		ClientID: q.Get("client_id"), RedirectURI: q.Get("redirect_uri"), State: q.Get("state"),
		scopes: strings.Fields(q.Get("scope")), challenge: q.Get("code_challenge"), query: query,
	}
	if a.ClientID != s.cfg.ClientID || len(q["client_id"]) > 1 {
		return a, plain(http.StatusBadRequest, "Unknown client_id."), false
	}
	u, err := url.Parse(a.RedirectURI)
	absolute := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.Fragment == ""
	if !absolute || len(q["redirect_uri"]) > 1 {
		return a, plain(http.StatusBadRequest, "redirect_uri is not an absolute http or https URL."), false
	}
	if len(s.cfg.RedirectURIs) > 0 && !slices.Contains(s.cfg.RedirectURIs, a.RedirectURI) {
		return a, plain(http.StatusBadRequest, "redirect_uri is not registered for this client."), false
	}
	a.redirect = u
	for _, values := range q {
		if len(values) > 1 { // RFC 6749 3.1
			return a, a.back("error", "invalid_request"), false
		}
	}
	if q.Get("response_type") != "code" {
		return a, a.back("error", "unsupported_response_type"), false
	}
	unknown := func(x string) bool { return !s.knowsScope(x) }
	if len(a.scopes) == 0 || slices.ContainsFunc(a.scopes, unknown) {
		return a, a.back("error", "invalid_scope"), false
	}
	switch s.Behaviour().PKCE {
	case PKCEIgnore:
		a.challenge = ""
	case PKCERefuse:
		if q.Has("code_challenge") || q.Has("code_challenge_method") {
			return a, a.back("error", "invalid_request"), false
		}
	case PKCEVerify:
		asked := q.Has("code_challenge") || q.Has("code_challenge_method")
		if asked && (q.Get("code_challenge_method") != "S256" || !s256.MatchString(a.challenge)) {
			return a, a.back("error", "invalid_request"), false
		}
	}
	return a, answer{}, true
}

// back sends the browser back to the client.
func (a authorization) back(key, value string) answer {
	u := *a.redirect
	q := u.Query()
	q.Set(key, value)
	if a.State != "" {
		q.Set("state", a.State)
	}
	u.RawQuery = q.Encode()
	return answer{status: http.StatusFound, header: map[string]string{
		"Location": u.String(), "Cache-Control": "no-store",
	}}
}

// giveCode sends the browser back with a code for a given consent, with those scopes that can be
// granted.
func (s *Sandbox) giveCode(a authorization, given Consent, scopes []string) answer {
	given.Scopes = s.Behaviour().grantable(scopes)
	if len(given.Scopes) == 0 {
		return a.back("error", "access_denied")
	}
	s.mu.Lock()
	s.nextToken++
	value := "code-" + s.dice("code", s.nextToken).token()
	s.codes[value] = &code{
		consent: given, redirectURI: a.RedirectURI, challenge: a.challenge, expires: s.now().Add(codeLifetime),
	}
	s.mu.Unlock()
	return a.back("code", value)
}
