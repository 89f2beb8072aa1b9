package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// firsts answers the events in the order of their first arrival, each once, by subject.
func firsts(arrivals []arrival) map[string][]arrival {
	seen := map[string]bool{}
	by := map[string][]arrival{}
	for _, a := range arrivals {
		if !seen[a.event] {
			seen[a.event] = true
			by[a.subject] = append(by[a.subject], a)
		}
	}
	return by
}

// checkOrdered fails unless every subject's events came first in the order of their sequences.
func (r *receiver) checkOrdered(t *testing.T) {
	t.Helper()
	for subject, list := range firsts(r.all()) {
		for i := 1; i < len(list); i++ {
			if list[i].sequence <= list[i-1].sequence { // sixteen digits each
				t.Errorf("callback %s: order %s: event %s came after %s", r.id, subject, list[i].event, list[i-1].event)
			}
		}
	}
}

// events answers the parsed events that arrived, by order and in the order of their sequences.
func (r *receiver) events(t *testing.T) map[string][]event {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	by := map[string][]event{}
	for _, body := range r.bodies {
		e, err := parseEvent(body)
		if err != nil {
			t.Errorf("callback %s: %v in %s", r.id, err, body)
			continue
		}
		if !strings.HasPrefix(e.Type, "audatex.relay.") {
			by[e.Subject] = append(by[e.Subject], e)
		}
	}
	for _, list := range by {
		slices.SortFunc(list, func(a, b event) int { return cmp.Compare(a.Sequence, b.Sequence) })
	}
	return by
}

// handedOut answers the notifications that a client was given, by order; except says which it could not have kept.
func handedOut(l sandbox.Ledger, except func(sandbox.NotificationRecord) bool) map[string][]sandbox.NotificationRecord {
	by := map[string][]sandbox.NotificationRecord{}
	for _, o := range l.Orders {
		for _, n := range o.Notifications {
			if !n.HandedOutAt.IsZero() && !n.Lost && !n.Dropped && !except(n) {
				by[o.ID] = append(by[o.ID], n)
			}
		}
	}
	return by
}

func none(sandbox.NotificationRecord) bool { return false }

// checkLedger compares the events that a receiver has with the ledger, order by order.
func (r *receiver) checkLedger(t *testing.T, l sandbox.Ledger, except func(sandbox.NotificationRecord) bool) {
	t.Helper()
	given, got := handedOut(l, except), r.events(t)
	bad := 0
	for _, o := range l.Orders {
		if err := checkOrder(o, given[o.ID], got[o.ID]); err != nil {
			if bad++; bad <= 5 {
				t.Errorf("callback %s: order %s: %v", r.id, o.ID, err)
			}
		}
		delete(got, o.ID)
	}
	if bad > 5 {
		t.Errorf("callback %s: … and %d more orders", r.id, bad-5)
	}
	for id, list := range got {
		t.Errorf("callback %s: %d events of order %s, which the vendor does not have", r.id, len(list), id)
	}
}

// awaitAccepted waits until each of the receivers has accepted n different events.
func awaitAccepted(t testing.TB, n int, receivers ...*receiver) {
	t.Helper()
	eventually(t, "all events are delivered", func() string {
		for _, r := range receivers {
			if got := r.accepted(); got < n {
				return fmt.Sprintf("callback %s has %d of %d", r.id, got, n)
			}
		}
		return ""
	})
}
