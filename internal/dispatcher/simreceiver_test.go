package dispatcher

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
)

var (
	simModes    = []relay.Mode{relay.ModeEvery, relay.ModeEvery, relay.ModeLatest}
	simTypes    = []string{relay.TypeOrderCreated, relay.TypeOrderUpdated, relay.TypeOrderUpdated}
	simStatuses = []string{"New", "Confirmed", "Dispatched"}
)

// simReceiver is what has come to the receiver of one callback of one generation, and how each delivery has ended.
type simReceiver struct {
	arrived map[uint64]bool
	// by order: what a receiver has that takes an event if its sequence is above the one it has
	newest map[string]uint64
	from   map[string]uint64 // by order: the epoch of the owner who sent that
	ended  map[uint64]bool   // need not arrive any more; that may not be stored
	how    map[uint64]relay.AttemptRecord
	passed map[uint64]bool // did not match at some time since it was published
}

func newSimReceiver() *simReceiver {
	return &simReceiver{
		arrived: map[uint64]bool{}, newest: map[string]uint64{}, from: map[string]uint64{}, ended: map[uint64]bool{},
		how: map[uint64]relay.AttemptRecord{}, passed: map[uint64]bool{},
	}
}

// filter draws a filter: most members let everything through.
func (w *simWorld) filter() (f relay.Filter) {
	f.Sites = simSites[:rapid.IntRange(0, 2).Draw(w.t, "sites")]
	switch rapid.IntRange(0, 5).Draw(w.t, "filter") {
	case 0:
		f.Types = simTypes[:1]
	case 1:
		f.Types = simTypes[1:2]
	case 2:
		f.OrderStatuses = simStatuses[1:]
	case 3:
		f.ChangedOnly = true
	}
	return f
}

// undue takes from what has to be delivered what a callback wants no longer.
func (w *simWorld) undue(t *delivery.Target) {
	key := keyOf(t.Callback)
	for _, ev := range w.log {
		if !t.Matches(ev) {
			w.receivers[key].passed[ev.Seq] = true
			delete(w.due[key], ev.Seq)
		}
	}
}

// attempt ends one of the attempts under way, as delivery.Deliverer makes them.
func (o *simOwner) attempt() {
	j := pick(o.t, &o.attempts)
	j.Chosen = -1
	for i := len(j.Events) - 1; i >= 0; i-- {
		if j.Events[i] == nil {
			if j.Seqs[i] < o.first {
				j.Gone = append(j.Gone, i)
				continue
			}
			j.Events[i] = o.event(j.Seqs[i])
		}
		switch {
		case !j.Target.Matches(j.Events[i]):
			j.Unmatched = append(j.Unmatched, i)
		case j.Chosen < 0:
			j.Chosen = i
		}
	}
	if j.Chosen >= 0 {
		o.answer(j)
	}
	o.do(attemptEnded{j})
}

// answer is what comes of an attempt.
func (o *simOwner) answer(j *job) {
	j.Sent = sender.Attempt{At: o.now, Outcome: sender.Refused, Error: "answered 500"}
	switch n := rapid.IntRange(0, 99).Draw(o.t, "outcome"); {
	case o.quiet || n < 60:
		o.receive(j)
		j.Sent = sender.Attempt{At: o.now, Outcome: sender.Success}
	case n < 70: // it arrived, and nobody knows
		o.receive(j)
		fallthrough
	case n < 73:
		j.Sent.Outcome, j.Sent.Error = sender.Timeout, "timeout"
	case n < 76: // 429, or 503 with Retry-After
		j.Sent.Outcome, j.Sent.Error = sender.Throttled, "answered 503"
		j.Sent.Status = 503
		j.Sent.RetryAfter = time.Duration(rapid.IntRange(0, 600).Draw(o.t, "retry after")) * time.Second
	case n < 79:
		j.Sent.Status, j.Sent.Error = 503, "answered 503"
	case n < 80:
		j.Sent.Outcome = sender.Gone
	case n < 90:
	case n < 95:
		j.Sent.Outcome = sender.Cancelled
	default:
		j.Chosen, j.Err = -1, delivery.ErrLease
	}
}

// receive is a receiver that takes an event: everything of its order before must have come to it or have ended, but for
// what the event stands for in mode latest. An event comes for the first time after a newer one only if
//
//   - its delivery had ended without it, which was not stored before a crash, or under way when an operator skipped it,
//   - it had been taken with newer ones of its order, of which the newest came (mode latest), and nobody knows that, or
//   - a filter had passed over it, which an owner before had not stored.
//
// All of these are repeats: the newest comes again, or is known to have come.
func (o *simOwner) receive(j *job) {
	ev := j.Events[j.Chosen]
	key := keyOf(j.cb.target.Callback)
	r := o.receivers[key]
	for _, before := range o.log {
		if before.Seq >= ev.Seq {
			break
		}
		if before.Order == ev.Order && o.due[key][before.Seq] && !r.arrived[before.Seq] && !r.ended[before.Seq] &&
			!slices.Contains(j.Seqs, before.Seq) {
			o.t.Fatalf("%s gets %d before %d of the same order", key, ev.Seq, before.Seq)
		}
	}
	at := r.newest[ev.Order]
	if ev.Seq < at && !r.arrived[ev.Seq] && !r.ended[ev.Seq] && (!r.passed[ev.Seq] || r.from[ev.Order] == o.epoch) {
		o.t.Fatalf("%s gets %d for the first time after %d of the same order", key, ev.Seq, at)
	}
	r.arrived[ev.Seq] = true
	for _, seq := range j.Seqs[:j.Chosen] {
		r.ended[seq] = true
	}
	if ev.Seq > at {
		r.newest[ev.Order], r.from[ev.Order] = ev.Seq, o.epoch
	}
}

// event returns the event of the log at a position.
func (w *simWorld) event(seq uint64) *delivery.Event {
	i := slices.IndexFunc(w.log, func(ev *delivery.Event) bool { return ev.Seq == seq })
	return w.log[i]
}

// noteEnds notes what has ended without an arrival, whether or not that is stored.
func (o *simOwner) noteEnds() {
	for _, cb := range o.core.callbacks {
		for _, record := range cb.storing.records {
			if record.Closing != "" {
				o.receivers[keyOf(cb.target.Callback)].ended[record.Seq] = true
			}
		}
	}
}

// close takes a stored record of the end of a delivery.
func (w *simWorld) close(key string, record relay.AttemptRecord) {
	w.closed[key][record.Seq] = true
	w.receivers[key].how[record.Seq] = record
}

// operate is an operator who has a delivery tried again, or skips it.
func (o *simOwner) operate() {
	if len(o.log) == 0 {
		return
	}
	ev := rapid.SampledFrom(o.log).Draw(o.t, "operated")
	for i := range simCallbacks {
		id := fmt.Sprint("cb", i)
		t, cb := o.targets[id], o.core.callbacks[id]
		if cb == nil || t == nil || !t.Matches(ev) || !o.valid || o.chance(50) {
			continue
		}
		skip := o.chance(50)
		o.do(question{func(c *core) {
			if !skip {
				c.retry(cb, cursor.Entry{Seq: ev.Seq, Order: ev.Order})
				return
			}
			c.skip(cb, ev, func() {})
		}})
	}
}

// disable stores that a callback is disabled, unless it was resumed or made again meanwhile.
func (o *simOwner) disable() {
	if !o.valid {
		return // it is tried again
	}
	d := pick(o.t, &o.disables)
	if t := o.targets[d.cb.id]; t != nil && t.Callback.Generation == d.cb.gen && t.Callback.Resumed == d.resumed &&
		t.Callback.Disabled == nil {
		cb := t.Callback
		cb.Disabled = &d.why
		o.configure(cb)
		o.announce(cb.ID)
	}
	o.do(done{})
}

// goOn has the callbacks that are paused or disabled go on.
func (w *simWorld) goOn() {
	for i := range simCallbacks {
		id := fmt.Sprint("cb", i)
		t := w.targets[id]
		if t == nil || !t.Callback.Paused && t.Callback.Disabled == nil {
			continue
		}
		cb := t.Callback
		if cb.Paused = false; cb.Disabled != nil {
			cb.Disabled = nil
			cb.Resumed++
		}
		w.configure(cb)
		w.announce(id)
	}
}

// ageOut has the oldest events leave the log. Those that have not ended end expired, or were never read.
func (w *simWorld) ageOut() {
	if len(w.log) == 0 {
		return
	}
	w.first = max(w.first, w.log[rapid.IntRange(0, len(w.log)-1).Draw(w.t, "first")/2].Seq)
	for _, due := range w.due {
		for seq := range due {
			if seq < w.first {
				delete(due, seq)
			}
		}
	}
	for _, o := range w.owners {
		if o.chance(50) {
			o.do(logBegins{w.first})
		}
	}
}

// checkEnds looks at how all deliveries have ended: what was wanted has neither expired in the log nor ceased to match,
// what was delivered has arrived, what was superseded has a newer event of its order that was sent, and a receiver that
// follows the rule of the sequence has the newest of each order that was delivered.
func (w *simWorld) checkEnds() {
	for _, t := range w.targets {
		key := keyOf(t.Callback)
		r := w.receivers[key]
		sent := map[string]uint64{} // by order: the newest event that was sent until its delivery ended
		for _, ev := range slices.Backward(w.log) {
			record, ended := r.how[ev.Seq]
			superseded := strings.Contains(record.Reason, "mode latest")
			switch {
			case !ended:
			case w.due[key][ev.Seq] &&
				(record.Closing == relay.DeliveryExpired || strings.Contains(record.Reason, "no longer matches")):
				w.t.Fatalf("%d ended %s at %s (%s), which has wanted it all the time",
					ev.Seq, record.Closing, key, record.Reason)
			case record.Closing == relay.DeliveryDelivered && (!r.arrived[ev.Seq] || r.newest[ev.Order] < ev.Seq):
				w.t.Fatalf("%d counts as delivered to %s, which has %d of its order", ev.Seq, key, r.newest[ev.Order])
			case superseded && sent[ev.Order] == 0:
				w.t.Fatalf("%d was superseded for %s, and no newer one was sent", ev.Seq, key)
			case record.Closing == relay.DeliveryDelivered || record.Closing == relay.DeliveryFailed:
				sent[ev.Order] = max(sent[ev.Order], ev.Seq)
			}
		}
	}
}
