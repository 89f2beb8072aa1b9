package replay

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// leaseAgain is how long nothing is started when the lease is found invalid: a renewal may be
	// unclear.
	leaseAgain = 500 * time.Millisecond
	// bodiesAgain is how long a replay waits after there was no room for a body.
	bodiesAgain = 200 * time.Millisecond
	// recordsMost is how many records may wait to be stored before nothing more is taken.
	recordsMost = 1024
)

// attempt is what was taken of the cursor for one attempt, and what came of it.
type attempt struct {
	delivery.Attempt
	batch cursor.Batch
	one   [1]*delivery.Event // room for Events
}

// begin begins every attempt that may be made now. Each waits for its turn in a goroutine of its
// own, until turns ends.
func (w *runner) begin(turns, life context.Context, now time.Time) {
	for w.mayTake() && w.lease.Valid() {
		b, ok := w.cur.Take(now, 1)
		if !ok {
			return
		}
		if how, known := w.recorded[b.Seqs[0]]; known { // an earlier owner has recorded its end, and it is counted
			delete(w.recorded, b.Seqs[0])
			w.settle(b, how, now)
			continue
		}
		w.flying++
		a := &attempt{batch: b, one: [1]*delivery.Event{w.atHand.Get(b.Seqs[0])}}
		a.Attempt = delivery.Attempt{Seqs: b.Seqs, Events: a.one[:], Replay: w.doc.ID}
		go func() {
			if a.Err = w.share.take(turns); a.Err == nil {
				w.make(life, a)
				w.share.release()
			}
			w.results <- a
		}()
	}
}

// errHalted reports that nothing may be sent to the callback any more since an attempt was taken.
var errHalted = errors.New("nothing is sent to the callback now")

// make makes an attempt whose turn has come, by the configuration of that moment.
func (w *runner) make(ctx context.Context, a *attempt) {
	if a.Target = w.present(); a.Target == nil || halted(a.Target) {
		a.Err = errHalted
		return
	}
	w.r.make(ctx, w.lease, &a.Attempt)
}

// mayTake reports whether anything may be taken of the cursor, as far as that is not the lease's affair.
func (w *runner) mayTake() bool {
	return !halted(w.sel.callback) && len(w.storing.records) < recordsMost
}

// halted reports whether nothing is sent to a callback.
func halted(of *delivery.Target) bool {
	return of.Orphaned || of.Callback.Paused || of.Callback.Disabled != nil
}

// settle ends an event that is not sent again.
func (w *runner) settle(b cursor.Batch, how relay.DeliveryStatus, now time.Time) {
	if how == relay.DeliveryDelivered {
		w.cur.Succeed(b, now)
	} else {
		w.cur.Settle(b.Order, b.Seqs...)
	}
	w.atHand.Drop(b.Seqs...)
	w.storing.soon(now)
}

// judge settles what an attempt came to. It is the one place where that is decided.
func (w *runner) judge(a *attempt) {
	w.flying--
	now := time.Now()
	switch {
	case a.Err != nil:
		w.notMade(a, now)
		return
	case len(a.Gone) > 0:
		w.skipped(a, now, "the event has left the log")
		return
	case len(a.Unmatched) > 0:
		w.skipped(a, now, "no longer matches the callback's filter or its client's sites")
		return
	}
	record := a.Record(a.batch.Attempt, a.batch.Probe)
	if a.Outdated(w.sel.callback) {
		w.cur.Release(a.batch)
		w.keep(record)
		return
	}
	a.AdjustRate(w.share.allowance, now, a.batch.Probe)
	switch a.Sent.Outcome {
	case sender.Cancelled:
		w.cur.Release(a.batch)
	case sender.Gone: // the replay waits until the callback is resumed
		w.cur.Release(a.batch)
		w.keep(record)
		w.r.c.Callbacks.Gone(w.doc.Callback, w.doc.CallbackGeneration, a.Target.Callback.Resumed)
		w.retryAt = now.Add(goneAgain)
	case sender.Success:
		record.Closing = relay.DeliveryDelivered
		w.ended(record, relay.DeliveryDelivered)
		w.cur.Succeed(a.batch, now)
	default: // all the others are failures, and the schedule's affair
		w.failed(a, record, now)
	}
}

// goneAgain is how long a replay waits for a callback to be disabled whose receiver has responded with 410.
const goneAgain = time.Second

// notMade puts back what was taken for an attempt that was not made.
func (w *runner) notMade(a *attempt, now time.Time) {
	w.cur.Release(a.batch)
	switch {
	case errors.Is(a.Err, errHalted):
		return
	case errors.Is(a.Err, delivery.ErrBodies):
		w.retryAt = now.Add(bodiesAgain)
		return
	case errors.Is(a.Err, delivery.ErrLease), errors.Is(a.Err, context.Canceled):
		w.retryAt = now.Add(leaseAgain)
		return
	}
	w.log.Log(context.Background(), store.Level(a.Err, slog.LevelWarn), "an event could not be read for a replay",
		"order", a.batch.Order, "error", a.Err)
	w.retryAt = now.Add(storeAgain)
}

// skipped ends an event that was not sent.
func (w *runner) skipped(a *attempt, now time.Time, why string) {
	record := relay.AttemptRecord{Seq: a.batch.Seqs[0], Order: a.batch.Order, At: now.UTC(),
		Replay: w.doc.ID, Reason: why}
	if ev := a.Events[0]; ev != nil {
		record.Event = ev.ID
	}
	w.ended(record, relay.DeliverySkipped)
	w.cur.Settle(a.batch.Order, a.batch.Seqs...)
}

func (w *runner) failed(a *attempt, record relay.AttemptRecord, now time.Time) {
	failure := cursor.Failure{Reason: a.Reason(), RetryAfter: a.Sent.RetryAfter, Local: w.refusesThis(a)}
	switch r := w.cur.Fail(a.batch, now, failure); r.Outcome {
	case cursor.Retrying:
		record.NextAttemptAt = &r.Next
		w.keep(record)
		w.atHand.DropOrder(a.batch.Order) // the lane may wait for minutes
	case cursor.Exhausted:
		w.ended(record, relay.DeliveryFailed)
		w.cur.Settle(a.batch.Order, a.batch.Seqs...)
	case cursor.Stale:
		w.keep(record)
	}
	if since := w.cur.Health().FailingSince; !since.IsZero() && now.Sub(since) >= giveUpAfter {
		w.doc.End(relay.ReplayCancelled, "Every attempt has failed since "+since.UTC().Format(time.RFC3339)+".", now)
	}
}

// refusesThis reports whether the receiver is well and refuses only what it was sent: since the replay's attempts
// began to fail it has accepted something else, such as a new delivery. A replay may select just what is refused; it
// is not to wait for a receiver that does not fail.
func (w *runner) refusesThis(a *attempt) bool {
	since := w.cur.Health().FailingSince
	judged := a.Sent.Outcome == sender.Refused || a.Sent.Outcome == sender.Timeout
	return judged && !since.IsZero() && w.share.allowance.AcceptedSince(since)
}

// ended keeps the record with which an event ends in the replay.
func (w *runner) ended(record relay.AttemptRecord, how relay.DeliveryStatus) {
	record.Replayed = how
	w.atHand.Drop(record.Seq)
	w.doc.Progress.Add(how)
	w.r.metrics.ended(how)
	w.keep(record)
}

func (w *runner) keep(record relay.AttemptRecord) {
	w.storing.records = append(w.storing.records, record)
	w.storing.soon(time.Now())
}
