package prom

import (
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

const (
	admin        = "an-admin-token-for-dashboards"
	metricsToken = "a-metrics-token-for-dashboards"
)

// observed is a relay with a vendor before it and receivers behind it.
type observed struct {
	api     harness.Caller
	sandbox *sandbox.Sandbox
	metrics string
}

// startRelay starts one that has a connection.
func startRelay(t *testing.T, program string) *observed {
	t.Helper()
	o := &observed{sandbox: sandbox.New(sandbox.Config{ClientID: "dashboards", ClientSecret: "a-client-secret", Tame: true})}
	vendor := harness.ServeTracked(t, harness.Listen(t), o.sandbox.Handler())
	book := &harness.Logbook{}
	p := harness.StartProcess(t, program, []string{"serve"}, []string{
		"PATH=" + os.Getenv("PATH"), "RELAY_HTTP_ADDR=127.0.0.1:0", "RELAY_METRICS_ADDR=127.0.0.1:0", "RELAY_DATA_DIR=" + filepath.Join(t.TempDir(), "data"),
		"RELAY_ADMIN_TOKEN=" + admin, "RELAY_METRICS_TOKEN=" + metricsToken,
		"RELAY_AUDATEX_CLIENT_ID=dashboards", "RELAY_AUDATEX_CLIENT_SECRET=a-client-secret",
		"RELAY_AUDATEX_BASE_URL=http://" + vendor.Addr + sandbox.APIPath, "RELAY_AUDATEX_AUTH_URL=http://" + vendor.Addr + sandbox.AuthorizePath,
		"RELAY_AUDATEX_TOKEN_URL=http://" + vendor.Addr + sandbox.TokenPath, "RELAY_AUDATEX_RATE=100000", "RELAY_POLL_INTERVAL=200ms",
		"RELAY_RETRY_SCHEDULE=200ms,1h", "RELAY_CALLBACK_ALLOW_CIDRS=127.0.0.0/8",
	}, book)
	select {
	case <-p.Serves:
	case <-p.Exited:
		t.Fatalf("the relay ended instead of serving: %v\n%s", p.Err, book.Tail(40))
	}
	client := harness.NewClient()
	t.Cleanup(client.CloseIdleConnections)
	o.api, o.metrics = harness.Caller{Base: "http://" + p.At.API, Token: admin, Client: client}, p.At.Metrics
	grant, err := o.sandbox.Grant(sandbox.Consent{Sites: []string{"4711"}})
	if err != nil {
		t.Fatal(err)
	}
	o.connect(t, "leeds", grant.RefreshToken)
	o.receive(t, "well", relaytest.Healthy)
	return o
}

func (o *observed) connect(t *testing.T, id, token string) {
	t.Helper()
	o.api.Must(t, http.MethodPut, "/v1/connections/"+id, map[string]any{"level": "site", "site": id, "refreshToken": token}, nil)
}

// receive registers a callback whose receiver behaves in a way.
func (o *observed) receive(t *testing.T, id string, behave relaytest.Behaviour) {
	t.Helper()
	r := harness.NewReceiver(id, behave)
	r.Server = harness.ServeTracked(t, harness.Listen(t), r)
	var made harness.Callback
	o.api.Must(t, http.MethodPut, "/v1/callbacks/"+id, map[string]any{"url": "http://" + r.Server.Addr}, &made)
	if err := r.VerifyWith(made.Secret); err != nil {
		t.Fatal(err)
	}
}

// always is a receiver that answers everything with one status.
func always(status int) relaytest.Behaviour { return func(int, *http.Request) int { return status } }

// trouble has a consent refused, receivers that fail and one that is gone, and orders that move.
func (o *observed) trouble(t *testing.T) {
	t.Helper()
	o.connect(t, "york", "a-token-that-nobody-gave")
	o.receive(t, "fails", always(http.StatusServiceUnavailable))
	o.receive(t, "gone", always(http.StatusGone))
	harness.Eventually(t, "the vendor queues for the connection", func() string {
		if len(o.sandbox.Subscriptions()) == 0 {
			return "it has not subscribed"
		}
		return ""
	})
	for range 4 {
		if _, err := o.sandbox.CreateOrder("4711", sandbox.OrderOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	harness.Eventually(t, "the callback is disabled", func() string {
		var cb harness.Callback
		o.api.Must(t, http.MethodGet, "/v1/callbacks/gone", nil, &cb)
		if cb.State != "disabled" {
			return cb.State
		}
		return ""
	})
}

var labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)

// TestEveryPanelHasData has a Prometheus scrape two relays, one quiet and one in trouble, and asks it every query of
// every dashboard for each of them: none fails, none is empty, and what is in trouble is shown.
func TestEveryPanelHasData(t *testing.T) {
	t.Parallel()
	Program(t, "prometheus")
	program := filepath.Join(t.TempDir(), "relay")
	if err := harness.Build(t.Context(), filepath.Join("..", "..", ".."), "./cmd/relay", program); err != nil {
		t.Fatal(err)
	}
	quiet, troubled := startRelay(t, program), startRelay(t, program)
	troubled.trouble(t)
	s := Start(t, Config{Jobs: []Job{
		{Name: "quiet", Targets: []string{quiet.metrics}, Token: metricsToken},
		{Name: "troubled", Targets: []string{troubled.metrics}, Token: metricsToken},
	}})
	s.AwaitUp(t, "quiet", 1)
	s.AwaitUp(t, "troubled", 1)

	for job, subjects := range map[string]map[string]string{
		"quiet": {"callback": "well", "connection": "leeds"}, "troubled": {"callback": "fails", "connection": "york"},
	} {
		values := map[string]string{"job": job, "__rate_interval": "1m", "callback": subjects["callback"], "connection": subjects["connection"]}
		for name, d := range dashboards(t) {
			for _, v := range d.Templating.List[1:] {
				m := labelValues.FindStringSubmatch(render(v.Definition, values))
				if m == nil {
					t.Fatalf("%s: variable %s asks %q", name, v.Name, v.Definition)
				}
				if offered, err := s.LabelValues(t.Context(), m[2], m[1]); err != nil || len(offered) == 0 {
					t.Errorf("%s: variable %s offers nothing: %v", name, v.Name, err)
				}
			}
			for _, p := range d.Panels {
				for _, target := range p.Targets {
					harness.Eventually(t, fmt.Sprintf("%s, %s, panel %q has data", job, name, p.Title), func() string { return s.missing(t, render(target.Expr, values)) })
				}
			}
		}
	}
	for what, expression := range map[string]string{
		"a consent":         `max by (connection, reason) (audatex_relay_connection_consent_required_seconds{job="troubled"})`,
		"a failing one":     `audatex_relay_callback_failing_seconds{job="troubled", callback="fails"}`,
		"a disabled one":    `audatex_relay_callback_disabled_seconds{job="troubled", callback="gone", reason="gone"}`,
		"what waits":        `audatex_relay_callback_backlog{job="troubled", callback="fails"} > 0`,
		"deliveries":        `audatex_relay_deliveries_total{job="troubled", status="delivered"} >= 4`,
		"none of the quiet": `absent(audatex_relay_callback_failing_seconds{job="quiet"})`,
	} {
		harness.Eventually(t, what+" is shown", func() string { return s.missing(t, expression) })
	}
}

// missing returns what an expression lacks, "" if it has data.
func (s *Server) missing(t *testing.T, expression string) string {
	t.Helper()
	samples, err := s.Query(t.Context(), expression)
	if err != nil {
		t.Fatalf("%v", err) // no waiting mends a query
	}
	for _, sample := range samples {
		if !math.IsNaN(sample.Value) {
			return ""
		}
	}
	return fmt.Sprintf("%s: %v", expression, samples)
}
