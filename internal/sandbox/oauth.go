package sandbox

import (
	"crypto/subtle"
	"encoding/json"
	"html/template"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// codeLifetime is how long an authorization code is good for. RFC 6749 4.1.2
// asks for at most ten minutes; a strict vendor gives one.
const codeLifetime = time.Minute

// code is an authorization code: the consent behind it and the redirect URI it
// is bound to (RFC 6749 4.1.3).
type code struct {
	consent     Consent
	redirectURI string
	expires     time.Time
}

// SetAutoConsent signs a user in for good: the authorize page sends the browser
// straight back with a code for this consent, its scopes being those asked for.
// nil shows the page again.
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

// consentPage is where the vendor would have its user sign in: here one says
// who one is.
var consentPage = template.Must(template.New("consent").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>AudaConnect sandbox: consent</title>
<h1>Grant access?</h1>
<p>The application {{.ClientID}} asks for: {{.Scope}}</p>
<form method="post" action="{{.Action}}">
<input type="hidden" name="client_id" value="{{.ClientID}}">
<input type="hidden" name="redirect_uri" value="{{.RedirectURI}}">
<input type="hidden" name="response_type" value="code">
<input type="hidden" name="scope" value="{{.Scope}}">
<input type="hidden" name="state" value="{{.State}}">
<p><label>Level <select name="level"><option>site<option>company<option>user</select></label>
<p><label>Site ids, separated by spaces <input name="sites" value="4711" required></label>
<p><label>Company code <input name="company"></label>
<p><label>User <input name="user"></label>
<p><button name="decision" value="allow">Allow</button> <button name="decision" value="deny">Deny</button>
</form>
`))

// authorization is a checked request for consent.
type authorization struct {
	ClientID, RedirectURI, Scope, State, Action string
	redirect                                    *url.URL
}

// authorization reads a request for consent. An unknown client or redirect URI
// is told to the user and never redirected to (RFC 6749 4.1.2.1); the rest goes
// back as an OAuth error.
func (s *Sandbox) authorization(q url.Values) (authorization, answer, bool) {
	a := authorization{
		ClientID: q.Get("client_id"), RedirectURI: q.Get("redirect_uri"),
		Scope: q.Get("scope"), State: q.Get("state"), Action: AuthorizePath,
	}
	if a.ClientID != s.cfg.ClientID {
		return a, plain(http.StatusBadRequest, "Unknown client_id."), false
	}
	u, err := url.Parse(a.RedirectURI)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.Fragment != "" {
		return a, plain(http.StatusBadRequest, "redirect_uri is not an absolute http or https URL."), false
	}
	if len(s.cfg.RedirectURIs) > 0 && !slices.Contains(s.cfg.RedirectURIs, a.RedirectURI) {
		return a, plain(http.StatusBadRequest, "redirect_uri is not registered for this client."), false
	}
	a.redirect = u
	if q.Get("response_type") != "code" {
		return a, a.back("error", "unsupported_response_type"), false
	}
	scopes := strings.Fields(a.Scope)
	if len(scopes) == 0 || slices.ContainsFunc(scopes, func(x string) bool { return x != ScopeBasic && x != s.cfg.OrdersScope }) {
		return a, a.back("error", "invalid_scope"), false
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
	return answer{status: http.StatusFound, header: map[string]string{"Location": u.String()}}
}

func (s *Sandbox) authorize(c call) answer {
	a, refusal, ok := s.authorization(c.URL.Query())
	if !ok {
		return refusal
	}
	s.mu.Lock()
	auto := s.auto
	s.mu.Unlock()
	if auto != nil {
		return s.giveCode(a, *auto)
	}
	var page strings.Builder
	if err := consentPage.Execute(&page, a); err != nil {
		return plain(http.StatusInternalServerError, textBroken)
	}
	return answer{status: http.StatusOK, contentType: "text/html; charset=utf-8", body: []byte(page.String())}
}

// consent is the page's form coming back.
func (s *Sandbox) consent(c call) answer {
	if err := c.ParseForm(); err != nil {
		return plain(http.StatusBadRequest, "The form cannot be read.")
	}
	a, refusal, ok := s.authorization(c.PostForm)
	if !ok {
		return refusal
	}
	if c.PostForm.Get("decision") != "allow" {
		return a.back("error", "access_denied")
	}
	given, err := s.complete(Consent{
		Level: Level(c.PostForm.Get("level")), Sites: strings.Fields(c.PostForm.Get("sites")),
		CompanyCode: c.PostForm.Get("company"), User: c.PostForm.Get("user"),
	})
	if err != nil {
		return plain(http.StatusBadRequest, err.Error())
	}
	return s.giveCode(a, given)
}

func (s *Sandbox) giveCode(a authorization, given Consent) answer {
	given.Scopes = strings.Fields(a.Scope)
	s.mu.Lock()
	s.nextToken++
	value := "code-" + s.dice("code", s.nextToken).token()
	s.codes[value] = &code{consent: given, redirectURI: a.RedirectURI, expires: s.now().Add(codeLifetime)}
	s.mu.Unlock()
	return a.back("code", value)
}

// oauthError answers as RFC 6749 5.2 says.
func oauthError(status int, name string) answer {
	a := jsonValue(status, map[string]string{"error": name})
	a.header = map[string]string{"Cache-Control": "no-store"}
	if status == http.StatusUnauthorized {
		a.header["WWW-Authenticate"] = `Basic realm="AudaConnect"`
	}
	return a
}

// token is the token endpoint: the grants authorization_code and refresh_token.
// enter has parsed the form.
func (s *Sandbox) token(c call) answer {
	if media, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || media != "application/x-www-form-urlencoded" {
		return oauthError(http.StatusBadRequest, "invalid_request")
	}
	if ok, twice := s.knownClient(c.Request); twice {
		return oauthError(http.StatusBadRequest, "invalid_request")
	} else if !ok {
		s.mu.Lock()
		s.tally.ClientsRefused++
		s.mu.Unlock()
		return oauthError(http.StatusUnauthorized, "invalid_client")
	}
	switch c.PostForm.Get("grant_type") {
	case "authorization_code":
		return s.exchange(c.PostForm.Get("code"), c.PostForm.Get("redirect_uri"))
	case "refresh_token":
		return s.refresh(c.PostForm.Get("refresh_token"))
	case "":
		return oauthError(http.StatusBadRequest, "invalid_request")
	default:
		return oauthError(http.StatusBadRequest, "unsupported_grant_type")
	}
}

// knownClient checks the client's credentials, in the form or as HTTP Basic but
// not in both (RFC 6749 2.3).
func (s *Sandbox) knownClient(r *http.Request) (ok, twice bool) {
	id, secret, basic := r.BasicAuth()
	if !basic {
		return s.is(r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")), false
	}
	if r.PostForm.Has("client_secret") {
		return false, true
	}
	// RFC 6749 2.3.1 has both form-encoded before they are joined; many clients
	// do not, and servers of this kind take either.
	plainID, err1 := url.QueryUnescape(id)
	plainSecret, err2 := url.QueryUnescape(secret)
	return s.is(id, secret) || err1 == nil && err2 == nil && s.is(plainID, plainSecret), false
}

func (s *Sandbox) is(id, secret string) bool {
	return id == s.cfg.ClientID && subtle.ConstantTimeCompare([]byte(secret), []byte(s.cfg.ClientSecret)) == 1
}

func (s *Sandbox) exchange(value, redirectURI string) answer {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.codes[value]
	delete(s.codes, value) // good for one try
	if c == nil || !now.Before(c.expires) || c.redirectURI != redirectURI {
		return oauthError(http.StatusBadRequest, "invalid_grant")
	}
	s.tally.CodesExchanged++
	return s.pair(s.newGrant(c.consent), now)
}

func (s *Sandbox) refresh(value string) answer {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.refreshes[value]
	switch {
	case t == nil:
		return oauthError(http.StatusBadRequest, "invalid_grant")
	case t.spent:
		t.grant.counters.SpentRefreshTokens++
		s.tally.SpentRefreshTokens++
		return oauthError(http.StatusBadRequest, "invalid_grant")
	case t.grant.revoked:
		return oauthError(http.StatusBadRequest, "invalid_grant")
	}
	t.spent = true
	t.grant.counters.TokenRefreshes++
	s.tally.TokenRefreshes++
	return s.pair(t.grant, now)
}

// pair answers a new access token and a new refresh token. Called with mu held.
func (s *Sandbox) pair(g *grant, now time.Time) answer {
	access := s.newAccessToken(g, now)
	body := map[string]any{
		"access_token":  access.value,
		"token_type":    "bearer", // lower case, as ASP.NET's OAuth server has it
		"expires_in":    max(1, int64(s.cfg.AccessTokenLifetime/time.Second)),
		"refresh_token": s.newRefreshToken(g),
		"scope":         strings.Join(g.scopes, " "),
	}
	if !s.cfg.Tame {
		// ASP.NET's OAuth server adds such; nobody may stumble over them.
		body["userName"] = g.user
		body[".issued"] = now.UTC().Format(http.TimeFormat)
		body[".expires"] = access.expires.UTC().Format(http.TimeFormat)
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return oauthError(http.StatusInternalServerError, "server_error")
	}
	a := jsonBody(http.StatusOK, encoded)
	a.header = map[string]string{"Cache-Control": "no-store", "Pragma": "no-cache"}
	a.lost = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		g.counters.TokensLost++
		s.tally.TokensLost++
	}
	return a
}
