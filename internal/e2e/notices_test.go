package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

// operational is an operational event about a callback, as the feed shows it.
type operational struct {
	ID, Type string
	Data     struct {
		Details struct {
			Callback, FirstEvent, LastEvent string
			Count                           int
		}
	}
}

// about returns the operational events about callbacks, oldest first.
func (w *world) about() (events []operational) {
	w.t.Helper()
	all, err := harness.Items[operational](w.api(), "/v1/events?types=audatex.relay.*&limit=1000")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range all {
		if e.Data.Details.Callback != "" {
			events = append(events, e)
		}
	}
	return events
}

// A receiver that is down makes an event when that is found out and one when it responds again, and deliveries that
// fail for good make one, however many attempts and deliveries there are. Another callback of the client gets them, and
// the one that they are about does not.
func TestReceiversThatFailMakeFewEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, sandbox.Config{Seed: 23}, nil)
	w.env["RELAY_RETRY_SCHEDULE"] = "500ms,500ms"
	var well atomic.Bool
	var poisoned atomic.Pointer[string]
	everything := []string{"*", "audatex.relay.*"}
	// closed once several orders are under way: what fails for one alone is that order's fault
	several := make(chan struct{})
	down := w.newReceiver("down", func(_ int, r *http.Request) int {
		select {
		case <-several:
		case <-r.Context().Done():
		}
		if well.Load() {
			return http.StatusNoContent
		}
		return http.StatusInternalServerError
	}, map[string]any{"types": everything})
	picky := w.newReceiver("picky", func(_ int, r *http.Request) int {
		if of := poisoned.Load(); of == nil || strings.Contains(r.Header.Get("webhook-id"), *of) {
			return http.StatusInternalServerError
		}
		return http.StatusNoContent
	}, map[string]any{"types": everything})
	watch := w.newReceiver("watch", relaytest.Healthy, map[string]any{"types": []string{"audatex.relay.*"}})
	all := w.newReceiver("all", relaytest.Healthy, nil)
	w.start()
	w.connect()
	var orders []string
	for range 12 {
		o, err := w.sandbox.CreateOrder(vendorSite(w.sites[0]), sandbox.OrderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		orders = append(orders, o.ID)
	}
	poisoned.Store(&orders[0])
	w.register()
	harness.AwaitAccepted(t, len(orders), all)
	close(several)
	for range 4 {
		for _, id := range orders {
			if err := w.moveOn(id, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	const events = 12 * 5
	harness.AwaitAccepted(t, events, all)
	kinds := func(of string) (list []string) {
		for _, e := range w.about() {
			if e.Data.Details.Callback == of {
				list = append(list, strings.TrimPrefix(e.Type, "audatex.relay."))
			}
		}
		return list
	}
	harness.Eventually(t, "the failures are published", func() string {
		if a, b := kinds("down"), kinds("picky"); len(a) == 0 || len(b) == 0 {
			return fmt.Sprintf("down: %v, picky: %v", a, b)
		}
		return ""
	})
	harness.Eventually(t, "all of the poisoned order has failed for good", func() string {
		failed, err := harness.Items[struct{ Event string }](w.api(),
			"/v1/callbacks/picky/deliveries?limit=500&status=failed")
		if err != nil || len(failed) != 5 {
			return fmt.Sprintf("%d have, %v", len(failed), err)
		}
		return ""
	})
	well.Store(true)
	w.api().Must(t, http.MethodPost, "/v1/callbacks/down/test", map[string]any{}, nil) // which makes all that waits due
	harness.AwaitAccepted(t, events, down)
	harness.Eventually(t, "the end of the outage is published", func() string {
		if a := kinds("down"); !slices.Equal(a, []string{"callback-failing", "callback-recovered"}) {
			return fmt.Sprint(a)
		}
		return ""
	})
	if got := kinds("picky"); !slices.Equal(got, []string{"delivery-failed"}) {
		t.Errorf("deliveries that failed for good made %v", got)
	}
	published := w.about()
	harness.AwaitAccepted(t, len(published), watch)
	seen := acceptedIDs(watch)
	for _, e := range published {
		if d := e.Data.Details; !slices.Contains(seen, e.ID) ||
			e.Type != "audatex.relay.callback-recovered" && (d.Count < 1 || d.FirstEvent == "" || d.LastEvent == "") {
			t.Errorf("%+v is incomplete, or was not delivered to another callback of the client", e)
		}
		for _, r := range []*harness.Receiver{down, picky} {
			if r.ID == e.Data.Details.Callback && slices.Contains(acceptedIDs(r), e.ID) {
				t.Errorf("callback %s got %s, which is about itself", r.ID, e.Type)
			}
		}
	}
}

// A receiver that takes a few at a time is sent about as many, is shown as slowed in the API, and gets everything in
// the end.
func TestAnOverloadedReceiverIsSlowedDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, sandbox.Config{Seed: 29}, nil)
	var overloaded atomic.Bool
	overloaded.Store(true)
	busy := w.newReceiver("busy", func(n int, _ *http.Request) int {
		if overloaded.Load() && n%2 == 0 {
			return http.StatusTooManyRequests
		}
		return http.StatusNoContent
	}, map[string]any{"concurrency": 8})
	w.start()
	w.connect()
	w.register()
	for range 60 {
		if _, err := w.sandbox.CreateOrder(vendorSite(w.sites[0]), sandbox.OrderOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	harness.Eventually(t, "it is slowed down", func() string {
		var cb struct {
			Health string
			Slowed *struct{ PerSecond float64 }
		}
		w.api().Must(t, http.MethodGet, "/v1/callbacks/busy", nil, &cb)
		if cb.Health != "congested" || cb.Slowed == nil || cb.Slowed.PerSecond < 1 {
			return fmt.Sprintf("%s, %+v", cb.Health, cb.Slowed)
		}
		return ""
	})
	overloaded.Store(false)
	w.api().Must(t, http.MethodPost, "/v1/callbacks/busy/resume", nil, nil)
	harness.AwaitAccepted(t, 60, busy)
	busy.CheckOrdered(t)
}
