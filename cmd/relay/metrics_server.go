package main

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
)

// The bounds of scrapes: how many are made at the same time, more are refused; how long one may take. What is read of
// the store for one has its own bound, of two seconds.
const (
	scrapesAtOnce = 4
	scrapeTimeout = 10 * time.Second
)

// metricsServer serves /metrics, to those who show the token if there is one; then the Guard asks for it.
func metricsServer(
	registry *prometheus.Registry, token relay.Secret, ingressMetrics *ingress.Metrics, log *slog.Logger,
) (*http.Server, *ingress.Guard) {
	var guard *ingress.Guard
	var scrapes http.Handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		Registry: registry, EnableOpenMetrics: true, MaxRequestsInFlight: scrapesAtOnce, Timeout: scrapeTimeout,
	})
	if !token.Empty() {
		guard = ingress.NewGuard(token.Reveal(), scrapes, ingressMetrics, log)
		scrapes = guard
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", scrapes)
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
	}, guard
}
