// Package sender makes one attempt of one delivery over HTTP: it signs the event's bytes, posts them to the callback's
// URL, and says in a closed Outcome what came of it. Deliveries and the API's test of a callback take this same path;
// whether and when there is another attempt is the dispatcher's to decide.
//
// A callback's URL is chosen by a client and reached from inside the operator's network, so every address is judged at
// the moment it is dialled (address.go), redirects are not followed, and no proxy of the environment is used.
//
// Callbacks share nothing here that a slow one could fill. There is no limit on connections, per host or in all (the
// dispatcher's concurrency per callback is the limit), no queue and no pool of workers; the table of idle connections
// gives up its oldest when full; names are looked up by Go's own resolver, as the C library's is limited to a number
// of threads that stuck look-ups can use up. HTTP/1.1 only: over one HTTP/2 connection a receiver's flow control and
// stream limit would tie together deliveries, and callbacks of one host, that have nothing to do with one another.
package sender

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptrace"
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

	// By the time an answer's body is read its status has decided the attempt. The body is read so that the
	// connection can be used again, and for the excerpt; neither is worth more than this.
	bodyTimeout = time.Second
	maxBody     = 64 << 10
	maxHeader   = 32 << 10

	// An idle connection costs a descriptor and its buffers. The time is below the minute after which common load
	// balancers close one, so that it is rarely them who do, while a request is on its way.
	maxIdlePerHost = 256
	idleTimeout    = 45 * time.Second

	// Receivers that close connections early, as many frameworks do after five seconds, cost a short handshake only.
	maxSessions = 1024

	// An event with its header mostly fits, and leaves in one write.
	writeBuffer = 8 << 10
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
	transport *http.Transport
	dialer    *dialer
	userAgent string
	closed    atomic.Bool
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
	d := newDialer(newPolicy(c.AllowCIDRs), resolver, c.Proxy)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	t := &http.Transport{
		Protocols:              protocols,
		DialContext:            d.dial,
		TLSClientConfig:        &tls.Config{RootCAs: c.RootCAs, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(maxSessions)},
		TLSHandshakeTimeout:    tlsTimeout,
		DisableCompression:     true, // an answer decides by its status; nothing in it is worth unpacking a bomb
		MaxIdleConns:           connections,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeader,
		WriteBufferSize:        writeBuffer,
	}
	if c.Proxy != nil { // otherwise Transport.Proxy stays nil: no proxy, whatever the environment says
		t.Proxy = d.proxyFor
		t.GetProxyConnectHeader = d.beforeConnect
		t.OnProxyConnectResponse = afterConnect
	}
	return &Sender{transport: t, dialer: d, userAgent: c.UserAgent}
}

// Close ends the idle connections and the dials that outlived their attempt. Attempts still under way go on; a Send
// that comes later ends at once as Cancelled.
func (s *Sender) Close() {
	s.closed.Store(true)
	s.dialer.close()
	s.transport.CloseIdleConnections()
}

// Send makes one attempt and waits for what comes of it, at most r.Timeout. When ctx ends first the attempt is broken
// off as Cancelled; whether the receiver took it is then unknown.
//
// Within one attempt the request may go out up to three times, over different connections: when an idle connection
// turns out to have been closed by the receiver before it answered anything. The webhook-id makes that safe.
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

	// One timer for the whole, and a cause of its own, so that our time limit and the caller's end are never confused.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(timeout, func() { cancel(errTimeout) })
	defer timer.Stop()

	f := &flight{plain: target.Scheme == "http", proxied: s.dialer.proxy != nil, resends: maxResends}
	ctx = context.WithValue(ctx, flightKey{}, f)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:          f.getConn,
		GotConn:          f.gotConn,
		TLSHandshakeDone: f.handshakeDone,
	})
	resp, err := s.transport.RoundTrip(s.request(ctx, target, r, a.At, sign, f))
	a.RemoteAddr = f.remote
	if err != nil {
		classify(ctx, f, err, timeout, a)
		return
	}

	if resp.Body != http.NoBody {
		timer.Reset(min(timeout-time.Since(a.At), bodyTimeout))
	}
	a.answered(resp, readBody(resp, r))
}
