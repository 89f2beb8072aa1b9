package harness

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// Firsts answers the events in the order of their first arrival, each once, by subject.
func Firsts(arrivals []Arrival) map[string][]Arrival {
	seen := map[string]bool{}
	by := map[string][]Arrival{}
	for _, a := range arrivals {
		if !seen[a.Event] {
			seen[a.Event] = true
			by[a.Subject] = append(by[a.Subject], a)
		}
	}
	return by
}

// CheckOrdered fails unless every subject's events came first in the order of their sequences.
func (r *Receiver) CheckOrdered(t *testing.T) {
	t.Helper()
	for subject, list := range Firsts(r.All()) {
		for i := 1; i < len(list); i++ {
			if list[i].Sequence <= list[i-1].Sequence { // sixteen digits each
				t.Errorf("callback %s: order %s: event %s came after %s", r.ID, subject, list[i].Event, list[i-1].Event)
			}
		}
	}
}

// Events answers the parsed events that arrived, by order and in the order of their sequences.
func (r *Receiver) Events(t *testing.T) map[string][]Event {
	t.Helper()
	r.Mu.Lock()
	defer r.Mu.Unlock()
	by := map[string][]Event{}
	for _, body := range r.Bodies {
		e, err := ParseEvent(body)
		if err != nil {
			t.Errorf("callback %s: %v in %s", r.ID, err, body)
			continue
		}
		if !strings.HasPrefix(e.Type, "audatex.relay.") {
			by[e.Subject] = append(by[e.Subject], e)
		}
	}
	for _, list := range by {
		slices.SortFunc(list, func(a, b Event) int { return cmp.Compare(a.Sequence, b.Sequence) })
	}
	return by
}

// HandedOut answers the notifications that a client was given, by order and as they were queued; except says which it could not have kept.
func HandedOut(l sandbox.Ledger, except func(sandbox.NotificationRecord) bool) map[string][]sandbox.NotificationRecord {
	by := map[string][]sandbox.NotificationRecord{}
	for _, o := range l.Orders {
		for _, n := range o.Notifications {
			if !n.HandedOutAt.IsZero() && !n.Lost && !n.Dropped && !except(n) {
				by[o.ID] = append(by[o.ID], n)
			}
		}
	}
	for _, list := range by {
		slices.SortStableFunc(list, func(a, b sandbox.NotificationRecord) int { return a.QueuedAt.Compare(b.QueuedAt) })
	}
	return by
}

// None excepts nothing.
func None(sandbox.NotificationRecord) bool { return false }

// CheckLedger compares the events that a receiver has with the ledger, order by order.
func (r *Receiver) CheckLedger(t *testing.T, l sandbox.Ledger, except func(sandbox.NotificationRecord) bool) {
	t.Helper()
	given, got := HandedOut(l, except), r.Events(t)
	bad := 0
	for _, o := range l.Orders {
		if err := CheckOrder(o, given[o.ID], got[o.ID]); err != nil {
			if bad++; bad <= 5 {
				t.Errorf("callback %s: order %s: %v", r.ID, o.ID, err)
			}
		}
		delete(got, o.ID)
	}
	if bad > 5 {
		t.Errorf("callback %s: … and %d more orders", r.ID, bad-5)
	}
	for id, list := range got {
		t.Errorf("callback %s: %d events of order %s, which the vendor does not have", r.ID, len(list), id)
	}
}

// AwaitAccepted waits until each of the receivers has accepted n different events.
func AwaitAccepted(t testing.TB, n int, receivers ...*Receiver) {
	t.Helper()
	Eventually(t, "all events are delivered", func() string {
		for _, r := range receivers {
			if got := r.Accepted(); got < n {
				return fmt.Sprintf("callback %s has %d of %d", r.ID, got, n)
			}
		}
		return ""
	})
}
