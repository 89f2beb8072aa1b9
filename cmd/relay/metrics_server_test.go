package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
)

// /metrics is read with its token, or by everybody where none is set; who fails is counted, gets the reason, and is
// slowed down.
func TestMetricsToken(t *testing.T) {
	t.Parallel()
	const token = "a-token-for-the-scraper"
	registry := newRegistry()
	ingressMetrics := ingress.NewMetrics(registry)
	log := slog.New(slog.DiscardHandler)
	read := func(h http.Handler, authorization string) (int, string, http.Header) {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		body, _ := io.ReadAll(w.Body)
		return w.Code, string(body), w.Header()
	}
	open, _ := metricsServer(prometheus.NewRegistry(), relay.Secret{}, ingressMetrics, log)
	if code, body, _ := read(open.Handler, ""); code != http.StatusOK {
		t.Errorf("without a token: %d %s", code, body)
	}
	server, guard := metricsServer(registry, relay.NewSecret(token), ingressMetrics, log)
	guarded := server.Handler
	for authorization, says := range map[string]string{
		"": "RELAY_METRICS_TOKEN", "Bearer": "RELAY_METRICS_TOKEN", "Basic " + token: "RELAY_METRICS_TOKEN",
		"Bearer " + token + "x": "not that of", "Bearer a": "not that of",
	} {
		code, body, header := read(guarded, authorization)
		if code != http.StatusUnauthorized || !strings.Contains(body, says) || strings.Contains(body, token) ||
			header.Get("WWW-Authenticate") == "" {
			t.Errorf("%q: %d %s", authorization, code, body)
		}
	}
	if a, b := testutil.ToFloat64(ingressMetrics.FailureCounter("metrics", "missing")),
		testutil.ToFloat64(ingressMetrics.FailureCounter("metrics", "token")); a != 3 || b != 2 {
		t.Errorf("%v without a token and %v with a wrong one are counted", a, b)
	}
	for range ingress.DefaultFailures {
		_, _, _ = read(guarded, "Bearer wrong")
	}
	if code, body, header := read(guarded, "Bearer wrong"); code != http.StatusTooManyRequests ||
		header.Get("Retry-After") == "" {
		t.Errorf("after many failures: %d %s", code, body)
	}
	code, body, _ := read(guarded, "bearer "+token)
	if code != http.StatusOK || !strings.Contains(body, "audatex_relay_build_info") {
		t.Errorf("with the token: %d %s", code, body)
	}

	const next = "the-next-token-for-the-scraper"
	if guard.Renew(token) || !guard.Renew(next) {
		t.Error("the same token is another, or another the same")
	}
	if code, _, _ := read(guarded, "Bearer "+next); code != http.StatusOK {
		t.Errorf("with the next token: %d", code)
	}
	if code, _, _ := read(guarded, "Bearer "+token); code == http.StatusOK {
		t.Error("the token before is still taken")
	}
}
