package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/relaytest"
)

// oddVendor stands before the sandbox and changes its responses.
type oddVendor struct {
	maintenance atomic.Bool            // an HTML page in the queue's place
	padding     atomic.Int64           // bytes to each notification
	refuse      atomic.Bool            // no order can be read
	giant       atomic.Pointer[string] // this order has 700 KB more, and so has what changed
	pages       atomic.Int64           // maintenance pages sent
	padded      atomic.Int64           // largest page sent
}

func (o *oddVendor) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		queue, order := strings.HasSuffix(r.URL.Path, "/notifications"), strings.Contains(r.URL.Path, "/partsorders/")
		giant := o.giant.Load()
		switch {
		case queue && o.maintenance.Load():
			o.pages.Add(1)
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html><body>Down for maintenance</body></html>"))
		case order && o.refuse.Load():
			http.Error(w, "Service unavailable", http.StatusServiceUnavailable)
		case queue && o.padding.Load() > 0:
			o.pad(w, r, h, int(o.padding.Load()))
		case order && giant != nil && strings.Contains(strings.ToLower(r.URL.Path), *giant):
			o.pad(w, r, h, 700_000)
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// pad adds a field of so many bytes to each element of the sandbox's response.
func (o *oddVendor) pad(w http.ResponseWriter, r *http.Request, h http.Handler, size int) {
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, r)
	body := answer.Body.Bytes()
	var elements []map[string]json.RawMessage
	if json.Unmarshal(bytes.TrimPrefix(bytes.TrimSpace(body), []byte("\xef\xbb\xbf")), &elements) == nil &&
		len(elements) > 0 {
		for _, e := range elements {
			e["Padding"] = json.RawMessage(`"` + strings.Repeat("x", size) + `"`)
		}
		body, _ = json.Marshal(elements) // it was read from JSON
		o.padded.Store(max(o.padded.Load(), int64(len(body))))
	}
	for name, values := range answer.Header() {
		if name != "Content-Length" {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(body)
}

// TestEveryNumber takes a relay on a NATS of its default limit (1 MiB) through what the vendor's
// queue may do, and compares every number of the API and of the metrics with what is known of it.
func TestEveryNumber(t *testing.T) {
	t.Parallel()
	odd := &oddVendor{}
	w := newWorld(t, 1, sandbox.Config{Seed: 11}, odd.wrap)
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	delete(w.env, "RELAY_DATA_DIR")
	delete(w.env, "RELAY_NATS_LISTEN")
	w.env["RELAY_NATS_URL"], w.env["RELAY_STREAM_REPLICAS"], w.env["RELAY_ENCRYPTION_KEYS"] = natstest.StartLimited(t,
		1<<20).URL(), "1", string(keys)
	healthy := w.newReceiver("healthy", relaytest.Healthy, nil)
	w.newDeadReceiver("dead", nil)
	p := w.start()
	w.connect()
	w.register()
	if !bytes.Contains(w.book.Tail(1000), []byte("max_payload: 8MB")) {
		t.Error("nothing is said of the limit of NATS")
	}
	site := w.sites[0]
	type connection struct {
		State, LastError string
		Waiting          *int
		GapSuspectedAt   time.Time
	}
	await := func(what string, ok func(connection) bool) {
		t.Helper()
		harness.Eventually(t, what, func() string {
			var c connection
			w.api().Must(t, http.MethodGet, "/v1/connections/"+site, nil, &c)
			if c.Waiting == nil || !ok(c) {
				b, _ := json.Marshal(c)
				return string(b)
			}
			return ""
		})
	}
	create := func(n int) (id string) {
		t.Helper()
		for range n {
			o, err := w.sandbox.CreateOrder(vendorSite(site), sandbox.OrderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			id = o.ID
		}
		return id
	}

	const first, second = 30, 20
	odd.refuse.Store(true)
	some := create(first)
	await("all wait while no order can be read", func(c connection) bool { return *c.Waiting == first })
	odd.refuse.Store(false)
	await("none waits when they can", func(c connection) bool { return *c.Waiting == 0 })

	odd.maintenance.Store(true)
	await("a maintenance page is a failure", func(c connection) bool {
		return c.State == "failing" && odd.pages.Load() >= 3
	})
	odd.maintenance.Store(false)
	await("it is over", func(c connection) bool {
		return c.State == "active" && *c.Waiting == 0 && !c.GapSuspectedAt.IsZero()
	})

	odd.refuse.Store(true)
	odd.padding.Store(150_000)
	create(second)
	await("large pages are stored", func(c connection) bool { return *c.Waiting == second && c.State == "active" })
	odd.refuse.Store(false)
	odd.padding.Store(0)
	harness.AwaitAccepted(t, first+second, healthy)
	giant := strings.ToLower(some)
	odd.giant.Store(&giant)
	if _, err := w.sandbox.AdvanceOrder(some); err != nil {
		t.Fatal(err)
	}
	type unresolved struct {
		ID, Reason, Order        string
		Raw                      []byte
		Count, Size              int
		ReceivedAt, LastReceived time.Time
	}
	var list []unresolved
	harness.Eventually(t, "the order that is too large is told", func() string {
		var err error
		if list, err = harness.Items[unresolved](w.api(), "/v1/unresolved"); err != nil || len(list) != 2 {
			return fmt.Sprint(len(list), err)
		}
		return ""
	})
	for _, u := range list {
		large := u.Reason == "too-large" && u.Order == giant && u.Count == 1
		page := u.Reason == "malformed" && u.Count == int(odd.pages.Load()) && u.Size == len(u.Raw) &&
			strings.HasPrefix(string(u.Raw), "<html>")
		if !large && !page {
			t.Errorf("unresolved %+v after %d maintenance pages", u, odd.pages.Load())
		}
	}
	w.api().Must(t, http.MethodPatch, "/v1/connections/"+site, map[string]any{"paused": true}, nil)
	await("it is paused", func(c connection) bool { return c.State == "paused" && *c.Waiting == 0 })

	// What waits for one that is far behind is estimated by what it has read: the operational
	// events of this test may be in it: a gap, what was found of it, and two for what is
	// unresolved.
	const all, operational = first + second, 4
	harness.Eventually(t, "every number of the API is right", func() string {
		list, err := harness.Items[struct {
			ID         string
			Backlog    *int
			LagSeconds *float64
		}](w.api(), "/v1/callbacks")
		if err != nil || len(list) != 2 {
			return fmt.Sprint(list, err)
		}
		for _, cb := range list {
			if cb.Backlog == nil || cb.LagSeconds == nil || cb.ID == "dead" &&
				(*cb.Backlog < all || *cb.Backlog > all+operational || *cb.LagSeconds <= 0) ||
				cb.ID == "healthy" && (*cb.Backlog != 0 || *cb.LagSeconds != 0) {
				b, _ := json.Marshal(cb)
				return string(b)
			}
		}
		return ""
	})
	var order struct{ Revision int }
	w.api().Must(t, http.MethodGet, "/v1/orders/"+some, nil, &order)
	if order.Revision != 1 {
		t.Errorf("revision %d, want 1", order.Revision)
	}
	harness.Eventually(t, "every metric is right", func() string { return checkNumbers(t, w, p, odd, all) })
	if code := w.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	w.book.CheckWellFormed(t)
}

// checkNumbers returns what is wrong with the metrics after so many events.
func checkNumbers(t *testing.T, w *world, p *harness.Process, odd *oddVendor, events int) string {
	t.Helper()
	families := w.metrics(t, p)
	pages, counters := float64(odd.pages.Load()), w.sandbox.Counters()
	all := float64(events)
	attempts := sum(families["audatex_relay_attempts_total"], "", "")
	polls := float64(counters.Requests[sandbox.OpPoll]) + pages
	for _, m := range []struct {
		name, label, value string
		want               float64
	}{
		{"audatex_relay_polls_total", "", "", polls},
		{"audatex_relay_polls_total", "outcome", "malformed", pages},
		{"audatex_relay_notifications_received_total", "", "", all + 1},
		{"audatex_relay_notifications_total", "result", "published", all},
		{"audatex_relay_notifications_total", "result", "unresolved", pages + 1},
		{"audatex_relay_notifications_total", "form", "malformed", pages},
		{"audatex_relay_unresolved_total", "reason", "malformed", pages},
		{"audatex_relay_unresolved_total", "reason", "too-large", 1},
		{"audatex_relay_gaps_suspected_total", "", "", 1},
		{"audatex_relay_connections", "state", "paused", 1},
		{"audatex_relay_connections", "", "", 1},
		{"audatex_relay_resolves_total", "outcome", "done", all + 1},
		{"audatex_relay_events_published_total", "origin", "notification", all},
		{"audatex_relay_events_published_total", "type", "audatex.relay.gap-suspected", 1},
		{"audatex_relay_events_published_total", "type", "audatex.relay.order-unresolved", 2},
		{"audatex_relay_created_to_event_seconds", "", "", all},
		{"audatex_relay_received_to_event_seconds", "", "", all},
		{"audatex_relay_deliveries_total", "status", "delivered", all},
		{"audatex_relay_deliveries_total", "", "", all},
		{"audatex_relay_attempts_total", "outcome", "success", all},
		{"audatex_relay_attempt_duration_seconds", "", "", attempts},
		{"audatex_relay_event_to_delivery_seconds", "", "", all},
		{"audatex_relay_created_to_delivery_seconds", "", "", all},
		{"audatex_relay_received_to_delivery_seconds", "", "", all},
		{"audatex_relay_callback_backlog", "callback", "healthy", 0},
		{"audatex_relay_callback_oldest_waiting_seconds", "callback", "healthy", 0},
		{"audatex_relay_vendor_requests_total", "operation", "poll", polls},
		{"audatex_relay_vendor_request_duration_seconds", "operation", "poll", polls},
		{"audatex_relay_token_refreshes_total", "", "", float64(counters.TokenRefreshes)},
		{"audatex_relay_store_failing", "", "", 0},
		{"audatex_relay_shards_held", "", "", 64},
		{"audatex_relay_members", "", "", 1},
		{"audatex_relay_lease_losses_total", "", "", 0},
		{"audatex_relay_lease_takeovers_total", "", "", 0},
	} {
		f := families[m.name]
		if f == nil {
			return "there is no " + m.name
		}
		if got := sum(f, m.label, m.value); got != m.want {
			return fmt.Sprintf("%s{%s=%q} is %v, want %v", m.name, m.label, m.value, got, m.want)
		}
	}
	// A busy machine may hold the store up: then the log has as many lines about it.
	outages, seconds := sum(families["audatex_relay_store_outages_total"], "", ""),
		sum(families["audatex_relay_store_outage_seconds_total"], "", "")
	if logged := bytes.Count(w.book.Text(), []byte("the store works again")); outages != float64(logged) ||
		(seconds > 0) != (logged > 0) {
		return fmt.Sprintf("%v outages of the store for %v s, and %d in the log", outages, seconds, logged)
	}
	if n := sum(families["audatex_relay_callback_backlog"], "callback", "dead"); n < all || n > all+4 {
		return fmt.Sprintf("a backlog of %v", n)
	}
	for _, name := range []string{"audatex_relay_connection_last_poll_age_seconds",
		"audatex_relay_callback_oldest_waiting_seconds"} {
		if age := sum(families[name], "", ""); age <= 0 || age > 3600 {
			return fmt.Sprintf("%s is %v", name, age)
		}
	}
	return ""
}

// metrics reads what a relay counts.
func (w *world) metrics(t *testing.T, p *harness.Process) map[string]*dto.MetricFamily {
	t.Helper()
	res, err := w.client.Get("http://" + p.At.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}
