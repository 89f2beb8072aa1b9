package natsd

import (
	"log/slog"
	"net/url"
	"sync"
	"time"
)

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
	l.log.Info("connected to NATS again", "server", redact(server), "after", time.Since(l.since).Round(time.Millisecond).String())
	l.since = time.Time{}
}

// redact removes a login from an address: also what stands in a user's place may be a secret, as NATS's tokens do.
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
