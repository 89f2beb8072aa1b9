// Package sender makes one attempt of one delivery over HTTP: it signs the event's bytes, posts them to the callback's
// URL, and returns a closed Outcome. It never reaches an address that the operator has not allowed, never follows a
// redirect, never shows a secret, and never waits longer than the attempt's timeout. Begin with Sender.Send, which
// deliveries and the API's test of a callback both use.
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

// DefaultMaxConnections is how many connections may be open, unless the Config has another number.
const DefaultMaxConnections = 4096

// DefaultTimeout is how long an attempt may take in total, unless its Request has another limit.
const DefaultTimeout = 15 * time.Second

const (
	dialTimeout = 5 * time.Second // looking up the name and connecting
	tlsTimeout  = 5 * time.Second

	// Once its status has been read, a response has decided the attempt. The rest is read so that
	// the connection can be used again, and for the excerpt; neither is worth more than this.
	bodyTimeout = time.Second

	// An idle connection costs a descriptor. This is below the minute after which common load
	// balancers close a connection, so that they rarely do while a request is on its way.
	idleTimeout = 45 * time.Second

	// For receivers that close connections early (many frameworks do after five seconds), a
	// handshake is then short.
	maxSessions = 1024
)

// Config configures a Sender. The zero value posts to public addresses by https, without a proxy.
type Config struct {
	// AllowCIDRs are networks that callbacks may reach although they are not public
	// (RELAY_CALLBACK_ALLOW_CIDRS), also by plain http. See CheckURL for the rules.
	AllowCIDRs []netip.Prefix

	// Proxy, if set, carries all callbacks (RELAY_CALLBACK_PROXY); see CheckProxy for its form. Its
	// own address is trusted. Receivers' names are looked up and judged here before the proxy is
	// asked, so they must resolve here too. But the proxy looks the name up again, and that result
	// is not judged: a proxy that can reach private networks needs rules of its own.
	Proxy *url.URL

	// MaxConnections bounds the open connections, in use and idle together; 0 means
	// DefaultMaxConnections. Each takes a file descriptor.
	MaxConnections int

	// UserAgent is sent with every attempt: "audatex-relay/<version>".
	UserAgent string

	// Resolver looks up names; nil means Go's resolver with the system's configuration.
	Resolver *net.Resolver

	// RootCAs are the authorities for receivers' certificates; nil means the system's.
	RootCAs *x509.CertPool
}

// Sender makes attempts, any number at the same time; when to try again is up to the caller. Use New to create one.
//
// A callback's URL is chosen by a client and reached from inside the operator's network. So every
// address is judged at the moment it is dialled (address.go), redirects are not followed, and no
// proxy from the environment is used.
//
// The sender manages its connections itself instead of using net/http, for three reasons. A
// connection belongs to one callback (pool.go) and is used again only if nothing at all is left on
// it (conn.go), so that no byte of one response can settle another event, least of all another
// client's. A response is judged by its status line alone, no matter how odd the rest is (head.go).
// And an attempt needs only its caller's goroutine, which makes it cheap.
//
// Callbacks share nothing that a slow one could use up except the number of connections, and the
// dispatcher's own limits stay below that: there is no queue and no pool of workers, and an idle
// connection is closed when a new one is needed. Names are looked up with Go's own resolver,
// because the C library's has a limited number of threads that hanging look-ups can use up. Only
// HTTP/1.1 is used: over one HTTP/2 connection a receiver's flow control and stream limit would tie
// unrelated deliveries together.
type Sender struct {
	dialer    *dialer
	pool      *pool
	tokens    *tokens
	userAgent string
	closed    atomic.Bool

	certificates certificates

	proxyAuthorization string // sent to the proxy with requests by plain http
}

// New returns a Sender.
func New(c Config) *Sender {
	resolver := c.Resolver
	if resolver == nil {
		resolver = &net.Resolver{PreferGo: true}
	}
	connections := c.MaxConnections
	if connections <= 0 {
		connections = DefaultMaxConnections
	}
	s := &Sender{
		dialer:       newDialer(newPolicy(c.AllowCIDRs), resolver, c.Proxy, tlsConfig(c.RootCAs)),
		pool:         newPool(connections),
		certificates: newCertificates(),
		userAgent:    c.UserAgent, proxyAuthorization: proxyAuthorization(c.Proxy),
	}
	s.tokens = newTokens(s.fetchToken)
	return s
}

func tlsConfig(roots *x509.CertPool) *tls.Config {
	return &tls.Config{
		RootCAs:            roots,
		MinVersion:         tls.VersionTLS12,
		ClientSessionCache: tls.NewLRUClientSessionCache(maxSessions),
		// An ordinary request is one record, sent with one write.
		DynamicRecordSizingDisabled: true,
	}
}

// Trust replaces the authorities for receivers' certificates, as in Config, and reports whether
// they are others than before. A connection that was made with the former ones makes no further
// attempt.
func (s *Sender) Trust(roots *x509.CertPool) (changed bool) {
	if s.dialer.tls.Load().RootCAs.Equal(roots) {
		return false
	}
	s.dialer.tls.Store(tlsConfig(roots)) // with it the sessions that could be resumed are forgotten
	s.pool.closeIdle()
	return true
}

// Close closes the idle connections and cancels those being made. Attempts that have their
// connection go on; later calls of Send return Cancelled at once.
func (s *Sender) Close() {
	s.closed.Store(true)
	s.tokens.close()
	s.dialer.close()
	s.pool.close()
}

// Send makes one attempt and returns its result after at most r.Timeout. If ctx ends before, the
// attempt is Cancelled, and it is unknown whether the receiver got it.
//
// Within one attempt the request may be sent twice: if a connection that was used before fails
// before a response has begun, the request is sent once more over a new connection. The webhook-id
// makes that safe. If the Auth is by an access token, a 401 to one that was kept is answered with a
// new one, once.
func (s *Sender) Send(ctx context.Context, r Request) Attempt {
	a := Attempt{At: time.Now()}
	if r.Auth.credentials == nil {
		s.send(ctx, &r, &a)
	} else {
		s.sendWithToken(ctx, &r, &a)
	}
	a.Duration = time.Since(a.At)
	return a
}

func (s *Sender) send(ctx context.Context, r *Request, a *Attempt) {
	var err error
	target := r.Target
	if target == nil {
		if target, err = parseTarget(r.URL); err != nil {
			a.fail(Invalid, err.Error())
			return
		}
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
	timeout := r.timeout()
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
	var c *conn
	tidy := true
	if r.Inspect == nil { // a test shows how long connecting takes, and the certificates
		c, tidy = s.idle(k, x.deadline)
	}
	if c != nil && s.throughProxy(target) {
		if err := s.judge(ctx, target, x.deadline, &a.Phases); err != nil {
			s.pool.keep(c)
			s.classify(ctx, connecting, err, timeout, a)
			return
		}
	}
	reused := c != nil
	x.complete(r.Body, tidy)
	for {
		if c == nil {
			if c, err = s.connect(ctx, target, k, x.deadline, &a.Phases); err != nil {
				s.certificates.refused(r.Callback, err)
				if r.Inspect != nil {
					r.Inspect.refused(err)
				}
				s.classify(ctx, connecting, err, timeout, a)
				return
			}
			s.certificates.connected(r.Callback, c)
		}
		a.RemoteAddr = c.remote
		if r.Inspect != nil {
			r.Inspect.connected(c)
			r.Inspect.sending(r, x.request[:x.head])
		}
		err = x.over(ctx, c)
		a.Phases.FirstByte = x.waited
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
	x.settle(r, s.proxyAuthorization, c, a)
	if x.untidy {
		s.pool.distrust(k)
	}
	if x.reusable && r.Inspect == nil && s.dialer.trusts(c) {
		s.pool.keep(c)
	} else {
		c.close()
		s.pool.release()
	}
}

// idle returns an idle connection of the callback on which nothing has arrived, or nil. Tidy
// reports whether a connection may be kept afterwards.
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

// connect makes a new connection. It waits for room in the pool.
func (s *Sender) connect(ctx context.Context, target *url.URL, k key, deadline time.Time, p *Phases) (*conn, error) {
	ctx, cancel := context.WithDeadlineCause(ctx, deadline, errTimeout)
	defer cancel()
	if err := s.pool.reserve(ctx); err != nil {
		return nil, errCrowded
	}
	c, err := s.dialer.connect(ctx, target, k, p)
	if err != nil {
		s.pool.release()
		return nil, err
	}
	c.wire.setDeadline(deadline)
	return c, nil
}

// judge judges the address to which the proxy would send a request by plain http.
func (s *Sender) judge(ctx context.Context, target *url.URL, deadline time.Time, p *Phases) error {
	ctx, cancel := context.WithDeadlineCause(ctx, deadline, errTimeout)
	defer cancel()
	ctx, done, err := s.dialer.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	return orCause(ctx, s.dialer.judgeName(ctx, target.Hostname(), true, p))
}
