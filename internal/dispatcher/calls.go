package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/backlog"
	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// ErrUnknown reports that this replica does not deliver to the callback.
var ErrUnknown = errors.New("this replica does not deliver to the callback")

// Retry makes the delivery of an event that waits due now; with an open circuit it is the next probe. If an earlier
// event of its order is sent first, that one's position is returned as well: in mode latest the newest of those that an
// attempt is for. The error is ErrUnknown.
func (d *Dispatcher) Retry(id, generation string, seq uint64, order string) (w relay.DeliveryPosition, earlier uint64, err error) {
	w = relay.PositionEnded
	err = d.command(id, generation, func(c *core, cb *callback) {
		w, earlier = c.retry(cb, cursor.Entry{Seq: seq, Order: order})
	})
	return w, earlier, err
}

// Skip ends the delivery of the event at seq without a success, if it waits, and returns once that is stored. The error
// is ErrUnknown, that the event could not be read, or that ctx ended before.
func (d *Dispatcher) Skip(ctx context.Context, id, generation string, seq uint64) (w relay.DeliveryPosition, err error) {
	if !d.ask(id, func(*core, *callback) {}) {
		return relay.PositionEnded, ErrUnknown
	}
	s, err := d.conf.Store.Events.Get(ctx, seq)
	if err != nil {
		return relay.PositionEnded, err
	}
	ev, stored := delivery.EventOf(s), make(chan struct{})
	var life context.Context
	w = relay.PositionEnded
	err = d.command(id, generation, func(c *core, cb *callback) {
		w, life = c.skip(cb, &ev, func() { close(stored) }), cb.ctx
	})
	if w != relay.PositionSkipped {
		return w, err
	}
	select {
	case <-stored:
		return w, nil
	case <-life.Done():
	case <-ctx.Done():
	}
	return w, fmt.Errorf("%w: whether the end of the delivery of event %s is stored", store.ErrUnclear, ev.ID)
}

// Gone disables a callback whose receiver has responded with 410 to another reader, such as a replay. Resumed is how
// often the callback had been resumed when the attempt was made.
func (d *Dispatcher) Gone(id, generation string, resumed int) {
	_ = d.command(id, generation, func(c *core, cb *callback) {
		c.beginDisabling(cb, resumed, "gone", "the receiver answered 410")
	})
}

// BeginTest permits one attempt that is not a delivery, and counts it against the callback's concurrency and rate.
// There is one test at a time. The caller must call EndTest if it is permitted; if the caller dies, the test ends after
// the time that an attempt may take. BeginTest returns false if this replica does not deliver to the callback.
func (d *Dispatcher) BeginTest(id, generation string) (t capacity.TestPermission, known bool) {
	_ = d.command(id, generation, func(c *core, cb *callback) { t, known = c.beginTest(cb) })
	return t, known
}

// EndTest ends the test of a callback. After a successful one everything that waits for the callback is due.
func (d *Dispatcher) EndTest(id, generation string, delivered bool) {
	d.ask(id, func(c *core, cb *callback) {
		if cb.gen == generation {
			c.endTest(cb, delivered)
		}
	})
}

// Status returns how a callback of this replica is doing; false if it has none of that id.
func (d *Dispatcher) Status(id string) (Status, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var s Status
	var q backlog.Question
	if !d.ask(id, func(c *core, cb *callback) { s, q = c.status(cb) }) {
		return Status{}, false
	}
	return d.complete(ctx, id, s, &q), true
}

// eachCallback calls each with how each callback of this replica is doing.
func (d *Dispatcher) eachCallback(ctx context.Context, each func(backlog.Condition)) {
	for i := range d.loops {
		l := d.loops[i].Load()
		if l == nil {
			continue
		}
		all, questions := map[string]backlog.Condition{}, map[string]*backlog.Question{}
		l.ask(func(c *core) {
			for id, cb := range c.callbacks {
				s, q := c.status(cb)
				all[id], questions[id] = c.condition(cb, s), &q
			}
		})
		for id, of := range all {
			s := d.complete(ctx, id, Status{Backlog: of.Events, LagSeconds: of.OldestSeconds}, questions[id])
			of.Events, of.OldestSeconds = s.Backlog, s.LagSeconds
			each(of)
		}
	}
}

// complete asks the log for what is not known of a callback, here rather than in its loop, which must not wait for it.
func (d *Dispatcher) complete(ctx context.Context, id string, s Status, q *backlog.Question) Status {
	if !q.Empty() {
		q.Ask(ctx, d.conf.Store.Events)
		d.ask(id, func(c *core, cb *callback) {
			if cb.gen == q.Generation() { // else it was deleted and made again meanwhile
				cb.reading.estimate.Learn(q, c.now)
				s, _ = c.status(cb)
			}
		})
	}
	return s
}

// command calls a function with a callback in the goroutine of its shard's loop. The error is ErrUnknown.
func (d *Dispatcher) command(id, generation string, do func(c *core, cb *callback)) error {
	mine := false
	d.ask(id, func(c *core, cb *callback) {
		if mine = cb.gen == generation && c.valid; mine {
			do(c, cb)
		}
	})
	if !mine {
		return ErrUnknown
	}
	return nil
}

// ask calls a function with a callback in the goroutine of its shard's loop; false if there is none on this replica.
func (d *Dispatcher) ask(id string, answer func(c *core, cb *callback)) (known bool) {
	l := d.loops[relay.ShardOf(id)].Load()
	return l != nil && l.ask(func(c *core) {
		cb := c.callbacks[id]
		if known = cb != nil; known {
			answer(c, cb)
		}
	}) && known
}

// ask calls a function with the core in the loop's goroutine. It returns false if the loop is ending or has ended.
func (l *loop) ask(answer func(c *core)) bool {
	answered, handled := false, make(chan struct{})
	l.send(question{func(c *core) {
		defer close(handled)
		if answered = !c.ending.begun; answered {
			answer(c)
		}
	}})
	select {
	case <-handled:
		return answered
	case <-l.closed:
		return false
	}
}
