package audatex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// errInvalidGrant is RFC 6749's invalid_grant: the refresh token (or code) is spent, expired or
// revoked.
var errInvalidGrant = errors.New("invalid_grant")

// pair is what the token endpoint returned.
type pair struct {
	access, refresh relay.Secret
	at, expires     time.Time
	scopes          []string // nil if the response does not contain them
	correlationID   string
}

// exchange spends a refresh token. With an error the pair may hold the refresh token that replaces
// it, which must be stored; without one it holds the refresh token to be used next, rotated or not.
func (t *Tokens) exchange(ctx context.Context, refresh relay.Secret) (pair, error) {
	got, err := t.token(ctx, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh.Reveal()}})
	if err == nil && got.refresh.Empty() {
		got.refresh = refresh
	}
	return got, err
}

// Consent is a request to a user. Challenge is PKCE's (RFC 7636, S256); there is none if it is
// empty.
type Consent struct {
	State, RedirectURI, Challenge string
}

// ConsentURL returns the vendor's page where a user consents. The state comes back with the code.
func (t *Tokens) ConsentURL(c Consent) string {
	query := url.Values{
		"response_type": {"code"}, "client_id": {t.cfg.ClientID}, "redirect_uri": {c.RedirectURI}, "state": {c.State},
	}
	if len(t.cfg.Scopes) > 0 {
		query.Set("scope", strings.Join(t.cfg.Scopes, " "))
	}
	if c.Challenge != "" {
		query.Set("code_challenge", c.Challenge)
		query.Set("code_challenge_method", "S256")
	}
	return t.cfg.AuthURL + "?" + query.Encode()
}

// Code is the code of a consent. RedirectURI must be the one in the request for the consent;
// Verifier belongs to the request's PKCE challenge, if there was one.
type Code struct {
	Code, RedirectURI string
	Verifier          relay.Secret
}

// Granted is what a code was exchanged for.
type Granted struct {
	// AccessToken is empty if only the refresh token could be read; then ExpiresAt is RefreshedAt.
	AccessToken, RefreshToken relay.Secret
	RefreshedAt, ExpiresAt    time.Time
	// Scopes are the granted scopes. nil means that the response does not contain them, so they are
	// the requested ones (RFC 6749, section 5.1).
	Scopes        []string
	CorrelationID string
}

// ExchangeCode spends the code of a consent. The outcome is Unauthorised if the code is refused,
// and Forbidden if the vendor refuses the relay's client or its request. The caller must store the
// refresh token: it exists nowhere else.
func (t *Tokens) ExchangeCode(ctx context.Context, code Code) (Granted, error) {
	in, err := t.host.enter(ctx, OpToken, PriorityExchange, "")
	if err != nil {
		return Granted{}, err
	}
	defer in.leave()
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code.Code}, "redirect_uri": {code.RedirectURI}}
	if !code.Verifier.Empty() {
		form.Set("code_verifier", code.Verifier.Reveal())
	}
	got, err := t.token(ctx, form)
	in.report(replyOf(ctx, err), err)
	if err == nil && got.refresh.Empty() {
		err = &Error{
			Operation: OpToken, Outcome: Malformed, Status: http.StatusOK, CorrelationID: got.correlationID,
			err: errors.New("answer holds no refresh token"),
		}
	}
	if err != nil && got.refresh.Empty() {
		return Granted{}, fmt.Errorf("exchanging the code of a consent: %w", err)
	}
	return Granted{
		AccessToken: got.access, RefreshToken: got.refresh, RefreshedAt: got.at, ExpiresAt: got.expires,
		Scopes:        got.scopes,
		CorrelationID: got.correlationID,
	}, nil
}

// token sends one request to the token endpoint. Its errors quote nothing of the response, which
// contains tokens. The pair has what could be read, even if there is an error.
func (t *Tokens) token(ctx context.Context, form url.Values) (pair, error) {
	ctx, cancel := within(ctx, t.cfg.Timeout)
	defer cancel()
	start := time.Now()
	reply := t.post(ctx, form)
	answer := readTokenAnswer(reply.body)
	outcome, reason := reply.judge(answer)
	t.cfg.Metrics.called(ctx, t.log, OpToken, outcome, reply.status, start, reply.correlationID)
	p := pair{correlationID: reply.correlationID, at: start.UTC(), expires: start.UTC(), scopes: answer.scopes}
	if outcome == Done {
		p.access, p.refresh, p.expires = answer.access, answer.refresh, start.Add(answer.life).UTC()
		return p, nil
	}
	if reply.status/100 == 2 { // a refusal may repeat what it refuses
		p.refresh = answer.refresh
	}
	return p, &Error{
		Operation: OpToken, Outcome: outcome, Status: reply.status, CorrelationID: reply.correlationID,
		RetryAfter: reply.stop,
		AnswerLost: reply.sent && reply.status/100 != 4, noAnswer: reply.err != nil && p.refresh.Empty(), err: reason,
	}
}

// tokenReply is the response to one request to the token endpoint.
type tokenReply struct {
	sent          bool // there was a connection
	status        int
	correlationID string
	stop          time.Duration
	body          []byte // as far as it was read
	encoding      error  // why body cannot be read
	err           error  // of the transport or of reading: body is incomplete
}

// post sends the form with the client's credentials and reads the response, within limits.
func (t *Tokens) post(ctx context.Context, form url.Values) (reply tokenReply) {
	if t.cfg.AuthStyle != AuthBasic {
		form.Set("client_id", t.cfg.ClientID)
		form.Set("client_secret", t.cfg.ClientSecret.Reveal())
	}
	var secured handshake
	ctx = secured.watch(ctx, &reply.sent)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.cfg.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		reply.err = errors.New("the request cannot be made")
		return reply
	}
	if t.cfg.AuthStyle == AuthBasic { // RFC 6749, section 2.3.1, requires both to be escaped
		req.SetBasicAuth(url.QueryEscape(t.cfg.ClientID), url.QueryEscape(t.cfg.ClientSecret.Reveal()))
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", identity)
	req.Header.Set("User-Agent", t.cfg.UserAgent)
	res, err := t.http.Do(req)
	if err != nil {
		reply.err = secured.explain(cause(ctx, err), reply.sent)
		return reply
	}
	defer res.Body.Close()
	reply.status, reply.correlationID = res.StatusCode, correlationID(res.Header)
	t.cfg.Metrics.answered(res, time.Now())
	reply.stop = t.cfg.Budget.Observe(res.StatusCode, res.Header)
	got, err := readContent(res, maxTokenBody)
	if err == nil && got.more {
		err = errors.New("answer too large")
	}
	if err != nil {
		reply.err = cause(ctx, err)
	}
	if reply.encoding = got.stillEncoded(); reply.encoding == nil {
		reply.body = got.body
	}
	return reply
}

// oauthErrors are the codes of RFC 6749, section 5.2. A code outside this list is not repeated,
// because it is foreign text.
var oauthErrors = []string{
	"invalid_request", "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
}

// judge returns the outcome of a request, and the reason in words that quote nothing. If the tokens
// are there they count, no matter what else the response contains.
func (r tokenReply) judge(a tokenAnswer) (Outcome, error) {
	success := r.status/100 == 2
	switch {
	case success && !a.access.Empty() && (r.err == nil || !a.refresh.Empty()):
		return Done, nil
	case r.err != nil:
		return Unavailable, r.err
	case success && !a.refresh.Empty():
		return Malformed, errors.New("the answer holds a refresh token but no access token that can be read")
	case success && r.encoding != nil:
		return Malformed, r.encoding
	case r.status >= 500 || r.status == http.StatusTooManyRequests:
		return statusOutcome(r.status), nil
	}
	switch code := strings.ToLower(a.code); {
	case code == errInvalidGrant.Error():
		return Unauthorised, errInvalidGrant
	case slices.Contains(oauthErrors, code):
		return Forbidden, fmt.Errorf("the vendor refuses the relay's own client: %s", code)
	case success && code == "":
		return Malformed, errors.New("answer holds no token" + r.kind())
	}
	outcome := statusOutcome(r.status)
	if outcome == Done { // 200 with an unknown error code
		outcome = Malformed
	}
	if outcome == Unauthorised { // this is about the client's credentials, not the user's consent
		outcome = Forbidden
	}
	unknown := errors.New("the token endpoint refuses the request without a known OAuth error code" + r.kind())
	return outcome, cmp.Or(r.encoding, unknown)
}

// kind describes a response that is not JSON, without quoting it.
func (r tokenReply) kind() string {
	what, _, _ := strings.Cut(describe(r.body), ":")
	what, _, _ = strings.Cut(what, " (")
	if what == "" || what == "an error" {
		return ""
	}
	return ": it is " + what
}
