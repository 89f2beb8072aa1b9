package resolver_test

import (
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

func TestNotificationBecomesEvent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	order := orderID(1)
	r.vendor.set(order, "New")
	first := r.page("leeds", "leeds", created(order)) // before the resolver runs
	r.run(r.config(r.store))
	r.settled("leeds", first)
	r.vendor.set(order, "Confirmed")
	second := r.page("leeds", "leeds", updated(order)) // while it runs
	r.settled("leeds", second)

	events := r.events("leeds", order)
	if len(events) != 2 {
		t.Fatalf("%d events, want 2", len(events))
	}
	e := events[0]
	if e.Event.Type != relay.TypeOrderCreated || e.data.Revision != 1 || e.data.PreviousStatus != nil ||
		len(e.data.Changes) != 0 || e.Event.Time != "2026-01-15T09:38:44.687150Z" {
		t.Errorf("first event: %s", e.Body)
	}
	e = events[1]
	if e.Event.Type != relay.TypeOrderUpdated || e.data.Revision != 2 || e.data.PreviousStatus == nil ||
		*e.data.PreviousStatus != "New" ||
		len(e.data.Changes) != 2 || e.data.Changes[0].Path != "/Status" || e.data.Changes[1].Path != "/Parts/0/Status" {
		t.Errorf("second event: %s", e.Body)
	}
	if e.Inbox.Connection != "leeds" || e.Inbox.Seq != second || e.Inbox.Index != 0 {
		t.Errorf("inbox reference %v, want page %d", e.Inbox, second)
	}
}
