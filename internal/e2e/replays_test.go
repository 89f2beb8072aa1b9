package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

// replays is a relay with events in its log, and a receiver that has refused some of them for good.
type replays struct {
	*world
	receiver *harness.Receiver
	refuses  atomic.Pointer[string] // the beginning of the ids of events that are refused
	slow     atomic.Int64           // how long a replayed delivery takes, in nanoseconds
	events   []loggedEvent          // in the order of the log
}

// loggedEvent is what of an event the selections of replays depend on.
type loggedEvent struct {
	ID, Site, Subject, Type, Sequence string
	failed                            bool
}

// replay is a replay as the API shows it, or the result of a dry run.
type replay struct {
	ID, State, Until           string
	Matched                    *int
	Delivered, Failed, Skipped int
}

func (r replay) String() string {
	matched := -1
	if r.Matched != nil {
		matched = *r.Matched
	}
	return fmt.Sprintf("%s: %d matched, %d delivered, %d failed, %d skipped",
		r.State, matched, r.Delivered, r.Failed, r.Skipped)
}

const replaysPath = "/v1/callbacks/hook/replays"

// newReplays has three sites: the first and the third with four orders of three events each, the
// second with one order of twelve events, which have failed for good. (While more than one order
// fails, the receiver is only probed.)
func newReplays(t *testing.T) *replays {
	w := &replays{world: newWorld(t, 3, sandbox.Config{Seed: 11}, nil)}
	w.env["RELAY_RETRY_SCHEDULE"] = "10ms,10ms"
	refused, none := "site-02-", "none"
	w.refuses.Store(&refused)
	w.receiver = w.newReceiver("hook", func(n int, r *http.Request) int {
		if d := w.slow.Load(); d > 0 && r.Header.Get("webhook-replay") != "" {
			if status := relaytest.Slow(time.Duration(d))(n, r); status == 0 {
				return 0
			}
		}
		if strings.HasPrefix(r.Header.Get("webhook-id"), *w.refuses.Load()) {
			return http.StatusInternalServerError
		}
		return http.StatusNoContent
	}, map[string]any{"concurrency": 8})
	w.start()
	w.connect()
	w.register()
	rounds := map[string]int{}
	for n := range 9 {
		o, err := w.sandbox.CreateOrder(vendorSite(w.sites[[]int{0, 2, 1}[n/4]]), sandbox.OrderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if rounds[o.ID] = 2; n == 8 {
			rounds[o.ID] = 11
		}
	}
	for id, n := range rounds {
		for range n {
			if err := w.moveOn(id, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	harness.AwaitAccepted(t, 24, w.receiver)
	harness.Eventually(t, "the others have failed for good", func() string {
		if failed := w.deliveries("failed"); len(failed) != 12 {
			return fmt.Sprintf("%d have", len(failed))
		}
		return ""
	})
	w.refuses.Store(&none)
	failed := w.deliveries("failed")
	logged, err := harness.Items[loggedEvent](w.api(), "/v1/events?limit=1000")
	if err != nil {
		t.Fatal(err)
	}
	for _, ev := range logged {
		ev.failed = slices.Contains(failed, ev.ID)
		w.events = append(w.events, ev)
	}
	return w
}

// deliveries returns the events whose deliveries stand so.
func (w *replays) deliveries(status string) (events []string) {
	w.t.Helper()
	items, err := harness.Items[struct{ Event string }](w.api(),
		"/v1/callbacks/hook/deliveries?limit=500&status="+status)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, item := range items {
		events = append(events, item.Event)
	}
	return events
}

// dry returns the result of a dry run.
func (w *replays) dry(selection map[string]any) replay {
	w.t.Helper()
	var plan replay
	asked := map[string]any{"dryRun": true}
	for k, v := range selection {
		asked[k] = v
	}
	w.api().Must(w.t, http.MethodPost, replaysPath, asked, &plan)
	return plan
}

func (w *replays) make(selection map[string]any) replay {
	w.t.Helper()
	var made replay
	w.api().Must(w.t, http.MethodPost, replaysPath, selection, &made)
	return made
}

func (w *replays) get(id string) (r replay) {
	w.t.Helper()
	w.api().Must(w.t, http.MethodGet, replaysPath+"/"+id, nil, &r)
	return r
}

// ended waits until a replay has ended.
func (w *replays) ended(id string) (r replay) {
	w.t.Helper()
	harness.Eventually(w.t, "the replay ends", func() string {
		if r = w.get(id); r.State == "running" {
			return r.String()
		}
		return ""
	})
	return r
}

// came returns the events that have come by a replay and were accepted, in the order in which they
// came first, and how many came again.
func (w *replays) came(id string) (events []string, again int) {
	w.t.Helper()
	last := map[string]string{}
	for _, d := range w.receiver.Deliveries() {
		switch {
		case d.Replay != id || d.Status/100 != 2:
		case slices.Contains(events, d.Event):
			again++
		default:
			if d.Sequence <= last[d.Subject] {
				w.t.Errorf("event %s of replay %s came after %s of its order", d.Event, id, last[d.Subject])
			}
			last[d.Subject] = d.Sequence
			events = append(events, d.Event)
		}
	}
	return events, again
}

// selected returns the ids of events that pass, sorted.
func (w *replays) selected(pass func(ev loggedEvent) bool) (ids []string) {
	for _, ev := range w.events {
		if pass(ev) {
			ids = append(ids, ev.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// A replay of what has failed delivers that and nothing else, once, and the deliveries then stand as
// delivered. It goes on where a kill has interrupted it.
func TestReplayOfFailedDeliveries(t *testing.T) {
	t.Parallel()
	w := newReplays(t)
	failed := map[string]any{"deliveryStatuses": []string{"failed"}}
	plan := w.dry(failed)
	if plan.Matched == nil || *plan.Matched != 12 {
		t.Fatalf("a dry run answers %s", plan)
	}
	made := w.make(map[string]any{"deliveryStatuses": []string{"failed"}, "until": plan.Until})
	if got := w.ended(made.ID); got.State != "done" || got.Delivered != 12 ||
		got.Failed+got.Skipped != 0 || *got.Matched != 12 {
		t.Errorf("the replay ended %s", got)
	}
	events, again := w.came(made.ID)
	if slices.Sort(events); again != 0 || !slices.Equal(events, w.selected(func(ev loggedEvent) bool {
		return ev.failed
	})) {
		t.Errorf("%d came, %d again: %v", len(events), again, events)
	}
	if plan := w.dry(failed); *plan.Matched != 0 || len(w.deliveries("failed")) != 0 ||
		len(w.deliveries("delivered")) != 36 {
		t.Errorf("after the replay a dry run answers %s", plan)
	}
	var delivery struct {
		Status   string
		Attempts []struct{ Replay string }
	}
	w.api().Must(t, http.MethodGet, "/v1/callbacks/hook/deliveries/"+events[0], nil, &delivery)
	if n := len(delivery.Attempts); delivery.Status != "delivered" || n != 4 || delivery.Attempts[2].Replay != "" ||
		delivery.Attempts[3].Replay != made.ID {
		t.Errorf("a delivery that a replay has made is shown as %+v", delivery)
	}

	// The relay is killed twice in the middle of another.
	w.slow.Store(int64(20 * time.Millisecond))
	all := w.make(map[string]any{"since": "2020-01-01T00:00:00Z"})
	for _, n := range []int{8, 20} {
		harness.Eventually(t, "some events have come", func() string {
			if events, _ := w.came(all.ID); len(events) < n {
				return fmt.Sprintf("%d have", len(events))
			}
			return ""
		})
		w.end(syscall.SIGKILL)
		w.start()
	}
	if got := w.ended(all.ID); got.State != "done" || got.Delivered != 36 ||
		got.Failed+got.Skipped != 0 || *got.Matched != 36 {
		t.Errorf("after two kills the replay ended %s", got)
	}
	if events, again = w.came(all.ID); len(events) != 36 || again > 36 {
		t.Errorf("%d events came, %d again", len(events), again)
	}
	t.Logf("%d of 36 came again after two kills", again)

	// Two are cancelled, one of them before it has begun; an ended one is removed.
	w.slow.Store(int64(time.Second))
	first, second := w.make(map[string]any{"sites": []string{"site-01"}}),
		w.make(map[string]any{"sites": []string{"site-03"}})
	for _, r := range []replay{second, first} {
		w.api().Must(t, http.MethodDelete, replaysPath+"/"+r.ID, nil, nil)
	}
	if got := w.get(first.ID); got.State != "cancelled" {
		t.Errorf("a cancelled replay is %s", got)
	}
	w.slow.Store(0)
	w.api().Must(t, http.MethodDelete, replaysPath+"/"+made.ID, nil, nil)
	if got, err := w.api().Call(http.MethodGet, replaysPath+"/"+made.ID, nil); err != nil ||
		got.Status != http.StatusNotFound {
		t.Errorf("a removed replay: %d %s, %v", got.Status, got.Body, err)
	}
	w.retries()
	if code := w.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	w.receiver.CheckClean(t)
	w.book.CheckWellFormed(t)
}

// retries checks that a delivery that has ended is replayed, and one that waits is due.
func (w *replays) retries() {
	w.t.Helper()
	one := w.events[0]
	var retried struct {
		Due    bool
		Replay string
	}
	path := "/v1/callbacks/hook/deliveries/"
	w.api().Must(w.t, http.MethodPost, path+one.ID+"/retry", nil, &retried)
	if got := w.ended(retried.Replay); retried.Due || got.State != "done" || got.Delivered != 1 {
		w.t.Errorf("a retry of what has ended: %+v, %s", retried, got)
	}
	if events, _ := w.came(retried.Replay); !slices.Equal(events, []string{one.ID}) {
		w.t.Errorf("a retry of %s delivered %v", one.ID, events)
	}
	if got, err := w.api().Call(http.MethodPost, path+"site-01-"+one.Subject+"-1/retry", nil); err != nil ||
		got.Status != http.StatusNotFound {
		w.t.Errorf("a retry of no event: %d %s, %v", got.Status, got.Body, err)
	}
}

// What a dry run counts is what a run with its end delivers, in order per order, whatever is
// selected. More events that come meanwhile are not among it.
func TestReplaySelections(t *testing.T) {
	t.Parallel()
	w := newReplays(t)
	sites, orders, ids := []string{"site-01", "site-02", "site-03", "site-99"},
		w.attribute(func(ev loggedEvent) string {
			return ev.Subject
		}), w.attribute(func(ev loggedEvent) string { return ev.ID })
	types := map[string]func(loggedEvent) bool{
		"audatex.parts.order.created": func(ev loggedEvent) bool { return strings.HasSuffix(ev.Type, ".created") },
		"audatex.parts.order.updated": func(ev loggedEvent) bool { return strings.HasSuffix(ev.Type, ".updated") },
		"audatex.parts.*":             func(loggedEvent) bool { return true },
		"audatex.relay.*":             func(loggedEvent) bool { return false },
	}
	failed := w.dry(map[string]any{"deliveryStatuses": []string{"failed"}}).Until
	rapid.Check(t, func(rt *rapid.T) {
		selection, passes := map[string]any{}, []func(loggedEvent) bool{}
		list := func(name string, from []string, of func(loggedEvent) string) {
			if !rapid.Bool().Draw(rt, "has "+name) {
				return
			}
			chosen := rapid.SliceOfNDistinct(rapid.SampledFrom(from), 1, min(5, len(from)), rapid.ID).Draw(rt, name)
			selection[name] = chosen
			passes = append(passes, func(ev loggedEvent) bool { return slices.Contains(chosen, of(ev)) })
		}
		list("sites", sites, func(ev loggedEvent) string { return ev.Site })
		list("orders", orders, func(ev loggedEvent) string { return ev.Subject })
		list("events", ids, func(ev loggedEvent) string { return ev.ID })
		if rapid.Bool().Draw(rt, "has types") {
			typ := rapid.SampledFrom([]string{"audatex.parts.order.created", "audatex.parts.order.updated",
				"audatex.parts.*", "audatex.relay.*"}).Draw(rt, "type")
			selection["types"] = []string{typ}
			passes = append(passes, types[typ])
		}
		if rapid.Bool().Draw(rt, "has statuses") { // as they stood before all this
			status := rapid.SampledFrom([]string{"failed", "delivered"}).Draw(rt, "status")
			selection["deliveryStatuses"], selection["until"] = []string{status}, failed
			passes = append(passes, func(ev loggedEvent) bool { return ev.failed == (status == "failed") })
		}
		if len(selection) == 0 {
			selection["since"] = "2020-01-01T00:00:00Z"
		}
		want := w.selected(func(ev loggedEvent) bool {
			return !slices.ContainsFunc(passes, func(pass func(loggedEvent) bool) bool { return !pass(ev) })
		})
		plan := w.dry(selection)
		if *plan.Matched != len(want) {
			rt.Fatalf("a dry run counts %d of %v, want %d", *plan.Matched, selection, len(want))
		}
		selection["until"] = plan.Until
		made := w.make(selection)
		if got := w.ended(made.ID); got.Delivered != len(want) || got.State != "done" || *got.Matched != len(want) {
			rt.Fatalf("%v ended %s, want %d", selection, got, len(want))
		}
		events, again := w.came(made.ID)
		if slices.Sort(events); again > 0 || !slices.Equal(events, want) {
			rt.Fatalf("%v delivered %v and %d again, want %v", selection, events, again, want)
		}
	})
	if t.Failed() {
		return
	}
	w.refusals()
	w.receiver.CheckClean(t)
}

// attribute returns the different values of an attribute of the events.
func (w *replays) attribute(of func(loggedEvent) string) (values []string) {
	for _, ev := range w.events {
		if v := of(ev); !slices.Contains(values, v) {
			values = append(values, v)
		}
	}
	return values
}

// refusals checks which requests are refused with a reason, and which are just accepted.
func (w *replays) refusals() {
	w.t.Helper()
	for _, c := range []struct {
		body   map[string]any
		status int
		says   string
	}{
		{map[string]any{}, 422, "selects everything"},
		{map[string]any{"changedOnly": true, "dryRun": true}, 200, "matched"},
		{map[string]any{"dryRun": true}, 200, "matched"},
		{map[string]any{"types": []string{"audatex.nothing"}}, 422, "/types/0"},
		{map[string]any{"events": []string{"site-01-gone-1"}}, 422, "/events/0"},
		{map[string]any{"since": "2020-01-01T00:00:00Z", "until": "soon"}, 422, "/until"},
		{map[string]any{"deliveryStatuses": []string{"pending"}}, 422, "/deliveryStatuses/0"},
	} {
		got, err := w.api().Call(http.MethodPost, replaysPath, c.body)
		if err != nil || got.Status != c.status || !strings.Contains(string(got.Body), c.says) {
			w.t.Errorf("%v: %d %s, %v", c.body, got.Status, got.Body, err)
		}
	}
	w.api().Must(w.t, http.MethodPatch, "/v1/callbacks/hook", map[string]any{"paused": true}, nil)
	got, err := w.api().Call(http.MethodPost, replaysPath, map[string]any{"sites": []string{"site-01"}})
	if err != nil || got.Status != http.StatusConflict {
		w.t.Errorf("a replay to a paused callback: %d %s, %v", got.Status, got.Body, err)
	}
	items, err := harness.Items[json.RawMessage](w.api(), replaysPath+"?limit=7")
	if err != nil || len(items) == 0 {
		w.t.Errorf("%d replays are listed, %v", len(items), err)
	}
	w.api().Must(w.t, http.MethodDelete, "/v1/callbacks/hook", nil, nil)
}
