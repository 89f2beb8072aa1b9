package natsd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// pingEvery and pingsMissed bound how long a silent link is believed to be alive: three pings, about 6 s, well
	// within a lease's 15 s.
	pingEvery   = 2 * time.Second
	pingsMissed = 2
	// dialTimeout bounds one attempt to reach one server, login and handshake included.
	dialTimeout = 3 * time.Second
	// writeStuck bounds how long bytes may wait for a link that takes none; every publish waits behind them.
	writeStuck = 5 * time.Second
	// reconnectFirst and reconnectMost bound the wait after all servers were tried in vain; it doubles from one to
	// the other.
	reconnectFirst = 100 * time.Millisecond
	reconnectMost  = 4 * time.Second
)

// Remote is a NATS cluster that others run, and how the relay logs in there.
type Remote struct {
	URL            string
	Creds          string // a file; or
	User, Password string
	CA, Cert, Key  string // files, PEM

	// LeastMessage is the largest message that the cluster must take, in bytes; with less than WantedMessage the log
	// has a warning.
	LeastMessage, WantedMessage int64

	Log *slog.Logger
}

// Refusal is why a cluster cannot be used, and waiting does not help.
type Refusal int

// What a cluster or its server refuses.
const (
	RefusedLogin       Refusal = iota + 1
	RefusedTLS                 // the server and the settings do not agree about TLS
	RefusedName                // the server's certificate is for another name
	RefusedServer              // the server's certificate does not hold
	RefusedCertificate         // the server refuses the relay's certificate, or misses one
	RefusedSize                // its messages are too small
)

// RefusedError is the error of a cluster that cannot be used. Every other error may end by waiting.
type RefusedError struct {
	Refusal Refusal
	Err     error
}

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

// Dial connects to the cluster. It tries each server once.
func (r Remote) Dial() (*nats.Conn, error) {
	link, payload := &link{log: r.Log}, &payload{least: r.LeastMessage, wanted: r.WantedMessage, log: r.Log}
	options := append(clientOptions(r.Log, link), nats.Name("audatex-relay"),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			link.back(nc.ConnectedUrl())
			payload.again(nc)
		}))
	switch {
	case r.Creds != "":
		options = append(options, nats.UserCredentials(r.Creds))
	case r.User != "":
		options = append(options, nats.UserInfo(r.User, r.Password))
	}
	if r.CA != "" {
		options = append(options, nats.RootCAs(r.CA))
	}
	if r.Cert != "" {
		options = append(options, nats.ClientCert(r.Cert, r.Key))
	}
	nc, err := nats.Connect(r.URL, options...)
	if err != nil {
		return nil, refused(err)
	}
	if err := payload.check(nc); err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

// refused returns the RefusedError that a failure to connect is; any other failure it returns as it is.
func refused(err error) error {
	var (
		unverified *tls.CertificateVerificationError
		remote     *net.OpError
		names      x509.HostnameError
	)
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired),
		errors.Is(err, nats.ErrAuthRevoked), errors.Is(err, nats.ErrAccountAuthExpired):
		return &RefusedError{RefusedLogin, fmt.Errorf("the cluster refuses the login: %w", err)}
	case errors.As(err, &names):
		return &RefusedError{RefusedName, fmt.Errorf("the server's certificate is for another name: %w", err)}
	case errors.As(err, &unverified):
		return &RefusedError{RefusedServer, fmt.Errorf("the server's certificate does not hold: %w", err)}
	case errors.As(err, &remote) && remote.Op == "remote error":
		return &RefusedError{RefusedCertificate,
			fmt.Errorf("the cluster refuses the relay's certificate, or misses one: %w", err)}
	case errors.Is(err, nats.ErrSecureConnWanted), errors.Is(err, nats.ErrSecureConnRequired):
		return &RefusedError{RefusedTLS, fmt.Errorf("the server and the settings do not agree about TLS: %w", err)}
	}
	return err
}

// ReconnectDelay returns how long to wait after the whole list of servers was tried n times: a growing wait, and a
// random share of it, so that a hundred replicas do not come back at the same moment.
func ReconnectDelay(n int) time.Duration {
	wait := reconnectMost
	if n < 6 {
		wait = min(reconnectFirst<<max(n-1, 0), reconnectMost)
	}
	return wait/2 + rand.N(wait)
}

// ClientOptions are those of the relay's connection to the embedded server.
func ClientOptions(log *slog.Logger) []nats.Option { return clientOptions(log, &link{log: log}) }

// clientOptions are those of every connection of the relay's. Nothing is buffered while NATS
// is away: a write that was kept would arrive after its lease has gone, and after its writer got an error.
func clientOptions(log *slog.Logger, link *link) []nats.Option {
	return []nats.Option{
		nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(ReconnectDelay), nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(pingsMissed),
		nats.Timeout(dialTimeout), nats.FlusherTimeout(writeStuck), nats.ReconnectOnFlusherError(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { link.lost(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { link.failed(err) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { link.back(nc.ConnectedUrl()) }),
		// Without a handler the library writes to stderr, past the log.
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			level := slog.LevelDebug // readers report a pause that they mend themselves
			if errors.Is(err, nats.ErrSlowConsumer) || errors.Is(err, nats.ErrPermissionViolation) {
				level = slog.LevelWarn
			}
			log.Log(context.Background(), level, "NATS reports an error", "error", err, "subject", subject)
		}),
	}
}

// StillAway is how often the log repeats that NATS is away.
const StillAway = 30 * time.Second

// link logs that a connection is lost and comes back: once each, and now and then in between.
type link struct {
	log *slog.Logger

	mu     sync.Mutex
	since  time.Time // zero: connected
	logged time.Time
}

func (l *link) lost(err error) {
	if err == nil { // closed by ourselves
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Now()
	l.logged = l.since
	l.log.Warn("the connection to NATS is lost; reconnecting", "error", err)
}

func (l *link) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); !l.since.IsZero() && now.Sub(l.logged) >= StillAway {
		l.logged = now
		l.log.Warn("NATS still cannot be reached", "error", err, "for", now.Sub(l.since).Round(time.Second).String())
	}
}

func (l *link) back(server string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		return
	}
	l.log.Info("connected to NATS again", "server", redact(server), "after",
		time.Since(l.since).Round(time.Millisecond).String())
	l.since = time.Time{}
}

// redact removes a login from an address: also what is in a user's place may be a secret, as NATS's tokens do.
func redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(unreadable)"
	}
	if u.User != nil {
		u.User = url.User("xxxxx")
	}
	return u.String()
}

// payload watches how large a message NATS takes. It may be another size after a reconnect.
type payload struct {
	least, wanted int64
	log           *slog.Logger
	reported      atomic.Int64 // the limit that was last complained of, 0 if the present one is large enough
}

// check returns a RefusedError for a limit that is too low. One that is lower than wanted is a warning.
func (p *payload) check(nc *nats.Conn) error {
	// An account's limit comes after the login; without a response the server's own counts for now.
	_ = nc.FlushTimeout(dialTimeout)
	limit := nc.MaxPayload()
	switch {
	case limit < p.least:
		return &RefusedError{RefusedSize,
			fmt.Errorf("NATS takes messages of at most %d bytes, and the relay needs %d: "+
				"set max_payload: 8MB in the configuration of every NATS server, and for the account (docs/nats.md)",
				limit, p.least)}
	case limit < p.wanted && p.reported.Swap(limit) != limit:
		p.log.Warn(
			"NATS takes smaller messages than the relay wants: larger pages of the vendor's queue are stored in "+
				"parts, "+
				"and an order whose event is larger is set aside as unresolved (too-large). "+
				"Set max_payload: 8MB in the configuration of every NATS server, and for the account (docs/nats.md)",
			"max_payload", limit, "wanted", p.wanted)
	case limit >= p.wanted:
		p.reported.Store(0)
	}
	return nil
}

// again looks at a connection that was made again. A limit that is too low cannot end the relay then; what does not
// fit is reported when it comes.
func (p *payload) again(nc *nats.Conn) {
	if err := p.check(nc); err != nil && p.reported.Swap(nc.MaxPayload()) != nc.MaxPayload() {
		p.log.Error("after a reconnect NATS takes smaller messages than the relay needs", "error", err)
	}
}
