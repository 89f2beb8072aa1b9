package audatex

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"slices"
	"time"

	"golang.org/x/oauth2"
)

// defaultLife is the documented life of an access token, for an answer that does not say.
const defaultLife = 1800 * time.Second

// errInvalidGrant is RFC 6749's invalid_grant: the refresh token (or code) is spent, expired or revoked.
var errInvalidGrant = errors.New("invalid_grant")

// pair is what the token endpoint gave.
type pair struct {
	access, refresh Secret
	at, expires     time.Time
	correlationID   string
}

// exchange spends a refresh token.
func (t *Tokens) exchange(ctx context.Context, refresh Secret) (pair, error) {
	return t.token(ctx, func(ctx context.Context) (*oauth2.Token, error) {
		return t.oauth.TokenSource(ctx, &oauth2.Token{RefreshToken: refresh.Reveal()}).Token()
	})
}

// ConsentURL is the vendor's page where a user consents; state comes back with the code.
func (t *Tokens) ConsentURL(state, redirectURI string) string {
	return t.oauth.AuthCodeURL(state, oauth2.SetAuthURLParam("redirect_uri", redirectURI))
}

// ExchangeCode spends the code of a consent and returns the record to be stored for its connection. redirectURI must be
// the one the consent was asked with. A refused code is Unauthorised.
func (t *Tokens) ExchangeCode(ctx context.Context, code, redirectURI string) (TokenRecord, error) {
	if err := t.cfg.Budget.Wait(ctx); err != nil {
		return TokenRecord{}, &Error{Operation: OpToken, Outcome: Throttled, err: err}
	}
	got, err := t.token(ctx, func(ctx context.Context) (*oauth2.Token, error) {
		return t.oauth.Exchange(ctx, code, oauth2.SetAuthURLParam("redirect_uri", redirectURI))
	})
	if err == nil && got.refresh.Empty() {
		err = &Error{Operation: OpToken, Outcome: Malformed, Status: 200, CorrelationID: got.correlationID, err: errors.New("answer holds no refresh token")}
	}
	if err != nil {
		return TokenRecord{}, fmt.Errorf("exchanging the code of a consent: %w", err)
	}
	return TokenRecord{AccessToken: got.access, RefreshToken: got.refresh, RefreshedAt: got.at, ExpiresAt: got.expires}, nil
}

// token makes one request to the token endpoint. Errors of the oauth2 package are never passed on: they quote the
// answer, and an answer of this endpoint holds tokens.
func (t *Tokens) token(ctx context.Context, get func(context.Context) (*oauth2.Token, error)) (pair, error) {
	ctx, cancel := within(ctx, t.cfg.Timeout)
	defer cancel()
	rec := &tokenRecorder{next: t.http.Transport, userAgent: t.cfg.UserAgent, budget: t.cfg.Budget}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { rec.sent = true }})
	start := time.Now()
	tok, err := get(context.WithValue(ctx, oauth2.HTTPClient, httpClient(rec)))
	outcome, reason := Done, error(nil)
	if err != nil {
		outcome, reason = rec.judge(ctx, err)
	}
	t.cfg.Metrics.request(OpToken, outcome, time.Since(start))
	t.log.LogAttrs(ctx, slog.LevelDebug, "vendor call",
		slog.String("operation", string(OpToken)), slog.String("outcome", outcome.String()), slog.Int("status", rec.status),
		slog.Duration("took", time.Since(start)), slog.String("correlation_id", rec.correlationID))
	if outcome != Done {
		return pair{correlationID: rec.correlationID}, &Error{
			Operation: OpToken, Outcome: outcome, Status: rec.status, CorrelationID: rec.correlationID,
			RetryAfter: rec.stop, AnswerLost: rec.sent && rec.status/100 != 4, err: reason,
		}
	}
	p := pair{
		access: NewSecret(tok.AccessToken), refresh: NewSecret(tok.RefreshToken),
		at: start.UTC(), expires: start.Add(defaultLife).UTC(), correlationID: rec.correlationID,
	}
	if tok.ExpiresIn > 0 {
		p.expires = start.Add(time.Duration(tok.ExpiresIn) * time.Second).UTC()
	}
	return p, nil
}

// oauthErrors are the codes of RFC 6749, section 5.2. A code outside this list is not repeated: it is foreign text.
var oauthErrors = []string{"invalid_request", "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}

// tokenRecorder notes what oauth2 does not pass on of the one request made through it, and sees to it that an answer
// that can be read is read: a rotated refresh token in it exists only once.
type tokenRecorder struct {
	next      http.RoundTripper
	userAgent string
	budget    *Budget

	sent          bool
	status        int
	correlationID string
	stop          time.Duration
	err           error // of the transport or of reading
}

// RoundTrip sends the request and reads the whole answer, bounded.
func (r *tokenRecorder) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", identity)
	req.Header.Set("User-Agent", r.userAgent)
	res, err := r.next.RoundTrip(req)
	if err != nil {
		r.err = err
		return nil, err
	}
	r.status, r.correlationID = res.StatusCode, correlationID(res.Header)
	r.stop = r.budget.Observe(res.StatusCode, res.Header)
	body, more, err := readBody(res.Body, maxOtherBody)
	res.Body.Close()
	if err == nil && more {
		err = errors.New("answer too large")
	}
	if err != nil {
		r.err = err
		return nil, err
	}
	body = trimJSON(body)
	if len(body) > 0 && body[0] == '{' {
		// oauth2 goes by the type, and would take JSON sent as text/plain for a form without tokens.
		res.Header.Set("Content-Type", "application/json")
	}
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return res, nil
}

// judge says what a failed request came to, and why in words that quote nothing.
func (r *tokenRecorder) judge(ctx context.Context, err error) (Outcome, error) {
	if r.err != nil {
		return Unavailable, cause(ctx, r.err)
	}
	refusal, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		if r.status == 0 {
			return Unavailable, cause(ctx, err)
		}
		return Malformed, errors.New("answer holds no token")
	}
	switch code := refusal.ErrorCode; {
	case r.status >= 500 || r.status == http.StatusTooManyRequests:
		return statusOutcome(r.status), nil
	case code == errInvalidGrant.Error():
		return Unauthorised, errInvalidGrant
	case slices.Contains(oauthErrors, code):
		return Forbidden, fmt.Errorf("the vendor refuses the relay's own client: %s", code)
	}
	outcome := statusOutcome(r.status)
	if outcome == Done { // 200 with an unknown error code
		outcome = Malformed
	}
	if outcome == Unauthorised { // the client's credentials, not the user's consent
		outcome = Forbidden
	}
	return outcome, errors.New("the token endpoint refuses the request without a known OAuth error code")
}
