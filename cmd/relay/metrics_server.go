package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
)

// The bounds of scrapes: how many are made at the same time, more are refused; how long one may take. What is read of the
// store for one has its own bound, of two seconds.
const (
	scrapesAtOnce = 4
	scrapeTimeout = 10 * time.Second
)

// metricsServer serves /metrics, to those who show the token if there is one.
func metricsServer(registry *prometheus.Registry, token relay.Secret, doors *ingress.Metrics, log *slog.Logger) *http.Server {
	var scrapes http.Handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		Registry: registry, EnableOpenMetrics: true, MaxRequestsInFlight: scrapesAtOnce, Timeout: scrapeTimeout,
	})
	if !token.Empty() {
		scrapes = newGuard(token, scrapes, doors, log)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", scrapes)
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
}

// guard lets those pass who show a token.
type guard struct {
	token   [sha256.Size]byte // its hash, so that comparing takes the same time for every length
	inner   http.Handler
	log     *slog.Logger
	guesses *ingress.Guesses

	missing, wrong prometheus.Counter
}

func newGuard(token relay.Secret, inner http.Handler, doors *ingress.Metrics, log *slog.Logger) *guard {
	return &guard{
		token: sha256.Sum256([]byte(token.Reveal())), inner: inner, log: log, guesses: ingress.NewGuesses(0),
		missing: doors.FailureCounter("metrics", "missing"), wrong: doors.FailureCounter("metrics", "token"),
	}
}

// ServeHTTP implements http.Handler.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	scheme, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if shown = strings.TrimSpace(shown); shown == "" || !strings.EqualFold(scheme, "Bearer") {
		g.missing.Inc()
		refuse(w, "/metrics asks for a token here: send Authorization: Bearer with that of RELAY_METRICS_TOKEN.")
		return
	}
	hash := sha256.Sum256([]byte(shown))
	if subtle.ConstantTimeCompare(hash[:], g.token[:]) == 1 {
		g.inner.ServeHTTP(w, r)
		return
	}
	g.wrong.Inc()
	remote := ingress.PeerAddr(r)
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

func refuse(w http.ResponseWriter, why string) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="audatex relay metrics"`)
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = fmt.Fprintln(w, why) // the caller may be gone
}
