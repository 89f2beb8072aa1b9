// Package sender makes one attempt of one delivery over HTTP: it signs the event's bytes, posts them to the callback's
// URL, and says in a closed Outcome what came of it. Deliveries and the API's test of a callback take this same path;
// whether and when there is another attempt is the dispatcher's to decide.
//
// A callback's URL is chosen by a client and reached from inside the operator's network, so every address is judged at
// the moment it is dialled (address.go), redirects are not followed, and no proxy of the environment is used.
//
// The sender owns its connections instead of leaving them to net/http, for three reasons. A connection belongs to one
// callback (pool.go), and is used again only if nothing at all is left on it (conn.go), so that no byte of one answer
// can settle another event, least of all another client's. An answer is judged by its status line alone, however odd
// the rest of it is (head.go). And an attempt needs one goroutine, that of its caller, which makes it cheap.
//
// Callbacks share nothing here that a slow one could fill but the bound of connections, which the dispatcher's own
// bounds stay below: there is no queue and no pool of workers, and an idle connection gives way to one that is needed.
// Names are looked up by Go's own resolver, as the C library's is limited to a number of threads that stuck look-ups
// can use up. HTTP/1.1 only: over one HTTP/2 connection a receiver's flow control and stream limit would tie together
// deliveries that have nothing to do with one another.
package sender

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/audatex-relay/relay/internal/signature"
)

// DefaultMaxConnections is how many connections may be open when the Config names no number.
const DefaultMaxConnections = 4096

// DefaultTimeout is how long an attempt may take in all when its Request names no limit.
const DefaultTimeout = 15 * time.Second

const (
	dialTimeout = 5 * time.Second // looking the name up and connecting
	tlsTimeout  = 5 * time.Second

	// By the time its status has been read an answer has decided the attempt. The rest is read for the connection to be
	// used again, and for the excerpt; neither is worth more than this.
	bodyTimeout = time.Second

	// An idle connection costs a descriptor. The time is below the minute after which common load balancers close one,
	// so that it is rarely them who do, while a request is on its way.
	idleTimeout = 45 * time.Second

	// Receivers that close connections early, as many frameworks do after five seconds, cost a short handshake only.
	maxSessions = 1024
)

// Config is what a Sender is made from. The zero value posts to public addresses by https, directly.
type Config struct {
	// AllowCIDRs are networks that callbacks may reach though they are not public (RELAY_CALLBACK_ALLOW_CIDRS),
	// also by plain http. See CheckURL for the rules.
	AllowCIDRs []netip.Prefix

	// Proxy carries all callbacks when set (RELAY_CALLBACK_PROXY); see CheckProxy for what it may be. Its own address
	// is trusted. The names of receivers are looked up and judged here before the proxy hears of them, so they must
	// resolve here too; but the proxy looks the name up again, and what it finds then nobody judges. A proxy
	// that reaches private networks should have rules of its own.
	Proxy *url.URL

	// MaxConnections bounds the connections that are open, under way and idle together; 0 is DefaultMaxConnections. Each
	// takes a file descriptor.
	MaxConnections int

	// UserAgent is sent with every attempt: "audatex-relay/<version>".
	UserAgent string

	// Resolver looks names up; nil is Go's resolver with the system's configuration.
	Resolver *net.Resolver

	// RootCAs are the authorities a receiver's certificate may come from; nil is the system's.
	RootCAs *x509.CertPool
}

// Sender makes attempts, any number at a time. Make it with New.
type Sender struct {
	dialer    *dialer
	pool      *pool
	userAgent string
	closed    atomic.Bool

	proxyAuthorization string // is sent to the proxy with requests by plain http
}

// New makes a Sender from a Config.
func New(c Config) *Sender {
	resolver := c.Resolver
	if resolver == nil {
		resolver = &net.Resolver{PreferGo: true}
	}
	connections := c.MaxConnections
	if connections <= 0 {
		connections = DefaultMaxConnections
	}
	config := &tls.Config{
		RootCAs:            c.RootCAs,
		MinVersion:         tls.VersionTLS12,
		ClientSessionCache: tls.NewLRUClientSessionCache(maxSessions),
		// An ordinary request is one record, and leaves in one write.
		DynamicRecordSizingDisabled: true,
	}
	return &Sender{
		dialer:    newDialer(newPolicy(c.AllowCIDRs), resolver, c.Proxy, config),
		pool:      newPool(connections),
		userAgent: c.UserAgent, proxyAuthorization: proxyAuthorization(c.Proxy),
	}
}

// Close ends the idle connections, and breaks off those that are being made. Attempts that have their connection go on;
// a Send that comes later ends at once as Cancelled.
func (s *Sender) Close() {
	s.closed.Store(true)
	s.dialer.close()
	s.pool.close()
}

// Send makes one attempt and waits for what comes of it, at most r.Timeout. When ctx ends first the attempt is broken
// off as Cancelled; whether the receiver took it is then unknown.
//
// Within one attempt the request may go out twice: when a connection that was used before turns out to be of no use
// before an answer has begun, it is sent once more over a new one. The webhook-id makes that safe.
func (s *Sender) Send(ctx context.Context, r Request) Attempt {
	a := Attempt{At: time.Now()}
	s.send(ctx, &r, &a)
	a.Duration = time.Since(a.At)
	return a
}

func (s *Sender) send(ctx context.Context, r *Request, a *Attempt) {
	target, err := parseTarget(r.URL)
	if err != nil {
		a.fail(Invalid, err.Error())
		return
	}
	sign := signature.Sign(r.Secrets, r.EventID, a.At, r.Body)
	if sign == "" {
		a.fail(Invalid, "there is no secret to sign with")
		return
	}
	if s.closed.Load() || ctx.Err() != nil {
		a.fail(Cancelled, "the relay is stopping")
		return
	}
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	x := exchanges.Get().(*exchange)
	defer x.free()
	x.deadline, x.sign = a.At.Add(timeout), sign
	var ok bool
	if x.request, ok = s.appendHead(x.request[:0], target, r, a.At, sign); !ok {
		a.fail(Invalid, "the request cannot be sent: its URL or a header holds what HTTP does not allow")
		return
	}
	x.head = len(x.request)

	k := key{r.Callback, r.URL}
	c, tidy := s.idle(k, x.deadline)
	if c != nil && s.dialer.proxy != nil && target.Scheme == "http" {
		if err := s.judge(ctx, target, x.deadline); err != nil {
			s.pool.keep(c)
			s.classify(ctx, connecting, err, timeout, a)
			return
		}
	}
	reused := c != nil
	x.complete(r.Body, tidy)
	for {
		if c == nil {
			if c, err = s.connect(ctx, target, k, x.deadline); err != nil {
				s.classify(ctx, connecting, err, timeout, a)
				return
			}
		}
		a.RemoteAddr = c.remote
		err = x.over(ctx, c)
		if err == nil && !(reused && (x.timedOut() || x.leftOver())) {
			break
		}
		if reused && x.leftOver() {
			s.pool.distrust(k)
		}
		c.close()
		s.pool.release()
		if !reused || x.answer.interim || ctx.Err() != nil || isTimeout(err) {
			s.classify(ctx, connected, err, timeout, a)
			return
		}
		c, reused = nil, false
	}
	if x.untidy {
		s.pool.distrust(k)
	}
	if x.reusable {
		s.pool.keep(c)
	} else {
		c.close()
		s.pool.release()
	}
	x.settle(r, s.proxyAuthorization, a)
}

// idle returns an idle connection of the callback on which nothing has happened, or nil; tidy reports whether one may
// be kept afterwards.
func (s *Sender) idle(k key, deadline time.Time) (_ *conn, tidy bool) {
	for {
		c, tidy := s.pool.take(k)
		if c == nil {
			return nil, tidy
		}
		c.wire.setDeadline(deadline)
		found := c.look()
		if found == silent {
			return c, tidy
		}
		c.close()
		s.pool.release()
		if found == stray {
			s.pool.distrust(k)
		}
	}
}

// connect makes a new connection, for which there must be room.
func (s *Sender) connect(ctx context.Context, target *url.URL, k key, deadline time.Time) (*conn, error) {
	ctx, cancel := context.WithDeadlineCause(ctx, deadline, errTimeout)
	defer cancel()
	if err := s.pool.reserve(ctx); err != nil {
		return nil, errCrowded
	}
	c, err := s.dialer.connect(ctx, target, k)
	if err != nil {
		s.pool.release()
		return nil, err
	}
	c.wire.setDeadline(deadline)
	return c, nil
}

// judge judges where the proxy may send a request by plain http.
func (s *Sender) judge(ctx context.Context, target *url.URL, deadline time.Time) error {
	ctx, cancel := context.WithDeadlineCause(ctx, deadline, errTimeout)
	defer cancel()
	ctx, done, err := s.dialer.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	return orCause(ctx, s.dialer.judgeName(ctx, target.Hostname(), true))
}
