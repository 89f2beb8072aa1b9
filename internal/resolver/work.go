package resolver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
)

// batchOutcome is how the work on a batch ended. It alone decides what the runner does next.
type batchOutcome int

const (
	// batchResolved: the vendor has responded. Every notification has its event, or is in relay_unresolved
	// because the event is too large.
	batchResolved batchOutcome = iota
	// batchHandled: every notification has its event or is in relay_unresolved. The vendor was not asked.
	batchHandled
	// batchWaits: the vendor returned no order. What result.aside lists is in relay_unresolved,
	// the rest waits.
	batchWaits
	// batchStoreFailed: the store is in trouble. Nothing is settled.
	batchStoreFailed
	// batchStopped: the runner ends. Nothing is settled.
	batchStopped
)

// result is what a worker returns.
type result struct {
	batch   cursor.Batch
	outcome batchOutcome
	failure cursor.Failure
	aside   []uint64
	err     error
}

// maxReadings bounds how often an order is read in a row because the log had moved on meanwhile.
const maxReadings = 5

// errLapsed reports that the lease on the shard was no longer valid when the order was about to be read.
var errLapsed = errors.New("the lease on the shard is not valid")

// resolveBatch resolves the notifications of one order. The wait for a slot and for the vendor's turn ends
// with ctx; what has begun then ends with the runner's work.
func (r *runner) resolveBatch(ctx context.Context, b cursor.Batch, items []*item, held holdTime) result {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return result{batch: b, outcome: batchStopped}
	}
	if !r.lease.Await(ctx) { // the wait for the slot may have been long
		return result{batch: b, outcome: batchStopped}
	}
	res := r.resolve(r.underWay.ctx, b, items, held, r.askFor(ctx))
	if r.underWay.ctx.Err() != nil && res.outcome != batchResolved && res.outcome != batchHandled {
		res = result{outcome: batchStopped} // it failed because the runner's work has ended
	}
	res.batch = b
	return res
}

func (r *runner) resolve(ctx context.Context, b cursor.Batch, items []*item, held holdTime, ask fetchOrder) result {
	if err := fetch(ctx, r.store, r.connection, r.generation, b.Seqs, items); err != nil {
		return result{outcome: batchStoreFailed, err: err}
	}
	if res, missing := r.missing(ctx, b, items); missing {
		return res
	}
	// Notifications that can never be resolved are set aside at once.
	var waiting []*item
	for i, it := range items {
		switch {
		case it == nil:
			if err := r.setAside(ctx, r.lostItem(b.Order, b.Seqs[i]), reasonAgedOut,
				"its page has left the inbox"); err != nil {
				return result{outcome: batchStoreFailed, err: err}
			}
		case it.reason != "":
			if err := r.setAside(ctx, it, it.reason, it.detail); err != nil {
				return result{outcome: batchStoreFailed, err: err}
			}
		default:
			waiting = append(waiting, it)
		}
	}
	if len(waiting) == 0 {
		return result{outcome: batchHandled}
	}
	prior, err := r.priorAsides(ctx, waiting)
	if err != nil {
		return result{outcome: batchStoreFailed, err: err}
	}
	received := slices.Concat(r.receivedAside(prior), receivedOf(waiting, held))
	if len(prior) > 0 {
		slices.SortFunc(received, func(a, b relay.Received) int { return cmp.Compare(a.Entry(), b.Entry()) })
	}
	outcome, err := r.read(ctx, waiting[0].site, waiting[0].order, received, ask)
	if outcome == readPublished || outcome == readUnnecessary {
		if err := r.takeAllFromAside(ctx, prior); err != nil {
			return result{outcome: batchStoreFailed, err: err}
		}
	}
	if outcome == readUnavailable && (errors.Is(err, errLapsed) || errors.Is(err, context.Canceled)) {
		return result{outcome: batchStopped} // shows nothing about the vendor
	}
	return r.judge(ctx, b, waiting, outcome, err)
}

// missing reports whether a page of the batch was not found although the inbox still begins before
// it. On a cluster a reader may lag, so the notification waits. A page that is not found for as long
// as an order may be refused has left the inbox.
func (r *runner) missing(ctx context.Context, b cursor.Batch, items []*item) (result, bool) {
	i := slices.Index(items, nil)
	if i < 0 {
		return result{}, false
	}
	first, _, err := r.store.Inbox.Bounds(ctx)
	if err != nil {
		return result{outcome: batchStoreFailed, err: err}, true
	}
	const reason = "page-missing"
	for ; i < len(items); i++ {
		seq, _ := relay.UnpackEntry(b.Seqs[i])
		if items[i] != nil || seq < first || b.Reason == reason && r.cfg.Now().Sub(b.ReasonSince) >= giveUpAfter {
			continue
		}
		return result{
			outcome: batchWaits, failure: cursor.Failure{Reason: reason, Local: true},
			err: fmt.Errorf("page %d is not to be found in the inbox, which begins at %d", seq, first),
		}, true
	}
	return result{}, false
}

// reading is the outcome of reading and publishing an order.
type reading int

const (
	readPublished   reading = iota // every notification has its event
	readUnnecessary                // every notification had its event already
	readRefused                    // the vendor responds, but has no such order; the error is the reason
	readUnavailable                // the vendor cannot be asked now
	readUnfit                      // the order cannot become an event
	readTooLarge                   // the order, or its event, is larger than the log takes
	readContested                  // others publish this order all the time
	readStoreFailed                // the store is in trouble
)

// fetchOrder reads an order from the vendor. It calls begun when the vendor's turn has come, right before the request.
type fetchOrder func(order string, begun func()) (json.RawMessage, error)

// read takes the order's position in the log, reads the order from the vendor and publishes it,
// until the log agrees.
func (r *Resolver) read(
	ctx context.Context, site, order string, received []relay.Received, ask fetchOrder,
) (reading, error) {
	connection := received[0].Connection
	for range maxReadings {
		pos, err := r.cfg.Publisher.Begin(ctx, site, order, received)
		if err != nil {
			return readStoreFailed, err
		}
		r.count(received, pos.Waiting, "repeated")
		received = pos.Waiting
		if len(received) == 0 {
			return readUnnecessary, nil
		}
		answer, err := r.fetchTimed(ask, order, pos.Waiting)
		outcome := audatex.OutcomeOf(err)
		r.cfg.Metrics.resolves.WithLabelValues(outcome.String()).Inc()
		switch {
		case err == nil:
		case outcome == audatex.TooLarge: // more than would fit into its event
			return readTooLarge, err
		case audatex.RefusesOrder(err):
			return readRefused, err
		default:
			return readUnavailable, err
		}
		published, err := r.cfg.Publisher.Publish(ctx, pos, relay.Snapshot{Order: answer, ReadAt: r.cfg.Now().UTC()})
		switch published {
		case relay.Published:
			r.count(received, nil, "published")
			return readPublished, nil
		case relay.ReadAgain:
			r.log.InfoContext(ctx, "the log has moved on while the order was read; reading it again", "connection",
				connection, "site", site, "order", order, "error", err)
		case relay.StoreTrouble:
			return readStoreFailed, err
		case relay.Unfit:
			return readUnfit, err
		case relay.TooLarge:
			return readTooLarge, err
		}
	}
	return readContested, fmt.Errorf("order %s was read %d times and the log had moved on each time",
		order, maxReadings)
}

// judge decides by the outcome of the reading what becomes of the batch, and sets aside what has
// waited for long enough.
func (r *runner) judge(ctx context.Context, b cursor.Batch, waiting []*item, outcome reading, cause error) result {
	res := result{outcome: batchWaits, err: cause}
	refused := false
	switch outcome {
	case readPublished:
		return result{outcome: batchResolved}
	case readUnnecessary:
		return result{outcome: batchHandled}
	case readStoreFailed:
		return result{outcome: batchStoreFailed, err: cause}
	case readTooLarge: // the vendor is well, and trying again would read the same
		for _, it := range waiting {
			if err := r.setAside(ctx, it, reasonTooLarge, r.tooLarge(cause)); err != nil {
				return result{outcome: batchStoreFailed, err: err}
			}
		}
		return result{outcome: batchResolved}
	case readRefused, readUnfit:
		refused = true
		res.failure = cursor.Failure{Reason: string(refusal(outcome, cause)), Local: true}
	case readContested:
		res.failure = cursor.Failure{Reason: "contested", Local: true}
	case readUnavailable:
		res.failure = cursor.Failure{Reason: audatex.OutcomeOf(cause).String(), RetryAfter: audatex.RetryAfterOf(cause)}
	}
	now := r.cfg.Now()
	longRefused := refused && b.Reason == res.failure.Reason && now.Sub(b.ReasonSince) >= giveUpAfter
	for _, it := range waiting {
		waited := now.Sub(it.info.ReceivedAt)
		var why reason
		switch {
		case longRefused && waited >= giveUpAfter:
			why = reason(res.failure.Reason)
		case waited >= holdFor:
			why = reasonHeldTooLong
		default:
			continue
		}
		if err := r.setAside(ctx, it, why, cause.Error()); err != nil {
			return result{outcome: batchStoreFailed, err: err}
		}
		res.aside = append(res.aside, it.entry())
	}
	return res
}

// count counts in the metric the notifications that are in before and not in after.
func (r *Resolver) count(before, after []relay.Received, result string) {
	if len(before) == len(after) {
		return
	}
	waits := make(map[uint64]bool, len(after))
	for _, n := range after {
		waits[n.Entry()] = true
	}
	for _, n := range before {
		if !waits[n.Entry()] {
			it := item{info: n.Info}
			r.cfg.Metrics.settled(&it, result)
		}
	}
}

// tooLarge returns why an order is too large, with the limit that decides.
func (r *Resolver) tooLarge(cause error) string {
	return fmt.Sprintf("%s (NATS takes %d bytes in one message, see max_payload)", cause, r.store.MaxMessage())
}
