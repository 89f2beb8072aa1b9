package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/audatex-relay/relay/api"
	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/ledger"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

const (
	flowSites  = 50
	flowRounds = 4 // notifications of each order
)

var (
	flowOrders = natstest.Long(3, 10) // of each site
	flowAll    = flowSites * flowOrders * flowRounds
)

// TestFlow takes 600 notifications (2,000 with RELAY_LONG) in both forms through the relay to five
// callbacks and to subscribers on NATS.
func TestFlow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, flowSites, sandbox.Config{Seed: 7}, nil)
	w.env["RELAY_POLL_INTERVAL"] = "250ms" // fifty sites that are polled ten times a second cost more than all else
	first := w.newReceiver("first", relaytest.Healthy, nil)
	second := w.newReceiver("second", relaytest.Healthy, map[string]any{"concurrency": 1})
	flaky := w.newReceiver("flaky", relaytest.OneInTen, nil)
	late := w.newReceiver("late", relaytest.Slow(30*time.Millisecond), map[string]any{"concurrency": 32})
	dead, wake := w.newDeadReceiver("dead", nil)
	p := w.start()
	w.connect()
	w.register()
	everywhere := w.subscribe("everywhere", nil)
	somewhere := w.subscribe("somewhere", w.sites[:3])

	began := time.Now()
	w.playFlow()
	harness.AwaitAccepted(t, flowAll, first, second, flaky, late)
	t.Logf("%d notifications in %s", flowAll, time.Since(began).Round(time.Millisecond))

	// The vendor's side.
	counters := w.sandbox.Counters()
	if counters.NotificationsHandedOut != int64(flowAll) || counters.NotificationsLost != 0 ||
		counters.NotificationsMissed != 0 {
		t.Errorf("handed out %d, lost %d, missed %d; want %d, 0, 0",
			counters.NotificationsHandedOut, counters.NotificationsLost, counters.NotificationsMissed, flowAll)
	}
	if counters.TrapCalls != 0 || counters.SpentRefreshTokens != 0 || counters.PollsOverlapping != 0 ||
		counters.RefreshesOverlapping != 0 {
		t.Errorf("trap calls %d, spent refresh tokens used %d, overlapping polls %d, overlapping refreshes %d; want "+
			"none",
			counters.TrapCalls, counters.SpentRefreshTokens, counters.PollsOverlapping, counters.RefreshesOverlapping)
	}

	// The dead one has got nothing, everything waits for it, and it is being probed only.
	harness.Eventually(t, "the dead callback is seen to be dead", func() string {
		var cb harness.Callback
		w.api().Must(t, http.MethodGet, "/v1/callbacks/dead", nil, &cb)
		if cb.State != "active" || cb.Health != "open" || cb.Backlog == nil || *cb.Backlog != flowAll {
			return fmt.Sprintf("state %s, health %s, backlog %v", cb.State, cb.Health, cb.Backlog)
		}
		return ""
	})
	checkMetrics(t, w, p)

	// It comes to life: all that waited arrives, in order.
	wake()
	w.api().Must(t, http.MethodPost, "/v1/callbacks/dead/resume", nil, nil)
	harness.AwaitAccepted(t, flowAll, dead)

	records := w.sandbox.Ledger()
	forms := map[sandbox.Form]int{}
	for _, list := range ledger.HandedOut(records, ledger.NoExceptions) {
		for _, n := range list {
			forms[n.Form]++
		}
	}
	if forms[sandbox.Newer] < flowAll/4 || forms[sandbox.Older] < flowAll/4 {
		t.Errorf("forms %v: both were to be seen", forms)
	}
	for _, r := range w.receivers {
		r.CheckClean(t)
		r.CheckOrdered(t)
		sameBodies(t, first, r)
		if r != flaky {
			if n := len(r.Deliveries()); n != flowAll {
				t.Errorf("callback %s: %d deliveries of %d events: nothing was to be repeated", r.ID, n, flowAll)
			}
		}
	}
	first.CheckLedger(t, records, ledger.NoExceptions)
	checkSchemas(t, first)
	everywhere.check(t, first, w.sites)
	somewhere.check(t, first, w.sites[:3])
	checkFeed(t, w, first)

	if code := w.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	w.book.CheckWellFormed(t)
}

// playFlow lets every order be made and move on, in rounds over all sites.
func (w *world) playFlow() {
	w.t.Helper()
	var ids []string
	tick := time.NewTicker(3 * time.Millisecond) // some 300 a second: an order's notifications come in different polls
	defer tick.Stop()
	for n := range flowSites * flowOrders {
		<-tick.C
		o, err := w.sandbox.CreateOrder(vendorSite(w.sites[n%flowSites]), sandbox.OrderOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		ids = append(ids, o.ID)
	}
	for round := 1; round < flowRounds; round++ {
		for n, id := range ids {
			<-tick.C
			if err := w.moveOn(id, (n+round)%7 == 0); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// moveOn queues one notification of an order: of its next status, of another price, or (touch) of
// nothing.
func (w *world) moveOn(id string, touch bool) error {
	if touch {
		return w.sandbox.Touch(id)
	}
	o, err := w.sandbox.Order(id)
	if err != nil {
		return err
	}
	if o.Ended {
		_, err = w.sandbox.ChangeOrder(id, sandbox.Change{})
	} else {
		_, err = w.sandbox.AdvanceOrder(id)
	}
	return err
}

// sameBodies fails unless two receivers have the very same bytes.
func sameBodies(t *testing.T, a, b *harness.Receiver) {
	t.Helper()
	if a == b {
		return
	}
	of, other := a.Bodies(), b.Bodies()
	if len(of) != len(other) {
		t.Errorf("callback %s has %d events, %s has %d", a.ID, len(of), b.ID, len(other))
	}
	for id, body := range of {
		if !bytes.Equal(body, other[id]) {
			t.Errorf("event %s: %s has\n%s\n%s has\n%s", id, a.ID, body, b.ID, other[id])
			return
		}
	}
}

// checkSchemas validates every event against the published schemas.
func checkSchemas(t *testing.T, r *harness.Receiver) {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	files, err := api.Schemas.ReadDir("schemas")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, err := api.Schemas.ReadFile("schemas/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource("http://schemas/"+f.Name(), doc); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := c.Compile("http://schemas/event-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	for id, body := range r.Bodies() {
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
		if err == nil {
			err = schema.Validate(v)
		}
		if err != nil {
			t.Errorf("event %s: %v", id, err)
			return
		}
	}
}

// subscriber is a service on NATS with an API key.
type subscriber struct {
	name string
	mu   sync.Mutex
	got  map[string][]byte // by event
	bad  []string
}

// subscribe connects a service that may see the sites (none: all) and listens to them.
func (w *world) subscribe(name string, sites []string) *subscriber {
	w.t.Helper()
	id, key := w.apiKey(name, sites)
	s := &subscriber{name: name, got: map[string][]byte{}}
	nc, err := nats.Connect("nats://"+w.relay.At.NATS, nats.UserInfo(id, key), nats.MaxReconnects(0))
	if err != nil {
		w.t.Fatalf("subscriber %s: %v", name, err)
	}
	w.t.Cleanup(nc.Close)
	subjects := []string{"audatex.>"}
	if len(sites) > 0 {
		subjects = nil
		for _, site := range sites {
			subjects = append(subjects, "audatex."+site+".>")
		}
	}
	for _, subject := range subjects {
		sub, err := nc.Subscribe(subject, s.take)
		if err == nil {
			err = sub.SetPendingLimits(-1, -1)
		}
		if err != nil {
			w.t.Fatalf("subscriber %s: %v", name, err)
		}
	}
	if err := nc.Flush(); err != nil {
		w.t.Fatalf("subscriber %s: %v", name, err)
	}
	return s
}

func (s *subscriber) take(m *nats.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ev struct{ ID, Type, Site, Subject string }
	err := json.Unmarshal(m.Data, &ev)
	want := "audatex." + ev.Site + strings.TrimPrefix(ev.Type, "audatex") + "." + ev.Subject
	switch _, twice := s.got[ev.ID]; {
	case err != nil:
		s.bad = append(s.bad, fmt.Sprintf("%s: %v", m.Subject, err))
	case twice:
		s.bad = append(s.bad, ev.ID+" came twice")
	case m.Subject != want:
		s.bad = append(s.bad, fmt.Sprintf("%s on subject %s", ev.ID, m.Subject))
	}
	s.got[ev.ID] = m.Data
}

// check fails unless the subscriber has got the very bytes that a callback got, of all events of
// the sites.
func (s *subscriber) check(t *testing.T, r *harness.Receiver, sites []string) {
	t.Helper()
	may := map[string]bool{}
	for _, site := range sites {
		may[site] = true
	}
	want, bodies := map[string][]byte{}, r.Bodies()
	for _, list := range r.Events(t) {
		for _, e := range list {
			if may[e.Site] {
				want[e.ID] = bodies[e.ID]
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, problem := range s.bad {
		t.Errorf("subscriber %s: %s", s.name, problem)
	}
	if len(want) == 0 || len(s.got) != len(want) {
		t.Errorf("subscriber %s: %d events, want %d", s.name, len(s.got), len(want))
	}
	for id, body := range want {
		if !bytes.Equal(s.got[id], body) {
			t.Errorf("subscriber %s: event %s is\n%s\nwant\n%s", s.name, id, s.got[id], body)
			return
		}
	}
}

// checkFeed reads the log as a feed and some events alone.
func checkFeed(t *testing.T, w *world, r *harness.Receiver) {
	t.Helper()
	feed, err := harness.Items[json.RawMessage](w.api(), "/v1/events?limit=500")
	if err != nil {
		t.Fatal(err)
	}
	seen, bodies := map[string]bool{}, r.Bodies()
	for i, raw := range feed {
		e, err := ledger.ParseEvent(raw)
		if err != nil {
			t.Fatalf("%v in %s", err, raw)
		}
		if seen[e.ID] || bodies[e.ID] == nil {
			t.Errorf("the feed has event %s twice, or nobody else has it", e.ID)
		}
		seen[e.ID] = true
		if i%400 == 0 {
			a, err := w.api().Call(http.MethodGet, "/v1/events/"+e.ID, nil)
			if err != nil || a.Status != http.StatusOK || !bytes.Equal(a.Body, bodies[e.ID]) {
				t.Errorf("event %s alone: %v, %d\n%s\nwant\n%s", e.ID, err, a.Status, a.Body, bodies[e.ID])
			}
		}
	}
	if len(feed) != flowAll {
		t.Errorf("the feed has %d events, want %d", len(feed), flowAll)
	}
}

// checkMetrics compares the metrics with what is known of the run so far.
func checkMetrics(t *testing.T, w *world, p *harness.Process) {
	t.Helper()
	res, err := w.client.Get("http://" + p.At.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	flaky := 0
	for _, r := range w.receivers {
		if r.ID == "flaky" {
			flaky = len(r.Deliveries()) - flowAll
		}
	}
	for _, m := range []struct {
		name, label, value string
		want               float64
	}{
		{"audatex_relay_notifications_received_total", "", "", float64(flowAll)},
		{"audatex_relay_notifications_total", "result", "published", float64(flowAll)},
		{"audatex_relay_events_published_total", "origin", "notification", float64(flowAll)},
		{"audatex_relay_events_published_total", "type", "audatex.parts.order.created",
			float64(flowSites * flowOrders)},
		{"audatex_relay_deliveries_total", "status", "delivered", float64(4 * flowAll)},
		{"audatex_relay_attempts_total", "outcome", "success", float64(4 * flowAll)},
		{"audatex_relay_gaps_suspected_total", "", "", 0},
		{"audatex_relay_connections", "state", "active", flowSites},
	} {
		if got := sum(families[m.name], m.label, m.value); got != m.want {
			t.Errorf("%s{%s=%q} is %v, want %v", m.name, m.label, m.value, got, m.want)
		}
	}
	all := sum(families["audatex_relay_attempts_total"], "", "")
	if all < float64(4*flowAll+flaky) {
		t.Errorf("%v attempts, at least %d were seen", all, 4*flowAll+flaky)
	}
}

// sum adds a family's counters and gauges up, and how often its histograms observed something, of
// those with the label's value if a label is given.
func sum(f *dto.MetricFamily, label, value string) float64 {
	total := 0.0
	for _, m := range f.GetMetric() {
		has := label == ""
		for _, l := range m.GetLabel() {
			has = has || l.GetName() == label && l.GetValue() == value
		}
		if has {
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return total
}
