package dispatcher_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// What a callback's filter refuses by its status, or because nothing has changed, does not wait for it: not all of it,
// not the share of it where too much lies there to look at, and not the oldest.
func TestRefusedEventsDoNotWait(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, nil)
	register := func(id string, filter relay.Filter) {
		cb := callback(id, r.URL)
		cb.Paused, cb.Filter = true, filter
		b.register(cb)
	}
	register("some", relay.Filter{OrderStatuses: []string{"confirmed"}})
	register("changed", relay.Filter{ChangedOnly: true})
	register("none", relay.Filter{OrderStatuses: []string{"cancelled"}})
	register("all", relay.Filter{})
	sequence := uint64(0)
	publish := func(status string, changed bool) {
		sequence++
		ev, err := relay.NewOrderEvent("", "leeds", order(int(sequence)), relay.TypeOrderCreated, sequence, time.Now(),
			relay.OrderData{Order: json.RawMessage(`{}`), Revision: 1})
		if err != nil {
			t.Fatal(err)
		}
		ev.Status, ev.Changed = status, changed
		if _, err := b.store.Events.Publish(context.Background(), ev, store.InboxRef{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 30 {
		publish("New", false)
	}
	for range 10 {
		publish("Confirmed", true)
	}
	d := b.start()
	for id, want := range map[string]int{"some": 10, "changed": 10, "none": 0, "all": 40} {
		until(t, fmt.Sprintf("%s has %d waiting", id, want), func() bool {
			s, ok := d.Status(id)
			return ok && s.Backlog == want && (s.LagSeconds > 0) == (want > 0)
		})
	}
	all, _ := d.Status("all")
	some, _ := d.Status("some")
	if some.LagSeconds >= all.LagSeconds {
		t.Errorf("the oldest of those wanted is %v s old, that of all %v s", some.LagSeconds, all.LagSeconds)
	}
}
