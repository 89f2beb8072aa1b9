// Package audatex is the client of the vendor's API: the only package that knows its paths, formats, tokens and
// peculiarities. Every call ends in one of a closed set of outcomes; responses are read tolerantly and within limits;
// the digits of an order are not changed; and rotating refresh tokens are not lost. Begin with session.go, which has
// the calls of one connection, and outcome.go.
package audatex

import (
	"cmp"
	"context"
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

// The limits of what is read of one response, in bytes.
const (
	maxPageBody  = 8<<20 - 64<<10 // with its envelope it fits into one message of the store
	maxOtherBody = 64 << 10
)

const (
	defaultTimeout   = 30 * time.Second
	defaultUserAgent = "audatex-relay"
	apiPath          = "/v1/bmsapi"
)

// Config configures a Client. Only BaseURL is required.
type Config struct {
	// BaseURL is the address of the vendor's API, e.g. https://audaconnect.ax-aee.co.uk/AudaAPI.BMSAPI.
	BaseURL string
	// Timeout is the limit for one call from the first byte sent to the last byte read; 30 s if
	// zero. Waiting for the budget does not count.
	Timeout time.Duration
	// MaxOrder returns how many bytes of an order can be used now: as many as the store takes in
	// one message. The limit is that of a page if it is nil.
	MaxOrder func() int
	// UserAgent is sent with every request; "audatex-relay" if empty.
	UserAgent string
	// Budget is shared with Tokens; without one requests are not limited.
	Budget  *Budget
	Metrics *Metrics
	// Logger gets one line per call at debug level; slog.Default() if nil.
	Logger *slog.Logger
	// DialContext replaces the network's; nil means the real one.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client makes calls of the vendor's API, each with a given access token; Session adds the tokens of one connection. It
// is safe for concurrent use.
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

	// plain keeps connections; once opens a new one for each call.
	plain, once *http.Client
}

// New checks cfg and returns a Client. Nothing is sent.
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
		metrics:   cmp.Or(cfg.Metrics, NewMetrics(nil)),
		log:       cfg.Logger,
		plain:     httpClient(newTransport(cfg.DialContext, true)),
		once:      httpClient(newTransport(cfg.DialContext, false)),
	}
	c.timeout = cmp.Or(max(c.timeout, 0), defaultTimeout)
	c.userAgent = cmp.Or(c.userAgent, defaultUserAgent)
	c.log = cmp.Or(c.log, slog.Default())
	if c.maxOrder == nil {
		c.maxOrder = func() int { return maxPageBody }
	}
	if c.budget == nil {
		c.budget = NewBudget(0)
	}
	c.metrics.budget.Store(c.budget)
	c.circuit = c.budget.circuit(u.Host, c.metrics, c.log)
	return c, nil
}

// turn identifies for whom a client waits for the budget.
type turn struct {
	connection string
	priority   *Priority // of every call; nil: each operation has its own
	tokens     *Tokens   // of the connection; nil: a call uses the token it was given, no matter how long it waits
}

// aged is how long a call may wait for its turn before its token is checked again.
const aged = time.Second

// errOutdated means that a call's access token expired while the call waited for its turn. Nothing was sent.
var errOutdated = errors.New("the access token ended while the call waited for the vendor's request budget")

// inTurn returns the same client, whose requests wait for the budget on behalf of a connection.
func (c *Client) inTurn(t turn) *Client {
	as := *c
	as.turn = t
	return &as
}

// enter waits for a turn of the budget for an operation.
func (c *Client) enter(ctx context.Context, op Operation) (*entry, error) {
	return c.circuit.enter(ctx, op, c.priority(op), c.turn.connection)
}

func (c *Client) priority(op Operation) Priority {
	if c.turn.priority != nil {
		return *c.turn.priority
	}
	return op.priority()
}

// PollBound is the longest time from a poll's announcement until Session.Poll has returned: the
// call, and another one that may follow a 401. The deadline of an intent is computed from it.
func (c *Client) PollBound() time.Duration { return 2*c.timeout + time.Second }

// Close closes idle connections. Calls under way are not affected.
func (c *Client) Close() {
	c.plain.CloseIdleConnections()
	c.once.CloseIdleConnections()
}

// call is one request to be made.
type call struct {
	op     Operation
	method string
	path   string // under the API's path, escaped
	url    string // the whole address, for another API of the vendor
	token  relay.Secret
	limit  int64
	http   *http.Client
}

// answer is the result of a call with a 2xx response. With an error it has the bytes of a 200 that were read.
type answer struct {
	status    int
	body      []byte
	truncated bool
	// encoding is the Content-Encoding that body still has because it could not be decoded; empty for a plain body.
	encoding      string
	correlationID string
	at            time.Time
}

// do waits for the budget and makes the call. before, if not nil, is called between the two and
// returns the context of the call.
//
// After a long wait the access token may have expired. Sending it would waste the turn on a 401.
// Then the turn is returned, and the call waits again with a valid token; only once, so that calls
// are made even if tokens have a very short life.
func (c *Client) do(
	ctx context.Context, k call, before func(context.Context) (context.Context, error),
) (answer, error) {
	a, err := c.inOrder(ctx, k, before, c.turn.tokens != nil)
	if !errors.Is(err, errOutdated) {
		return a, err
	}
	if k.token, err = c.turn.tokens.Access(ctx, c.turn.connection); err != nil {
		return answer{}, err
	}
	return c.inOrder(ctx, k, before, false)
}

// inOrder makes the call when its turn comes. With judging it returns errOutdated instead of sending an expired token.
func (c *Client) inOrder(
	ctx context.Context, k call, before func(context.Context) (context.Context, error), judging bool,
) (answer, error) {
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

// probe sends a harmless request to a host that has not responded, before a poll is sent there: a
// poll whose response is lost has removed notifications from the queue.
func (c *Client) probe(ctx context.Context, k call, in *entry) (*entry, error) {
	_, err := c.timed(ctx, call{
		op: OpWhoami, method: http.MethodGet, path: "/whoami", token: k.token, limit: maxOtherBody, http: c.plain,
	})
	if !in.report(replyOf(ctx, err), err) {
		return nil, held(k.op)
	}
	return c.enter(ctx, k.op)
}

// timed makes a call, and counts and logs it.
func (c *Client) timed(ctx context.Context, k call) (answer, error) {
	start := time.Now()
	a, err := c.send(ctx, k)
	c.metrics.called(ctx, c.log, k.op, OutcomeOf(err), a.status, start, a.correlationID)
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
	unreadable := sent && k.http == c.plain && k.method == http.MethodGet && isUnreadable(ctx, err)
	if unreadable && c.budget.Wait(ctx, c.priority(k.op), c.turn.connection) == nil {
		res, err = c.once.Do(req.Clone(ctx))
	}
	if err != nil {
		return answer{}, &Error{Operation: k.op, Outcome: Unavailable, AnswerLost: sent,
			err: secured.explain(cause(ctx, err), sent)}
	}
	defer res.Body.Close()
	c.metrics.answered(res, time.Now())
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
			// A gateway that gave up on the server behind it does not know what that server has already handed out.
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

// isUnreadable reports whether net/http has rejected a response that did arrive: there was no
// network error, and the response was not missing.
func isUnreadable(ctx context.Context, err error) bool {
	var network net.Error
	if u, ok := errors.AsType[*url.Error](err); ok { // which is a net.Error itself
		err = u.Err
	}
	return err != nil && ctx.Err() == nil && !errors.As(err, &network) &&
		!errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF)
}

// readBody reads at most limit bytes. more is set if the body is longer. What was read is always returned.
func readBody(r io.Reader, limit int64) (body []byte, more bool, err error) {
	body, err = io.ReadAll(io.LimitReader(r, limit+1))
	if int64(len(body)) > limit {
		return body[:limit], true, nil
	}
	return body, false, err
}

// correlationID returns the vendor's id of a response, limited like everything foreign that is logged.
func correlationID(h http.Header) string {
	id := message([]byte(h.Get("Correlation-Id")), relay.Secret{})
	return id[:min(len(id), 64)]
}

// redirectTarget returns the target of a redirect without its query, which may contain something
// that must not be logged.
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

// malformed returns the error for a complete response that cannot be understood.
func (a answer) malformed(op Operation, err error) *Error {
	if what := describe(a.body); what != "" && a.encoding == "" {
		err = fmt.Errorf("%w: the answer is %s", err, what)
	}
	return &Error{Operation: op, Outcome: Malformed, Status: a.status, CorrelationID: a.correlationID, err: err}
}
