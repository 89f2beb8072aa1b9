package reconciler

import (
	"context"
	"errors"
	"fmt"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
)

// outcome is what reading one order again came to.
type outcome int

const (
	unavailable     outcome = iota // the vendor cannot be asked now
	skipped                        // it need not be read: it has been closed since, or has no event yet
	unchanged                      // it is as its last event says
	changed                        // it has an event more
	unreadableOrder                // the vendor answers and gives no such order, or what it gives cannot become an event
	senseless                      // the vendor answers, again and again, with what is no order
	stuck                          // the store is in trouble
	stopped                        // the shard is given up
)

var outcomeNames = map[outcome]string{skipped: "skipped", unchanged: "unchanged", changed: "changed", unreadableOrder: "unreadable"}

// result is an outcome with its order and, for the log, its cause.
type result struct {
	order   openOrder
	outcome outcome
	err     error
}

// readings is how often an order is read in a row because the log had moved on meanwhile, or the answer made no sense.
const readings = 5

// errLapsed says that an order was not asked for as the lease on the shard had become invalid.
var errLapsed = errors.New("the lease on the shard is not valid")

// readOrder takes where the order is in the log, reads it from the vendor and publishes what has changed. Waiting for the vendor's turn
// ends with starting, what has begun with ending.
func (r *Reconciler) readOrder(starting, ending context.Context, lease *shard.Lease, connection string, run relay.ReconcileRun, o openOrder) result {
	res := func(of outcome, err error) result { return result{o, of, err} }
	var last error
	pause := backoff{least: r.cfg.RetryLeast, most: r.cfg.RetryMost}
	for range readings {
		pos, err := r.cfg.Publisher.Begin(ending, o.site, o.order, nil)
		if err != nil {
			return res(stuck, err)
		}
		if !r.due(pos.State, run.Delivered) {
			return res(skipped, nil)
		}
		answer, err := r.cfg.Orders.Order(starting, connection, o.order, func() (context.Context, error) {
			if !lease.Valid() { // the vendor's turn took its time
				return nil, errLapsed
			}
			return ending, nil
		})
		switch {
		case err == nil:
		case errors.Is(err, errLapsed), starting.Err() != nil:
			return res(stopped, err)
		case !refused(err):
			return res(unavailable, err)
		case passing(err):
			last = err
			pause.sleep(starting, 0)
			continue
		default:
			return res(unreadableOrder, err)
		}
		differs, published, err := r.cfg.Publisher.Reconcile(ending, pos, relay.Snapshot{Order: answer, ReadAt: r.cfg.Now().UTC()})
		switch published {
		case relay.Published:
			// An order that was found changed before a crash, in this very run, is read once more.
			if differs || !pos.State.ReconciledAt.Before(run.StartedAt) {
				return res(changed, nil)
			}
			return res(unchanged, nil)
		case relay.ReadAgain:
			last = err
		case relay.StoreTrouble:
			return res(stuck, err)
		case relay.Unfit, relay.TooLarge:
			return res(unreadableOrder, err)
		}
	}
	if refused(last) {
		return res(senseless, last)
	}
	return res(unavailable, fmt.Errorf("order %s was read %d times and the log had moved on each time: %w", o.order, readings, last))
}

// refused reports whether the vendor is well and refuses just this order.
func refused(err error) bool {
	var e *audatex.Error
	if !errors.As(err, &e) || e.Operation == audatex.OpToken {
		return false // a refused token is no word on the order
	}
	switch e.Outcome {
	case audatex.NotFound, audatex.Forbidden, audatex.Malformed, audatex.TooLarge:
		return true
	case audatex.Done, audatex.Conflict, audatex.Unauthorised, audatex.Throttled, audatex.Unavailable:
	}
	return false
}

// passing reports whether a refusal may be of the moment: an answer that cannot be understood.
func passing(err error) bool { return audatex.OutcomeOf(err) == audatex.Malformed }
