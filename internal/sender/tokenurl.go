package sender

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// maxAccessToken is the longest access token that is accepted, in bytes.
const maxAccessToken = 8 << 10

// errorCodes are the error codes of a token URL that are repeated in an attempt's error: those of
// RFC 6749 section 5.2, and others in use. Nothing else of its responses is shown.
var errorCodes = map[string]bool{
	"invalid_request": true, "invalid_client": true, "invalid_grant": true, "unauthorized_client": true,
	"unsupported_grant_type": true, "invalid_scope": true, "invalid_target": true, "access_denied": true,
	"server_error": true, "temporarily_unavailable": true,
}

// fetchToken gets an access token from a token URL. Its error is a *tokenError.
func (s *Sender) fetchToken(ctx context.Context, callback string, c *ClientCredentials) (*accessToken, error) {
	config := clientcredentials.Config{
		ClientID: c.ID, ClientSecret: c.Secret, TokenURL: c.TokenURL, Scopes: strings.Fields(c.Scope),
		AuthStyle: oauth2.AuthStyleInHeader,
	}
	if c.InForm {
		config.AuthStyle = oauth2.AuthStyleInParams
	}
	if c.Audience != "" {
		config.EndpointParams = url.Values{"audience": {c.Audience}}
	}
	client := &http.Client{
		Transport:     tokenTransport{s, callback},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	got := time.Now()
	token, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		return nil, s.tokenFailure(ctx, err)
	}
	return newAccessToken(token, got)
}

// newAccessToken returns a token as it is used, or a *tokenError if it cannot be.
func newAccessToken(token *oauth2.Token, got time.Time) (*accessToken, error) {
	text := token.AccessToken
	switch {
	case token.TokenType != "" && !strings.EqualFold(token.TokenType, "bearer"):
		return nil, &tokenError{reason: "its token is not of the type Bearer"}
	case len(text) > maxAccessToken:
		return nil, &tokenError{reason: "its token is longer than 8 KiB"}
	case !visible(text) || strings.ContainsFunc(text, func(c rune) bool { return c > '~' }):
		return nil, &tokenError{reason: "its token holds what a header cannot"}
	}
	a := &accessToken{authorization: Bearer(text).value, got: got}
	if life := token.Expiry.Sub(got); !token.Expiry.IsZero() {
		a.renew = got.Add(life - min(life/5, maxRenewAhead))
		a.end = got.Add(life - min(life/20, maxTokenSkew))
	}
	return a, nil
}

// tokenFailure describes in our own words why a token URL gave no token.
func (s *Sender) tokenFailure(ctx context.Context, err error) error {
	var (
		refused *oauth2.RetrieveError
		failed  *url.Error
	)
	switch {
	case errors.As(err, &refused):
		return refusal(refused)
	case !errors.As(err, &failed):
		return &tokenError{reason: "its answer holds no access token"}
	case errors.Is(err, errTooLarge):
		return &tokenError{reason: "its answer is larger than 64 KiB"}
	case errors.Is(err, errTokenCut):
		return &tokenError{reason: "its answer broke off"}
	}
	var got stage
	if errors.Is(err, errAsked) {
		got = connected
	}
	var a Attempt
	s.classify(ctx, got, err, tokenTimeout, &a)
	if ctx.Err() != nil { // of the request's own time, or because the relay stops, which nobody waits for then
		a.Error = "no answer within " + tokenTimeout.String()
	}
	return &tokenError{reason: strings.ReplaceAll(a.Error, "the receiver", "its server")}
}

// refusal describes a response that is not 2xx, or names an error.
func refusal(e *oauth2.RetrieveError) error {
	status := e.Response.StatusCode
	failure := &tokenError{reason: "answered " + strconv.Itoa(status)}
	switch {
	case errorCodes[e.ErrorCode]:
		failure.reason += " (" + e.ErrorCode + ")"
	case status >= 300 && status <= 399:
		failure.reason += ": redirects are not followed"
	}
	h := e.Response.Header
	if asksToWait(status) {
		failure.retryAfter, _ = retryAfter(h.Get("Retry-After"), h.Get("Date"), time.Now())
	}
	return failure
}

// The errors of tokenTransport besides those of connecting.
var (
	errAsked    = errors.New("the token was asked for")
	errTokenCut = errors.New("the answer broke off")
)

// tokenTransport carries a request for a token over a connection of the Sender's own kind: within
// the number of connections, to an address that callbacks may reach, through their proxy. The
// connection is used once. Of the response's header it returns nothing but what asks to wait, so that
// the body is read as JSON whatever its Content-Type is, and no redirect has a target.
type tokenTransport struct {
	s        *Sender
	callback string
}

// RoundTrip implements http.RoundTripper.
func (t tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	defer req.Body.Close()
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	target, err := parseTarget(req.URL.String())
	if err != nil {
		return nil, err
	}
	request, ok := t.s.appendTokenHead(nil, target, req.Header, len(body))
	if !ok {
		return nil, &notHTTP{"the request cannot be sent: it holds what HTTP does not allow"}
	}
	ctx := req.Context()
	deadline, _ := ctx.Deadline()
	c, err := t.s.connect(ctx, target, key{t.callback, req.URL.String()}, deadline, new(Phases))
	if err != nil {
		return nil, err
	}
	defer t.s.pool.release()
	defer c.close()
	stop := context.AfterFunc(ctx, c.wire.abort)
	defer stop()
	c.send(append(request, body...), nil)
	var h head
	answer, err := readToken(c, &h)
	if err != nil {
		return nil, errors.Join(errAsked, err)
	}
	resp := &http.Response{
		StatusCode: h.status, Status: strconv.Itoa(h.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(answer)), ContentLength: int64(len(answer)),
		Request: req,
	}
	for name, value := range map[string]string{"Retry-After": h.retryAfter, "Date": h.date} {
		if value != "" {
			resp.Header.Set(name, value)
		}
	}
	return resp, nil
}

// readToken reads a response, of which the body may have 64 KiB.
func readToken(c *conn, h *head) ([]byte, error) {
	r := newReader(c.rw)
	defer r.free()
	if err := r.readStatus(h); err != nil {
		return nil, err
	}
	if err := r.readHead(h); err != nil {
		return nil, err
	}
	body := make([]byte, maxBody)
	n, whole := r.readBody(h, body)
	switch {
	case n == len(body) || h.length > maxBody:
		return nil, errTooLarge
	case !whole && (h.length >= 0 || h.coding):
		return nil, errTokenCut
	}
	return body[:n], nil
}

// appendTokenHead appends the request line and the header of a request for a token, with the line
// that ends it.
func (s *Sender) appendTokenHead(b []byte, target *url.URL, header http.Header, length int) (_ []byte, ok bool) {
	b, ok = s.appendStart(b, target)
	b, ok = appendField(b, ok, "Accept", "application/json")
	for _, name := range []string{"Content-Type", "Authorization"} {
		if value := header.Get(name); value != "" {
			b, ok = appendField(b, ok, name, value)
		}
	}
	b, ok = appendField(b, ok, "Content-Length", strconv.Itoa(length))
	if s.throughProxy(target) && s.proxyAuthorization != "" {
		b, ok = appendField(b, ok, "Proxy-Authorization", s.proxyAuthorization)
	}
	b, ok = appendField(b, ok, "Connection", "close")
	return append(b, "\r\n"...), ok
}
