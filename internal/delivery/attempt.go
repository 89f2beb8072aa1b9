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

// Why an attempt was not made. Any other error of Attempt.Err says that the log could not be read.
var (
	// ErrLease reports that the lease on the shard had become invalid.
	ErrLease = errors.New("the lease on the shard is not valid")
	// ErrBodies reports that too many bytes of bodies are under way.
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

	// What came of it. Gone and Unmatched are indices of Seqs: events that are no longer in the log, and those that
	// are no longer for this callback. Chosen is that of the event that was sent, -1 if none was.
	Gone, Unmatched []int
	Chosen          int
	Sent            sender.Attempt
	Err             error // why no attempt was made
}

// Make makes an attempt: it reads what is missing and sends the newest event that is still for the callback. The caller
// has taken a place for it.
func (d *Deliverer) Make(ctx context.Context, lease Lease, a *Attempt) {
	room := d.Bodies.Room(a.Target.Callback.Client)
	defer room.Free()
	a.Chosen = -1
	for i := len(a.Events) - 1; i >= 0; i-- {
		if a.Events[i] == nil {
			if a.Err = d.read(ctx, a, i, &room); a.Err != nil {
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
	if !lease.Valid() { // it was valid when this was begun: what was read since may have taken long
		a.Err = ErrLease
		return
	}
	ev := a.Events[a.Chosen]
	request := a.Target.Request(ev.ID, ev.Body, time.Now())
	request.Replay = a.Replay
	a.Sent = d.sender.Send(ctx, request)
	d.Metrics.attempt(a.Sent)
}

// read reads one of the attempt's events, and leaves it nil if that has left the log. Of an event older than the one
// that is sent only the head is kept.
func (d *Deliverer) read(ctx context.Context, a *Attempt, i int, room *capacity.Room) error {
	if !room.Reserve() {
		return ErrBodies
	}
	s, err := d.store.Events.Get(ctx, a.Seqs[i])
	if err != nil {
		room.Settle(0)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	}
	d.Bodies.Saw(len(s.Body))
	ev := EventOf(s)
	if a.Chosen >= 0 {
		ev.Body = nil
	}
	room.Settle(len(ev.Body))
	a.Events[i] = &ev
	return nil
}

// Pace has the callback sent to more slowly, or faster again, by what its receiver has answered. Probes change nothing: what
// they are sent for is slow already.
func (a *Attempt) Pace(place *capacity.Place, now time.Time, probe bool) {
	switch {
	case probe:
	case a.Sent.Outcome == sender.Success:
		place.Accepted(now, a.Sent.At)
	case a.Sent.Overloaded():
		place.Refused(now, capacity.Refusal{Began: a.Sent.At, Asked: a.Sent.Outcome == sender.Throttled, Whole: a.Sent.Status == http.StatusTooManyRequests,
			RetryAfter: a.Sent.RetryAfter})
	}
}

// Outdated reports whether an attempt has failed that was made before the callback was resumed, or sent elsewhere: that says
// nothing about the receiver as it is now.
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

// Reason says in a word or a sentence why an attempt that was made has failed.
func (a *Attempt) Reason() string {
	if a.Sent.Error != "" {
		return a.Sent.Error
	}
	return a.Sent.Outcome.String()
}
