package delivery

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
)

// Why an attempt was not made. Any other Attempt.Err means that the log could not be read.
var (
	// ErrLease reports that the lease on the shard had become invalid.
	ErrLease = errors.New("the lease on the shard is not valid")
	// ErrBodies reports that the attempts under way have read too many bytes of bodies.
	ErrBodies = errors.New("too many bytes of bodies are under way")
)

// Lease is what an attempt is made under.
type Lease interface{ Valid() bool }

// Attempt is one attempt at a callback: of one event, or of the newest of several of one order (mode latest).
type Attempt struct {
	Target *Target
	Seqs   []uint64 // positions in the log, ascending
	Events []*Event // as Seqs; nil where the event has to be read from the log
	Replay string   // the id of the replay that makes the attempt, empty for a delivery

	// The outcome. Gone and Unmatched are indices of Seqs: events that are no longer in the log, and events that are no
	// longer for this callback. Chosen is the index of the event that was sent, -1 if none was.
	Gone, Unmatched []int
	Chosen          int
	Sent            sender.Attempt
	Err             error // why no attempt was made
}

// Make makes an attempt: it reads the events that are missing, and sends the newest one that is still for the callback.
// The caller must have taken a slot for it.
func (d *Deliverer) Make(ctx context.Context, lease Lease, a *Attempt) {
	reserved := d.Bodies.NewReservation(a.Target.Callback.Client)
	defer reserved.Free()
	a.Chosen = -1
	for i := len(a.Events) - 1; i >= 0; i-- {
		if a.Events[i] == nil {
			if a.Err = d.read(ctx, a, i, &reserved); a.Err != nil {
				return
			}
			if a.Events[i] == nil {
				a.Gone = append(a.Gone, i)
				continue
			}
		}
		switch {
		case !a.Target.Matches(a.Events[i]):
			a.Unmatched = append(a.Unmatched, i)
		case a.Chosen < 0:
			a.Chosen = i
		}
	}
	if a.Chosen < 0 {
		return
	}
	if !lease.Valid() { // it was valid when the attempt began, but reading may have taken long
		a.Err = ErrLease
		return
	}
	ev := a.Events[a.Chosen]
	request := a.Target.Request(ev.ID, ev.Body, time.Now())
	request.Replay = a.Replay
	a.Sent = d.sender.Send(ctx, request)
	d.Metrics.attempt(a.Sent)
}

// read reads one of the attempt's events. It leaves it nil if it is no longer in the log. Of events older than the one
// that is sent only the head is kept.
func (d *Deliverer) read(ctx context.Context, a *Attempt, i int, reserved *capacity.Reservation) error {
	if !reserved.Reserve() {
		return ErrBodies
	}
	s, err := d.store.Events.Get(ctx, a.Seqs[i])
	if err != nil {
		reserved.Correct(0)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	}
	d.Bodies.NoteSize(len(s.Body))
	ev := EventOf(s)
	if a.Chosen >= 0 {
		ev.Body = nil
	}
	reserved.Correct(len(ev.Body))
	a.Events[i] = &ev
	return nil
}

// AdjustRate has the callback sent to more slowly, or faster again, by the response of its receiver. Probes change
// nothing, as they are rare already.
func (a *Attempt) AdjustRate(allowance *capacity.Allowance, now time.Time, probe bool) {
	switch {
	case probe:
	case a.Sent.Outcome == sender.Success:
		allowance.Accepted(now, a.Sent.At)
	case a.Sent.Overloaded():
		allowance.Refused(now, capacity.Refusal{
			Began: a.Sent.At, Asked: a.Sent.Outcome == sender.Throttled,
			Whole:      a.Sent.Status == http.StatusTooManyRequests,
			RetryAfter: a.Sent.RetryAfter,
		})
	}
}

// Outdated reports whether the attempt failed and the callback has been resumed, or sent elsewhere, since it was made.
// Then the failure shows nothing about the present receiver.
func (a *Attempt) Outdated(now *Target) bool {
	failed := a.Sent.Outcome != sender.Success && a.Sent.Outcome != sender.Cancelled
	return failed && a.Target.Callback.Resumed < now.Callback.Resumed
}

// Record returns the record of an attempt that was made.
func (a *Attempt) Record(number int, probe bool) relay.AttemptRecord {
	r := a.Events[a.Chosen].Recorded(a.Sent.Record())
	r.Number, r.Probe, r.Replay = number, probe, a.Replay
	return r
}

// Reason returns a word or a sentence that explains why an attempt has failed.
func (a *Attempt) Reason() string {
	if a.Sent.Error != "" {
		return a.Sent.Error
	}
	return a.Sent.Outcome.String()
}
