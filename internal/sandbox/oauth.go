package sandbox

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// oauthError returns an error response according to RFC 6749 5.2.
func oauthError(status int, name string) answer {
	a := jsonValue(status, map[string]string{"error": name})
	a.header = map[string]string{"Cache-Control": "no-store"}
	if status == http.StatusUnauthorized {
		a.header["WWW-Authenticate"] = `Basic realm="AudaConnect"`
	}
	return a
}

// token handles the token endpoint, with the grants authorization_code and refresh_token. enter has
// parsed the form.
func (s *Sandbox) token(c call) answer {
	media, _, err := mime.ParseMediaType(c.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" {
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
		return s.exchange(c.PostForm)
	case "refresh_token":
		return s.refresh(c.PostForm.Get("refresh_token"))
	case "":
		return oauthError(http.StatusBadRequest, "invalid_request")
	default:
		return oauthError(http.StatusBadRequest, "unsupported_grant_type")
	}
}

// knownClient checks the client's credentials, which may be in the form or in HTTP Basic, but not
// in both (RFC 6749 2.3).
func (s *Sandbox) knownClient(r *http.Request) (ok, twice bool) {
	id, secret, basic := r.BasicAuth()
	if !basic {
		return s.is(r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")), false
	}
	if r.PostForm.Has("client_secret") {
		return false, true
	}
	// According to RFC 6749 2.3.1 both are form-encoded before they are joined. Many clients do not
	// do that, and servers of this kind accept either.
	plainID, err1 := url.QueryUnescape(id)
	plainSecret, err2 := url.QueryUnescape(secret)
	return s.is(id, secret) || err1 == nil && err2 == nil && s.is(plainID, plainSecret), false
}

func (s *Sandbox) is(id, secret string) bool {
	return id == s.cfg.ClientID && subtle.ConstantTimeCompare([]byte(secret), []byte(s.cfg.ClientSecret)) == 1
}

// exchange returns the tokens for a code. A code can be used once; a second use revokes the grant
// made by the first.
func (s *Sandbox) exchange(form url.Values) answer {
	behaviour := s.Behaviour()
	if behaviour.PKCE == PKCERefuse && form.Has("code_verifier") {
		return oauthError(http.StatusBadRequest, "invalid_request")
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.codes[form.Get("code")]
	if c == nil {
		return oauthError(http.StatusBadRequest, "invalid_grant")
	}
	if c.used {
		s.tally.CodesReused++
		if c.grant != nil && !s.cfg.Tame && !behaviour.KeepCodeGrants {
			c.grant.revoked = true
		}
		return oauthError(http.StatusBadRequest, "invalid_grant")
	}
	c.used = true
	if !now.Before(c.expires) || c.redirectURI != form.Get("redirect_uri") {
		return oauthError(http.StatusBadRequest, "invalid_grant")
	}
	if behaviour.PKCE == PKCEVerify && !c.proves(form) {
		s.tally.VerifiersRefused++
		return oauthError(http.StatusBadRequest, "invalid_grant")
	}
	s.tally.CodesExchanged++
	c.grant = s.newGrant(c.consent)
	return s.pair(c.grant, now)
}

// verifier matches what RFC 7636 4.1 allows.
var verifier = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)

// proves checks the verifier of a code's challenge. Without a challenge there must be no verifier
// (RFC 9700 4.8.2): a client that sends one has lost its challenge on the way.
func (c *code) proves(form url.Values) bool {
	if c.challenge == "" {
		return !form.Has("code_verifier")
	}
	value := form.Get("code_verifier")
	sum := sha256.Sum256([]byte(value))
	return verifier.MatchString(value) && base64.RawURLEncoding.EncodeToString(sum[:]) == c.challenge
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

// pair returns a new access token and a new refresh token. The caller must hold mu.
func (s *Sandbox) pair(g *grant, now time.Time) answer {
	access := s.newAccessToken(g, now)
	body := map[string]any{
		"access_token":  access.value,
		"token_type":    "bearer", // lower case, as in ASP.NET's OAuth server
		"expires_in":    max(1, int64(s.cfg.AccessTokenLifetime/time.Second)),
		"refresh_token": s.newRefreshToken(g),
		"scope":         strings.Join(g.consent.Scopes, " "),
	}
	if s.Behaviour().OmitScope {
		delete(body, "scope")
	}
	if !s.cfg.Tame {
		// ASP.NET's OAuth server adds these; clients must ignore them.
		body["userName"] = g.consent.User
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
