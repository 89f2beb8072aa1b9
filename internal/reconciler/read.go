package reconciler

import (
	"context"
	"errors"
	"fmt"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
)

// outcome is the result of reading one order again.
type outcome int

const (
	unavailable     outcome = iota // the vendor cannot be reached now
	skipped                        // it must not be read: it has been closed since, or has no event yet
	unchanged                      // it is as in its last event
	changed                        // it has a new event
	unreadableOrder                // the vendor has no such order, or the order cannot become an event
	senseless                      // the vendor's responses are repeatedly not an order
	stuck                          // the store is in trouble
	stopped                        // the shard is being given up
)

var outcomeNames = map[outcome]string{skipped: "skipped", unchanged: "unchanged", changed: "changed",
	unreadableOrder: "unreadable"}

// result is an outcome with its order and its cause, which is logged.
type result struct {
	order   openOrder
	outcome outcome
	err     error
}

// readings is how often in a row an order is read because the log had changed meanwhile, or the
// response made no sense.
const readings = 5

// errLapsed means that an order was not read because the lease on the shard is no longer valid.
var errLapsed = errors.New("the lease on the shard is not valid")

// readOrder reads the order's position in the log, reads the order from the vendor, and publishes
// what has changed. Waiting for the vendor's turn ends with starting; what has begun ends with
// ending.
func (r *Reconciler) readOrder(
	starting, ending context.Context, lease *shard.Lease, connection string, run relay.ReconcileRun, o openOrder,
) result {
	res := func(of outcome, err error) result { return result{o, of, err} }
	var last error
	pause := backoff.Backoff{Least: r.cfg.retryLeast, Most: r.cfg.retryMost}
	for range readings {
		pos, err := r.cfg.Publisher.Begin(ending, o.site, o.order, nil)
		if err != nil {
			return res(stuck, err)
		}
		if !r.due(pos.State, run.Delivered) {
			return res(skipped, nil)
		}
		answer, err := r.cfg.Orders.Order(starting, connection, o.order, func() (context.Context, error) {
			if !lease.Valid() { // waiting for the vendor's turn may have taken long
				return nil, errLapsed
			}
			return ending, nil
		})
		switch {
		case err == nil:
		case errors.Is(err, errLapsed), starting.Err() != nil:
			return res(stopped, err)
		case !audatex.RefusesOrder(err):
			return res(unavailable, err)
		case passing(err):
			last = err
			pause.Sleep(starting, 0)
			continue
		default:
			return res(unreadableOrder, err)
		}
		differs, published, err := r.cfg.Publisher.Reconcile(ending, pos,
			relay.Snapshot{Order: answer, ReadAt: r.cfg.now().UTC()})
		switch published {
		case relay.Published:
			// An order that was found changed in this very run before a crash is read once more.
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
	if audatex.RefusesOrder(last) {
		return res(senseless, last)
	}
	return res(unavailable, fmt.Errorf("order %s was read %d times and the log had moved on each time: %w", o.order,
		readings, last))
}

// passing reports whether a refusal may be temporary, because the response could not be understood.
func passing(err error) bool { return audatex.OutcomeOf(err) == audatex.Malformed }
