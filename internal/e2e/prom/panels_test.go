package prom

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

const (
	admin        = "an-admin-token-for-dashboards"
	metricsToken = "a-metrics-token-for-dashboards"
)

// observed is a relay with a vendor before it and receivers behind it.
type observed struct {
	api      harness.Caller // of the first replica
	sandbox  *sandbox.Sandbox
	env      []string
	replicas []*harness.Process
}

// startRelay starts one that has a connection, with a store of its own unless env names another.
func startRelay(t *testing.T, program string, env ...string) *observed {
	t.Helper()
	o := &observed{
		sandbox: sandbox.New(sandbox.Config{ClientID: "dashboards", ClientSecret: "a-client-secret", Tame: true})}
	vendor := harness.ServeTracked(t, harness.Listen(t), o.sandbox.Handler())
	if len(env) == 0 {
		env = []string{"RELAY_DATA_DIR=" + filepath.Join(t.TempDir(), "data")}
	}
	o.env = append(env,
		"PATH="+os.Getenv("PATH"), "RELAY_HTTP_ADDR=127.0.0.1:0", "RELAY_METRICS_ADDR=127.0.0.1:0",
		"RELAY_ADMIN_TOKEN="+admin, "RELAY_METRICS_TOKEN="+metricsToken,
		"RELAY_AUDATEX_CLIENT_ID=dashboards", "RELAY_AUDATEX_CLIENT_SECRET=a-client-secret",
		"RELAY_AUDATEX_BASE_URL=http://"+vendor.Addr+sandbox.APIPath,
		"RELAY_AUDATEX_AUTH_URL=http://"+vendor.Addr+sandbox.AuthorizePath,
		"RELAY_AUDATEX_TOKEN_URL=http://"+vendor.Addr+sandbox.TokenPath, "RELAY_AUDATEX_RATE=100000",
		"RELAY_POLL_INTERVAL=200ms",
		"RELAY_RETRY_SCHEDULE=200ms,1h", "RELAY_CALLBACK_ALLOW_CIDRS=127.0.0.0/8")
	client := harness.NewClient()
	t.Cleanup(client.CloseIdleConnections)
	p := o.replica(t, program)
	o.api = harness.Caller{Base: "http://" + p.At.API, Token: admin, Client: client}
	o.consent(t, "leeds")
	o.receive(t, "well", relaytest.Healthy)
	return o
}

// replica starts one more.
func (o *observed) replica(t *testing.T, program string) *harness.Process {
	t.Helper()
	p := harness.StartProcess(t, program, []string{"serve"}, o.env, &harness.Logbook{})
	p.AwaitServing(t, "the relay")
	o.replicas = append(o.replicas, p)
	return p
}

// job is what Prometheus scrapes of it.
func (o *observed) job(name string) Job {
	j := Job{Name: name, Token: metricsToken}
	for _, p := range o.replicas {
		j.Targets = append(j.Targets, p.At.Metrics)
	}
	return j
}

// kill ends a replica as a power cut would.
func (o *observed) kill(t *testing.T, i int) {
	t.Helper()
	if err := o.replicas[i].Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-o.replicas[i].Exited
}

// consent connects a site with the consent of its user.
func (o *observed) consent(t *testing.T, id string) {
	t.Helper()
	grant, err := o.sandbox.Grant(sandbox.Consent{Sites: []string{vendorSite(id)}})
	if err != nil {
		t.Fatal(err)
	}
	o.connect(t, id, grant.RefreshToken)
}

// vendorSite is the vendor's own id of a site.
func vendorSite(id string) string { return "V-" + id }

func (o *observed) connect(t *testing.T, id, token string) {
	t.Helper()
	o.api.Must(t, http.MethodPut, "/v1/connections/"+id,
		map[string]any{"level": "site", "site": id, "refreshToken": token}, nil)
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

// trouble has a consent refused, receivers that fail and one that is gone, and orders that move.
func (o *observed) trouble(t *testing.T) {
	t.Helper()
	o.connect(t, "york", "a-token-that-nobody-gave")
	o.consent(t, "ripon")
	o.api.Must(t, http.MethodPatch, "/v1/connections/ripon", map[string]any{"paused": true}, nil)
	o.receive(t, "held", relaytest.Healthy)
	o.api.Must(t, http.MethodPatch, "/v1/callbacks/held", map[string]any{"paused": true}, nil)
	o.receive(t, "fails", relaytest.Always(http.StatusServiceUnavailable))
	o.receive(t, "gone", relaytest.Always(http.StatusGone))
	harness.AwaitSubscriptions(t, o.sandbox, 1)
	for range 4 {
		if _, err := o.sandbox.CreateOrder(vendorSite("leeds"), sandbox.OrderOptions{}); err != nil {
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

// TestEveryPanelHasData has a Prometheus scrape four relays, and asks it every query of every dashboard: of a quiet one
// and of one in trouble none fails and none is empty, and what is in trouble is shown; of one with two replicas what
// each owns is added up; and of one that is dead nothing looks well.
func TestEveryPanelHasData(t *testing.T) {
	t.Parallel()
	Program(t, "prometheus")
	program := filepath.Join(t.TempDir(), "relay")
	if err := harness.Build(t.Context(), root, "./cmd/relay", program); err != nil {
		t.Fatal(err)
	}
	quiet, troubled, dead, pair := startRelay(t, program), startRelay(t, program),
		startRelay(t, program), startPair(t, program)
	troubled.trouble(t)
	s := Start(t, Config{Jobs: []Job{quiet.job("quiet"), troubled.job("troubled"), dead.job("dead"), pair.job("pair")}})
	for job, replicas := range map[string]int{"quiet": 1, "troubled": 1, "dead": 1, "pair": 2} {
		s.AwaitUp(t, job, replicas)
	}
	dead.kill(t, 0)

	for job, subjects := range map[string]map[string]string{
		"quiet": {"callback": "well", "connection": "leeds"}, "troubled": {"callback": "fails", "connection": "york"},
		"pair": {"callback": "well", "connection": "c1"},
	} {
		values := map[string]string{"job": job, "__rate_interval": "1m", "callback": subjects["callback"],
			"connection": subjects["connection"]}
		for name, d := range Dashboards(t, root) {
			for _, v := range d.Templating.List[1:] {
				m := labelValues.FindStringSubmatch(Render(v.Definition, values))
				if m == nil {
					t.Fatalf("%s: variable %s asks %q", name, v.Name, v.Definition)
				}
				if offered, err := s.LabelValues(t.Context(), m[2], m[1]); err != nil || len(offered) == 0 {
					t.Errorf("%s: variable %s offers nothing: %v", name, v.Name, err)
				}
			}
			for _, p := range d.Panels {
				for _, target := range p.Targets {
					harness.Eventually(t, fmt.Sprintf("%s, %s, panel %q has data", job, name, p.Title), func() string {
						return s.missing(t, Render(target.Expr, values))
					})
				}
			}
		}
	}
	s.shows(t, "troubled", map[string]string{
		"4. Which connections need a consent, why, and since when?":       `york refused: [0-9.]+`,
		"9. Which callbacks are in trouble, whose, and what waits there?": `fails default backlog: [1-9]`,
		"Failing":            `fails default [a-z-]+: `,
		"Disabled":           `gone default gone: `,
		"Paused callbacks":   `held default: 1`,
		"Paused connections": `ripon: 1`,
		"Scraped":            `value: 1`,
	})
	s.shows(t, "quiet", map[string]string{
		"Failing": `none: 0`, "Paused callbacks": `none: 0`, "Full in": `value: [1-9]`, "Free": `value: 0`,
		"Scraped": `value: 1`, "1. Has every shard an owner?": `value: 0`,
		"7. Are events delivered in time?": `value: -1`,
	})
	pair.split(t, s)
	s.showsNothing(t, "dead")
}

// startPair starts two replicas on a NATS server that nobody has limited, and gives each of its connections something
// to set aside.
func startPair(t *testing.T, program string) *observed {
	t.Helper()
	keys, err := exec.CommandContext(t.Context(), program, "keys").Output()
	if err != nil {
		t.Fatal(err)
	}
	o := startRelay(t, program, "RELAY_NATS_URL="+natstest.StartLimited(t, 8<<20).URL(), "RELAY_STREAM_REPLICAS=1",
		"RELAY_ENCRYPTION_KEYS="+strings.TrimSpace(string(keys)))
	o.replica(t, program)
	for i := 1; i < ofPair; i++ {
		o.consent(t, fmt.Sprint("c", i))
	}
	harness.AwaitSubscriptions(t, o.sandbox, ofPair)
	for _, subscription := range o.sandbox.Subscriptions() {
		if n := o.sandbox.QueueRaw(subscription.Owner, json.RawMessage(`{"Maintenance":"tonight"}`)); n != 1 {
			t.Fatalf("%d queues of %s have it", n, subscription.Owner)
		}
	}
	return o
}

// ofPair is how many connections two replicas share: that one owns them all is out of the question.
const ofPair = 16

// split looks at what two replicas share, and then at what is left when one has ended.
func (o *observed) split(t *testing.T, s *Server) {
	t.Helper()
	harness.Eventually(t, "both have connections", func() string {
		return s.missing(t,
			`count(count by (instance) (audatex_relay_connection_last_poll_age_seconds{job="pair"})) == 2`)
	})
	s.shows(t, "pair", map[string]string{
		"Replicas": `value: 2`, "Scraped": `value: 1`, "Free": `value: -1`, "Full in": `value: -1`,
		"Connections by state": fmt.Sprintf(`active: %d`, ofPair),
		"2. How full is the store, and for how long will it do?": `store_bytes: `,
		"6. What is set aside, why, and since when?":             fmt.Sprintf(`malformed entries: %d`, ofPair),
	})
	o.kill(t, 1)
	s.shows(t, "pair", map[string]string{"Scraped": `value: 0.5`})
}

// shows waits until panels of the overview show a relay as the expressions want them. Each is one line of the panel.
func (s *Server) shows(t *testing.T, job string, wanted map[string]string) {
	t.Helper()
	found := 0
	for _, p := range Dashboards(t, root)["overview.json"].Panels {
		want, asked := wanted[p.Title]
		if !asked || len(p.Targets) == 0 {
			continue
		}
		found++
		query, line := Render(p.Targets[0].Expr, map[string]string{"job": job, "__rate_interval": "1m"}),
			regexp.MustCompile("^("+want+")")
		harness.Eventually(t, fmt.Sprintf("%s, panel %q shows %s", job, p.Title, want), func() string {
			samples, err := s.Query(t.Context(), query)
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(samples, func(sample Sample) bool {
				return line.MatchString(Line(sample.Name(), sample.Value))
			}) {
				return ""
			}
			return fmt.Sprint(samples)
		})
	}
	if found != len(wanted) {
		t.Errorf("%d panels of %d are there", found, len(wanted))
	}
}

// showsNothing waits until no panel shows anything of a relay of which nothing is scraped any more, but for that, and
// what its tables have counted until then.
func (s *Server) showsNothing(t *testing.T, job string) {
	t.Helper()
	s.shows(t, job, map[string]string{"Scraped": `value: 0`})
	values := map[string]string{"job": job, "__rate_interval": "5s", "callback": "well", "connection": "leeds"}
	for name, d := range Dashboards(t, root) {
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				if p.Title == "Scraped" || p.Type == "table" && strings.Contains(target.Expr, "increase(") {
					continue
				}
				harness.Eventually(t, fmt.Sprintf("%s, %s, panel %q shows nothing", job, name, p.Title), func() string {
					samples, err := s.Query(t.Context(), Render(target.Expr, values))
					if err != nil {
						t.Fatal(err)
					}
					if len(samples) > 0 {
						return fmt.Sprint(samples)
					}
					return ""
				})
			}
		}
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
