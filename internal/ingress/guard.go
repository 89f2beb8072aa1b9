package ingress

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Guard serves /metrics only to callers that show its token. It slows down those that guess.
type Guard struct {
	token   atomic.Pointer[[sha256.Size]byte] // its hash, so that comparing takes the same time for every length
	inner   http.Handler
	log     *slog.Logger
	guesses *Guesses

	missing, wrong prometheus.Counter
}

// NewGuard returns a Guard of inner, which counts refused requests with metrics.
func NewGuard(token string, inner http.Handler, metrics *Metrics, log *slog.Logger) *Guard {
	g := &Guard{
		inner: inner, log: log, guesses: NewGuesses(0),
		missing: metrics.FailureCounter("metrics", "missing"), wrong: metrics.FailureCounter("metrics", "token"),
	}
	g.Renew(token)
	return g
}

// Renew has the Guard ask for another token from now on. It returns whether it is another.
func (g *Guard) Renew(token string) bool {
	hash := sha256.Sum256([]byte(token))
	before := g.token.Swap(&hash)
	return before == nil || *before != hash
}

// ServeHTTP implements http.Handler.
func (g *Guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	scheme, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if shown = strings.TrimSpace(shown); shown == "" || !strings.EqualFold(scheme, "Bearer") {
		g.missing.Inc()
		refuse(w, "/metrics asks for a token here: send Authorization: Bearer with that of RELAY_METRICS_TOKEN.")
		return
	}
	hash := sha256.Sum256([]byte(shown))
	if subtle.ConstantTimeCompare(hash[:], g.token.Load()[:]) == 1 {
		g.inner.ServeHTTP(w, r)
		return
	}
	g.wrong.Inc()
	remote := PeerAddr(r)
	f := g.guesses.Failed(remote, time.Now())
	if f.Log {
		g.log.Warn("a scrape was refused: its token is not that of RELAY_METRICS_TOKEN", "remote", remote.String(),
			"more_since_last_line", f.More, "more_of_others", f.Others)
	}
	if f.Slowed {
		w.Header().Set("Connection", "close")
		w.Header().Set("Retry-After", strconv.Itoa(int((f.RetryAfter+time.Second-1)/time.Second)))
		http.Error(w, "Too many invalid tokens came from this address.", http.StatusTooManyRequests)
		return
	}
	refuse(w, "The token is not that of RELAY_METRICS_TOKEN.")
}

// refuse asks for a token, and names what was wrong.
func refuse(w http.ResponseWriter, why string) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="audatex relay metrics"`)
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = fmt.Fprintln(w, why) // the caller may be gone
}
