package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// pingEvery and pingsMissed bound how long a link that went silent without a word is believed in: three pings, about 6 s, well
	// within a lease's 15 s.
	pingEvery   = 2 * time.Second
	pingsMissed = 2
	// dialTimeout bounds one try to reach one server, login and handshake included.
	dialTimeout = 3 * time.Second
	// writeStuck bounds how long bytes may wait for a link that takes none; every publish stands behind them.
	writeStuck = 5 * time.Second
	// reconnectFirst and reconnectMost bound the wait after all servers were tried in vain; it doubles from one to the other.
	reconnectFirst = 100 * time.Millisecond
	reconnectMost  = 4 * time.Second
	// stillAway is how often the log says that NATS is still away.
	stillAway = 30 * time.Second
)

// reconnectDelay answers how long to wait after the whole list of servers was tried n times: a growing wait, and a random share
// of it, so that a hundred replicas do not come back at the same moment.
func reconnectDelay(n int) time.Duration {
	wait := reconnectMost
	if n < 6 {
		wait = min(reconnectFirst<<max(n-1, 0), reconnectMost)
	}
	return wait/2 + rand.N(wait)
}

// clientOptions are those of every connection of the relay's, to the embedded server as well. Nothing is buffered while NATS is away:
// a write that was kept would arrive after its lease has gone, and after its writer was told that it failed.
func clientOptions(log *slog.Logger) []nats.Option {
	link, payload := &link{log: log}, &payload{log: log}
	return []nats.Option{
		nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(), nats.CustomReconnectDelay(reconnectDelay),
		nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(pingsMissed), nats.Timeout(dialTimeout),
		nats.FlusherTimeout(writeStuck), nats.ReconnectOnFlusherError(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { link.lost(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { link.failed(err) }),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			link.back(redactURL(nc.ConnectedUrl()))
			payload.again(nc)
		}),
		// Without a handler the library writes to stderr, past the log.
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			level := slog.LevelDebug // readers tell of a pause that they mend themselves
			if errors.Is(err, nats.ErrSlowConsumer) || errors.Is(err, nats.ErrPermissionViolation) {
				level = slog.LevelWarn
			}
			log.Log(context.Background(), level, "NATS reports an error", "error", err, "subject", subject)
		}),
	}
}

// link tells of a connection that is lost and comes back: once each, and now and then in between.
type link struct {
	log *slog.Logger

	mu    sync.Mutex
	since time.Time // zero: connected
	told  time.Time
}

func (l *link) lost(err error) {
	if err == nil { // closed by ourselves
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Now()
	l.told = l.since
	l.log.Warn("the connection to NATS is lost; reconnecting", "error", err)
}

func (l *link) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); !l.since.IsZero() && now.Sub(l.told) >= stillAway {
		l.told = now
		l.log.Warn("NATS still cannot be reached", "error", err, "for", now.Sub(l.since).Round(time.Second).String())
	}
}

func (l *link) back(server string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		return
	}
	l.log.Info("connected to NATS again", "server", server, "after", time.Since(l.since).Round(time.Millisecond).String())
	l.since = time.Time{}
}

// dial connects to the external cluster. While no server can be reached it tries on until ctx ends: a relay may well start before its
// cluster. A refused login, a certificate that does not hold and a limit of messages that is too low are settings' errors, told at once.
func dial(ctx context.Context, c config, log *slog.Logger, waiting func(reason string)) (*nats.Conn, error) {
	options := append(clientOptions(log), nats.Name("audatex-relay"))
	switch {
	case c.NATSCreds != "":
		options = append(options, nats.UserCredentials(c.NATSCreds))
	case c.NATSUser != "":
		options = append(options, nats.UserInfo(c.NATSUser, c.NATSPassword))
	}
	if c.NATSCA != "" {
		options = append(options, nats.RootCAs(c.NATSCA))
	}
	if c.NATSCert != "" {
		options = append(options, nats.ClientCert(c.NATSCert, c.NATSKey))
	}
	var nc *nats.Conn
	err := patiently(ctx, log, "NATS cannot be reached (RELAY_NATS_URL)", waiting, func() (err error) {
		nc, err = nats.Connect(c.NATSURL, options...)
		return err
	}, func(err error) bool { return refusedLogin(c, err) == nil })
	if refused := refusedLogin(c, err); refused != nil {
		return nil, refused
	}
	if err != nil {
		return nil, fmt.Errorf("connect to NATS (RELAY_NATS_URL): %w", err)
	}
	if err := (&payload{log: log}).check(nc); err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

// refusedLogin answers the setting's error that a failure to connect is, nil if waiting may help.
func refusedLogin(c config, err error) error {
	login := "RELAY_NATS_URL"
	switch {
	case c.NATSCreds != "":
		login = "RELAY_NATS_CREDS"
	case c.NATSUser != "":
		login = "RELAY_NATS_USER"
	}
	var (
		unknown *tls.CertificateVerificationError
		remote  *net.OpError
		names   x509.HostnameError
	)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked), errors.Is(err, nats.ErrAccountAuthExpired):
		return wrong(login, "the cluster refuses the login: %w", err)
	case errors.As(err, &names):
		return wrong("RELAY_NATS_URL", "the server's certificate is for another name: %w", err)
	case errors.As(err, &unknown):
		return wrong("RELAY_NATS_CA", "the server's certificate does not hold: %w", err)
	case errors.As(err, &remote) && remote.Op == "remote error":
		return wrong("RELAY_NATS_CERT", "the cluster refuses the relay's certificate, or misses one: %w", err)
	case errors.Is(err, nats.ErrSecureConnWanted), errors.Is(err, nats.ErrSecureConnRequired):
		return wrong("RELAY_NATS_URL", "the server and the settings do not agree about TLS: %w", err)
	}
	return nil
}

// patiently repeats a step of the start until it succeeds, until it fails in a way that waiting does not mend, or until ctx ends. The
// log tells of the first failure, now and then of a later one, and of the end.
func patiently(ctx context.Context, log *slog.Logger, what string, waiting func(reason string), step func() error, passing func(error) bool) error {
	var since, told time.Time
	for n := 1; ; n++ {
		err := step()
		if err == nil {
			if !since.IsZero() {
				log.Info("the start goes on", "waited", time.Since(since).Round(time.Millisecond).String())
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !passing(err) {
			return err
		}
		now := time.Now()
		if since.IsZero() {
			since = now
		}
		if now.Sub(told) >= stillAway {
			told = now
			log.Warn(what+"; trying on", "error", err, "for", now.Sub(since).Round(time.Second).String())
		}
		waiting(what)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(reconnectDelay(n)):
		}
	}
}
