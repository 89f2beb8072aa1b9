package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// Verdict is the result of a comparison.
type Verdict struct {
	Lost       int // notifications without an event
	Doubled    int // events beyond one for each notification
	Misordered int // events that came after a later one of their order
	// orders whose events are not what the vendor did to them, and events of orders that it does not have
	Altered int

	Problems []string // what the numbers mean, an order each
}

// HandedOut returns the notifications that a client was given, by order and as they were queued.
// Except reports those that the client could not have kept.
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

// NoExceptions excepts nothing.
func NoExceptions(sandbox.NotificationRecord) bool { return false }

// Check compares events, each once and in the order in which they came, with what the vendor did.
// It ignores events of the relay itself. Notifications that a client could not have kept (except)
// have no event.
func Check(l sandbox.Ledger, events []Event, except func(sandbox.NotificationRecord) bool) Verdict {
	var v Verdict
	last := map[string]string{} // sequences, by order
	for _, e := range events {
		if e.Sequence <= last[e.Subject] && !e.Operational() { // sixteen digits each
			v.Misordered++
			v.problem(e.Subject, fmt.Errorf("event %s came after a later one", e.ID))
		}
		last[e.Subject] = max(last[e.Subject], e.Sequence)
	}
	given, by := HandedOut(l, except), ByOrder(events)
	for _, o := range l.Orders {
		v.add(o, given[o.ID], by[o.ID])
		delete(by, o.ID)
	}
	for id, list := range by {
		v.Altered += len(list)
		v.problem(id, fmt.Errorf("%d events of an order that the vendor does not have", len(list)))
	}
	return v
}

// ByOrder returns the events of orders by order, each list by sequence.
func ByOrder(events []Event) map[string][]Event {
	by := map[string][]Event{}
	for _, e := range events {
		if !e.Operational() {
			by[e.Subject] = append(by[e.Subject], e)
		}
	}
	for _, list := range by {
		slices.SortFunc(list, func(a, b Event) int { return cmp.Compare(a.Sequence, b.Sequence) })
	}
	return by
}

func (v *Verdict) problem(order string, err error) {
	v.Problems = append(v.Problems, fmt.Sprintf("order %s: %v", order, err))
}

// add compares the events of one order, by sequence.
func (v *Verdict) add(o sandbox.OrderRecord, given []sandbox.NotificationRecord, events []Event) {
	err := CheckOrder(o, given, events)
	if err == nil {
		return
	}
	v.problem(o.ID, err)
	lost, doubled := unmatched(given, events)
	v.Lost, v.Doubled = v.Lost+lost, v.Doubled+doubled
	if lost+doubled == 0 {
		v.Altered++
	}
}

// unmatched counts the notifications that have no event, and the events of no notification. Those
// of the older form have no id, so that only their number can be compared.
func unmatched(given []sandbox.NotificationRecord, events []Event) (lost, doubled int) {
	left := map[string]int{}
	for _, n := range given {
		id := strings.ToLower(n.ID) // the vendor writes it in either case
		if n.Form == sandbox.Older {
			id = ""
		}
		left[id]++
	}
	for i := range events {
		if !events[i].isReconciled() { // no notification is behind it
			left[events[i].NotificationID()]--
		}
	}
	for _, n := range left {
		lost, doubled = lost+max(0, n), doubled+max(0, -n)
	}
	return lost, doubled
}
