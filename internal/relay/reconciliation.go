package relay

import (
	"slices"
	"time"
)

// ReconcileCause is why a connection's open orders are read again.
type ReconcileCause string

// The causes.
const (
	CauseGap          ReconcileCause = "gap"          // notifications may have been lost
	CauseSubscription ReconcileCause = "subscription" // there is a new subscription; nothing was queued before it
	CauseAsked        ReconcileCause = "asked"        // on request
	CauseNightly      ReconcileCause = "nightly"      // once a night
)

// Reconciliation is the document about a connection's reconciliations, stored beside its Poll:
// which run is under way, and how far it is. A run reads the connection's open orders in the order
// of their keys in relay_open.
type Reconciliation struct {
	Epoch      uint64           `json:"epoch"`
	Generation string           `json:"generation"`
	Gaps       uint64           `json:"gaps,omitempty"` // how many of the Poll's gaps a run was requested for
	Run        *ReconcileRun    `json:"run,omitempty"`  // nil: none is under way
	Next       *ReconcileWant   `json:"next,omitempty"` // what has been requested since the run began
	Last       *ReconcileEnding `json:"last,omitempty"` // the last run that was completed
}

// OwnerEpoch is the epoch of the owner who wrote the document.
func (d Reconciliation) OwnerEpoch() uint64 { return d.Epoch }

// ReconcileWant is a request for a run.
type ReconcileWant struct {
	Causes []ReconcileCause `json:"causes"`
	// Since is the earliest time since which changes may have been missed, At when the run was last
	// requested.
	Since time.Time `json:"since"`
	At    time.Time `json:"at"`
	// Delivered: delivered orders must be read, too.
	Delivered bool `json:"delivered,omitempty"`
	// Until is the key up to which the current run had read when this was last requested: the
	// orders up to it must be read once more. Whole: all of them must.
	Until string `json:"until,omitempty"`
	Whole bool   `json:"whole,omitempty"`
}

// ReconcileRun is one run over a connection's open orders. The keys are read as a circle, from From
// (exclusive) to Until (inclusive); if the two are equal, once round.
type ReconcileRun struct {
	Causes    []ReconcileCause `json:"causes"`
	Since     time.Time        `json:"since"`
	Delivered bool             `json:"delivered,omitempty"`
	WantedAt  time.Time        `json:"wantedAt"` // every order was, or will be, read after this moment
	StartedAt time.Time        `json:"startedAt"`

	From     string `json:"from,omitempty"`
	Until    string `json:"until,omitempty"`
	Position string `json:"position,omitempty"` // the last completed key; From at first
	Wrapped  bool   `json:"wrapped,omitempty"`  // the run has passed the last key

	Done       int      `json:"done"`
	Total      int      `json:"total"` // orders done and left, as far as known
	Read       int      `json:"read"`
	Changed    int      `json:"changed"`
	Unreadable int      `json:"unreadable"`
	Orders     []string `json:"orders,omitempty"` // the first of the unreadable ones
}

// ReconcileEnding is when a completed run was requested, began and ended.
type ReconcileEnding struct {
	WantedAt  time.Time `json:"wantedAt"`
	StartedAt time.Time `json:"startedAt"`
	EndedAt   time.Time `json:"endedAt"`
}

// Want requests that the orders are read again because of something that happened until now. If no
// run is under way, one begins. Otherwise the current run goes on to its end, and the next one
// reads again the orders that were read before now. Begun is the last key whose reading has begun,
// or "" if none has since the run's position was stored.
func (d *Reconciliation) Want(w ReconcileWant, begun string, now time.Time) {
	r := d.Run
	switch {
	case r == nil:
		d.Run = &ReconcileRun{Causes: w.Causes, Since: w.Since, Delivered: w.Delivered, WantedAt: now, StartedAt: now}
	case slices.Equal(w.Causes, []ReconcileCause{CauseNightly}):
		// the current run does what it is for
	case begun == "" && r.Position == r.From && !r.Wrapped: // the run has read nothing yet
		r.Causes, r.Since, r.Delivered = addCauses(r.Causes, w.Causes),
			earlier(r.Since, w.Since), r.Delivered || w.Delivered
		r.Until, r.WantedAt = r.From, now
		if n := d.Next; n != nil { // the run covers that as well
			r.Causes, r.Since, r.Delivered = addCauses(r.Causes, n.Causes),
				earlier(r.Since, n.Since), r.Delivered || n.Delivered
			d.Next = nil
		}
	default:
		if d.Next == nil {
			d.Next = &ReconcileWant{Since: w.Since}
		}
		n := d.Next
		n.At = now
		n.Causes, n.Since, n.Delivered = addCauses(n.Causes, w.Causes),
			earlier(n.Since, w.Since), n.Delivered || w.Delivered
		n.Whole = n.Whole || n.Delivered && !r.Delivered
		if n.Until = r.Position; begun != "" {
			n.Until = begun
		}
	}
}

// Finish ends the run under way, and begins the next one if that is wanted.
func (d *Reconciliation) Finish(now time.Time) {
	r, n := d.Run, d.Next
	d.Last = &ReconcileEnding{WantedAt: r.WantedAt, StartedAt: r.StartedAt, EndedAt: now}
	d.Run, d.Next = nil, nil
	if n == nil {
		return
	}
	d.Run = &ReconcileRun{
		Causes: n.Causes, Since: n.Since, Delivered: n.Delivered, WantedAt: n.At, StartedAt: now,
		From: r.Until, Position: r.Until, Until: n.Until,
	}
	if n.Whole {
		d.Run.Until = d.Run.From
	}
}

// Left returns the keys that the run has still to read, in the order in which it reads them. The
// given keys are sorted.
func (r *ReconcileRun) Left(keys []string) []string {
	above := func(key string) int { // the index of the first key above
		i, found := slices.BinarySearch(keys, key)
		if found {
			i++
		}
		return i
	}
	if r.Wrapped || r.From < r.Until {
		return keys[above(r.Position):max(above(r.Position), above(r.Until))]
	}
	return slices.Concat(keys[above(r.Position):], keys[:above(r.Until)])
}

// Advance records that every order up to a key has been read.
func (r *ReconcileRun) Advance(key string) {
	r.Wrapped = r.Wrapped || key <= r.Position
	r.Position = key
}

// Clone returns a copy that shares no mutable data.
func (d Reconciliation) Clone() Reconciliation {
	if d.Run != nil {
		run := *d.Run
		run.Causes, run.Orders = slices.Clone(run.Causes), slices.Clone(run.Orders)
		d.Run = &run
	}
	if d.Next != nil {
		next := *d.Next
		next.Causes = slices.Clone(next.Causes)
		d.Next = &next
	}
	return d
}

func addCauses(there, more []ReconcileCause) []ReconcileCause {
	for _, c := range more {
		if !slices.Contains(there, c) {
			there = append(there, c)
		}
	}
	return there
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
