// Package audatex is the relay's side of the vendor's API: the one place that knows its paths, its shapes, its tokens
// and its habits. It turns every call into one of a closed set of outcomes, reads what the vendor sends tolerantly and
// bounded, carries the digits of an order untouched, and keeps the rotating refresh tokens from being lost.
//
// Client makes single calls with a given access token, Tokens keeps the tokens of every connection, and Session joins
// the two for one connection; the stages of the relay use Sessions. Budget is the allowance of requests that all of
// them share.
package audatex

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// Bounds of what is read of one answer, in bytes.
const (
	maxPageBody  = 8<<20 - 64<<10 // with its envelope it fits into one message of the store
	maxOtherBody = 64 << 10
)

const (
	defaultTimeout   = 30 * time.Second
	defaultUserAgent = "audatex-relay"
	apiPath          = "/v1/bmsapi"
)

// Config is what a Client needs. Only BaseURL is required.
type Config struct {
	// BaseURL of the vendor's API, e.g. https://audaconnect.ax-aee.co.uk/AudaAPI.BMSAPI.
	BaseURL string
	// Timeout of one call from the first byte sent to the last byte read; 30 s if zero. Waiting for the budget does
	// not count.
	Timeout time.Duration
	// MaxOrder returns how many bytes of an order are of use now: as many as the store takes in one message. As much as of a page if nil.
	MaxOrder func() int
	// UserAgent of every request; "audatex-relay" if empty.
	UserAgent string
	// Budget shared with Tokens; without one requests are not limited.
	Budget  *Budget
	Metrics *Metrics
	// Logger gets one line a call at debug level; slog.Default() if nil.
	Logger *slog.Logger
	// DialContext replaces the network; nil is the real one.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client makes calls of the vendor's API. It is safe for concurrent use.
type Client struct {
	base      string
	me        string
	timeout   time.Duration
	userAgent string
	maxOrder  func() int
	budget    *Budget
	circuit   *circuit
	turn      turn
	metrics   *Metrics
	log       *slog.Logger

	// plain keeps connections; once opens a fresh one for each call.
	plain, once *http.Client
}

// New checks cfg and makes a Client. Nothing is sent.
func New(cfg Config) (*Client, error) {
	u, err := endpointURL(cfg.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("base URL of the vendor's API: %w", err)
	}
	if err := checkProxy(http.ProxyFromEnvironment, u); err != nil {
		return nil, err
	}
	c := &Client{
		base:      strings.TrimRight(u.String(), "/") + apiPath,
		me:        meURL(u),
		timeout:   cfg.Timeout,
		userAgent: cfg.UserAgent,
		maxOrder:  cfg.MaxOrder,
		budget:    cfg.Budget,
		metrics:   cfg.Metrics,
		log:       cfg.Logger,
		plain:     httpClient(newTransport(cfg.DialContext, true)),
		once:      httpClient(newTransport(cfg.DialContext, false)),
	}
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	if c.userAgent == "" {
		c.userAgent = defaultUserAgent
	}
	if c.maxOrder == nil {
		c.maxOrder = func() int { return maxPageBody }
	}
	if c.budget == nil {
		c.budget = NewBudget(0)
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	c.metrics.observe(c.budget)
	c.circuit = c.budget.circuit(u.Host, c.metrics, c.log)
	return c, nil
}

// turn is whose turn of the budget a client takes.
type turn struct {
	connection string
	priority   *Priority // of every call; nil: each has its own
	tokens     *Tokens   // of the connection; nil: a call is made with the token that it was given, however long it waits
}

// aged is how long a call may wait for its turn before its token is looked at again.
const aged = time.Second

// errOutdated says that a call's access token ended while the call waited for its turn. Nothing was sent.
var errOutdated = errors.New("the access token ended while the call waited for the vendor's request budget")

// inTurn returns the same client with requests that take a connection's turns of the budget.
func (c *Client) inTurn(t turn) *Client {
	as := *c
	as.turn = t
	return &as
}

// enter waits for the budget's turn of an operation.
func (c *Client) enter(ctx context.Context, op Operation) (*entry, error) {
	return c.circuit.enter(ctx, op, c.priority(op), c.turn.connection)
}

func (c *Client) priority(op Operation) Priority {
	if c.turn.priority != nil {
		return *c.turn.priority
	}
	return op.priority()
}

// PollBound is the longest time from a poll's announcement until Session.Poll has returned: the call, and the one more
// that may follow a 401. An intent's deadline stands on it.
func (c *Client) PollBound() time.Duration { return 2*c.timeout + time.Second }

// Close gives up idle connections. Calls under way are not touched.
func (c *Client) Close() {
	c.plain.CloseIdleConnections()
	c.once.CloseIdleConnections()
}

// endpointURL parses a URL that requests are sent to.
func endpointURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("not a URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("must start with https:// (or http:// for a sandbox)")
	case u.Host == "":
		return nil, errors.New("names no host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("must have no user, query or fragment")
	}
	return u, nil
}

// checkProxy finds a proxy setting that cannot be read at the start: in a failed call net/http would quote it, with the
// password that may be in it.
func checkProxy(proxy func(*http.Request) (*url.URL, error), to *url.URL) error {
	if _, err := proxy(&http.Request{URL: to}); err != nil {
		return fmt.Errorf("the environment's proxy for %s (HTTPS_PROXY or HTTP_PROXY) is no URL", to.Host)
	}
	return nil
}

// newTransport makes a transport that takes its proxy from the environment, as calls to the vendor may have to.
//
// Without keepAlive each request opens a connection of its own. What must not be sent twice goes that way (polls and
// token refreshes): net/http quietly repeats a GET on a kept connection that dies before the answer, which would lose
// the first answer's notifications unseen, and a kept connection that the server has just closed would make a failure
// ambiguous that is none. HTTP/2 is off there for the same reason. And the header of the answer is put in order first; see
// tidied.
//
// Compression is off: a cut answer then still yields every byte that arrived. That it is off is also said to the vendor
// (see identity), as a request that says nothing about encodings allows any (RFC 9110, section 12.5.3). An answer that is encoded
// all the same is decoded by readContent, which net/http's own decoding could not do with bounds and for a cut answer.
func newTransport(dial func(context.Context, string, string) (net.Conn, error), keepAlive bool) *http.Transport {
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConns:           16,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        60 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		DisableKeepAlives:      !keepAlive,
		ForceAttemptHTTP2:      keepAlive,
	}
	if !keepAlive {
		t.DialContext, t.DialTLSContext = tidy(dial), tidyTLS(dial, t.TLSClientConfig)
		t.ReadBufferSize, t.WriteBufferSize = onceBuffer, onceBuffer
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP1(true)
	}
	return t
}

// identity is the Accept-Encoding of every request: the bytes of an answer as they are.
const identity = "identity"

// httpClient never follows a redirect: the API has none, and what stands behind one is a sign-in or maintenance page.
func httpClient(rt http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     rt,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// call is one request to be made.
type call struct {
	op     Operation
	method string
	path   string // under the API's path, escaped
	url    string // the whole address, of a call of another API of the vendor's
	token  relay.Secret
	limit  int64
	http   *http.Client
}

// answer is what came of a call that was answered 2xx. It is also given with an error when bytes of a 200 were read.
type answer struct {
	status    int
	body      []byte
	truncated bool
	// encoding is the Content-Encoding that body still has because it cannot be undone; empty for a plain body.
	encoding      string
	correlationID string
	at            time.Time
}

// do waits for the budget and makes the call. before, if any, runs between the two and answers the context of the call.
//
// Behind a long queue the access token may have ended meanwhile: to send it would spend the turn on a 401. The turn is given
// back then, and the call waits again with a token that is good; once only, so that tokens of the shortest life get their call made too.
func (c *Client) do(ctx context.Context, k call, before func(context.Context) (context.Context, error)) (answer, error) {
	a, err := c.inOrder(ctx, k, before, c.turn.tokens != nil)
	if !errors.Is(err, errOutdated) {
		return a, err
	}
	if k.token, err = c.turn.tokens.Access(ctx, c.turn.connection); err != nil {
		return answer{}, err
	}
	return c.inOrder(ctx, k, before, false)
}

// inOrder makes the call when its turn comes. With judging it answers errOutdated in place of sending a token that has ended.
func (c *Client) inOrder(ctx context.Context, k call, before func(context.Context) (context.Context, error), judging bool) (answer, error) {
	began := time.Now()
	in, err := c.enter(ctx, k.op)
	if err == nil && judging && time.Since(began) > aged {
		switch now, good := c.turn.tokens.current(ctx, c.turn.connection); {
		case good:
			k.token = now
		case ctx.Err() == nil:
			in.leave()
			c.budget.giveBack()
			return answer{}, errOutdated
		}
	}
	if err == nil && in.probe && k.op == OpPoll {
		in, err = c.probe(ctx, k, in)
	}
	if err != nil {
		return answer{}, err
	}
	defer in.leave()
	if before != nil {
		if ctx, err = before(ctx); err != nil {
			return answer{}, err
		}
	}
	a, err := c.timed(ctx, k)
	in.report(replyOf(ctx, err), err)
	return a, err
}

// probe asks a host that has not answered who the token is, before a poll goes there: a poll whose answer is lost has taken what it read
// out of the queue.
func (c *Client) probe(ctx context.Context, k call, in *entry) (*entry, error) {
	_, err := c.timed(ctx, call{op: OpWhoami, method: http.MethodGet, path: "/whoami", token: k.token, limit: maxOtherBody, http: c.plain})
	if !in.report(replyOf(ctx, err), err) {
		return nil, held(k.op)
	}
	return c.enter(ctx, k.op)
}

// timed makes a call that may be made, and tells of it.
func (c *Client) timed(ctx context.Context, k call) (answer, error) {
	start := time.Now()
	a, err := c.send(ctx, k)
	took := time.Since(start)
	outcome := OutcomeOf(err)
	c.metrics.request(k.op, outcome, took)
	c.log.LogAttrs(ctx, slog.LevelDebug, "vendor call",
		slog.String("operation", string(k.op)), slog.String("outcome", outcome.String()), slog.Int("status", a.status),
		slog.Duration("took", took), slog.String("correlation_id", a.correlationID))
	return a, err
}

func (c *Client) send(ctx context.Context, k call) (answer, error) {
	ctx, cancel := within(ctx, c.timeout)
	defer cancel()
	sent := false
	var secured handshake
	ctx = secured.watch(ctx, &sent)
	req, err := http.NewRequestWithContext(ctx, k.method, cmp.Or(k.url, c.base+k.path), nil)
	if err != nil {
		return answer{}, &Error{Operation: k.op, Outcome: Malformed, err: err}
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", identity)
	req.Header.Set("User-Agent", c.userAgent)
	req.Header.Set("Authorization", "Bearer "+k.token.Reveal())

	res, err := k.http.Do(req)
	if sent && k.http == c.plain && k.method == http.MethodGet && isUnreadable(ctx, err) && c.budget.Wait(ctx, c.priority(k.op), c.turn.connection) == nil {
		res, err = c.once.Do(req.Clone(ctx))
	}
	if err != nil {
		return answer{}, &Error{Operation: k.op, Outcome: Unavailable, AnswerLost: sent, err: secured.explain(cause(ctx, err), sent)}
	}
	defer res.Body.Close()
	stop := c.budget.Observe(res.StatusCode, res.Header)
	a := answer{status: res.StatusCode, correlationID: correlationID(res.Header)}
	outcome := statusOutcome(res.StatusCode)
	if outcome != Done {
		refused, _ := readContent(res, maxOtherBody)
		if refused.encoding != "" {
			refused.body = nil
		}
		e := &Error{
			Operation: k.op, Outcome: outcome, Status: a.status, CorrelationID: a.correlationID, RetryAfter: stop,
			Message: message(refusalText(refused.body), k.token),
			// A gateway that gave up on the server behind it cannot say what that server had already handed out.
			AnswerLost: a.status == http.StatusBadGateway || a.status == http.StatusGatewayTimeout,
		}
		if to := redirectTarget(res); to != "" {
			e.Message = "redirects to " + to
		}
		return a, e
	}
	got, err := readContent(res, k.limit)
	a.body, a.truncated, a.encoding, a.at = got.body, got.more, got.encoding, time.Now().UTC()
	e := &Error{Operation: k.op, Status: a.status, CorrelationID: a.correlationID, AnswerLost: true}
	switch {
	case err != nil:
		a.truncated = true
		e.Outcome, e.err = Unavailable, fmt.Errorf("answer cut off after %d bytes: %w", len(a.body), cause(ctx, err))
		return a, e
	case a.truncated:
		e.Outcome, e.err = TooLarge, fmt.Errorf("answer larger than %d bytes", k.limit)
		return a, e
	case a.encoding != "": // no byte is lost
		return a, a.malformed(k.op, got.stillEncoded())
	}
	return a, nil
}

// isUnreadable reports whether an answer came that net/http takes for none: not one that is missing, nor trouble of the
// network.
func isUnreadable(ctx context.Context, err error) bool {
	var network net.Error
	if u, ok := errors.AsType[*url.Error](err); ok { // which is a net.Error itself
		err = u.Err
	}
	return err != nil && ctx.Err() == nil && !errors.As(err, &network) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF)
}

// readBody reads at most limit bytes; more says that the body is longer. What was read is returned in any case.
func readBody(r io.Reader, limit int64) (body []byte, more bool, err error) {
	body, err = io.ReadAll(io.LimitReader(r, limit+1))
	if int64(len(body)) > limit {
		return body[:limit], true, nil
	}
	return body, false, err
}

// correlationID takes the vendor's id of an answer, bounded as everything foreign that reaches a log.
func correlationID(h http.Header) string {
	id := message([]byte(h.Get("Correlation-Id")), relay.Secret{})
	return id[:min(len(id), 64)]
}

// redirectTarget names where a redirect points, without the query, which may carry what nobody should log.
func redirectTarget(res *http.Response) string {
	if res.StatusCode < 300 || res.StatusCode > 399 {
		return ""
	}
	u, err := res.Location()
	if err != nil {
		return ""
	}
	return message([]byte(u.Scheme+"://"+u.Host+u.EscapedPath()), relay.Secret{})
}

// malformed is the error of an answer that came whole but cannot be understood.
func (a answer) malformed(op Operation, err error) *Error {
	if what := describe(a.body); what != "" && a.encoding == "" {
		err = fmt.Errorf("%w: the answer is %s", err, what)
	}
	return &Error{Operation: op, Outcome: Malformed, Status: a.status, CorrelationID: a.correlationID, err: err}
}
