package reconciler

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// portion is how many orders are read between two writes of the document. After a crash at most
	// that many are read again.
	portion = 16
	// failuresInRow is how many readings must fail in a row before the vendor is left alone for a
	// while.
	failuresInRow = 3
	// lookAgain is how often it is checked whether a paused connection goes on.
	lookAgain = 5 * time.Second
	// keptOrders is how many unreadable orders are listed.
	keptOrders = 20
)

// worker does a connection's runs, one after the other. It ends when none is left.
type worker struct {
	*line
	log   *slog.Logger
	retry backoff.Backoff
	told  bool // the log has a line that orders cannot be read
}

// work does runs until none is under way or starting ends.
func (w *worker) work(starting, ending context.Context) {
	w.retry = backoff.Backoff{Least: w.s.r.cfg.retryLeast, Most: w.s.r.cfg.retryMost}
	for again := (backoff.Backoff{Least: storeLeast, Most: storeMost}); ; {
		var err error
		if w.s.lease.Await(starting) {
			err = w.step(starting, ending)
		}
		switch {
		case starting.Err() != nil, errors.Is(err, errSuperseded), w.read().Run == nil:
			return
		case err == nil, errors.Is(err, errLapsed), errors.Is(err, errEnded), errors.Is(err, errOtherRun):
			again.Reset()
			continue
		}
		w.log.Log(starting, store.Level(err, slog.LevelError),
			"reading open orders again has failed; it is tried again", "error", err)
		again.Sleep(starting, 0)
	}
}

// step completes the run that is under way.
func (w *worker) step(starting, ending context.Context) error {
	if err := w.adopt(starting); err != nil {
		return err
	}
	doc := w.read()
	if doc.Run == nil {
		return nil
	}
	run := *doc.Run
	c, ok := w.await(starting, doc.Generation)
	if !ok {
		return nil
	}
	list, err := w.s.r.survey(starting, c.ID, run)
	if err != nil {
		return err
	}
	if err := w.update(ending, run.StartedAt,
		func(d *relay.Reconciliation) { d.Run.Total = d.Run.Done + len(list) }); err != nil {
		return err
	}
	for len(list) > 0 {
		if c, ok = w.await(starting, doc.Generation); !ok {
			return nil
		}
		n := min(portion, len(list))
		if err := w.portion(starting, ending, c, run, list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return w.finish(ending, c, run.StartedAt)
}

// await waits until the connection may be worked on. It returns false if starting has ended, or the
// connection is gone.
func (w *worker) await(starting context.Context, generation string) (relay.Connection, bool) {
	for pause := (backoff.Backoff{Least: lookAgain, Most: lookAgain}); ; {
		c, known := w.s.r.cfg.Connections.Connection(w.connection)
		switch {
		case known && c.Generation == generation && !c.Paused && w.s.lease.Await(starting):
			return c, true
		case known && c.Generation != generation: // the new connection's own run is requested under its own generation
			w.forget(generation)
			return c, false
		case !known && w.gone(starting):
			w.forget(generation)
			return c, false
		}
		if !pause.Sleep(starting, 0) {
			return c, false
		}
	}
}

// gone reports whether the connection was removed. It may also be unknown because not all
// connections are loaded yet.
func (w *worker) gone(ctx context.Context) bool {
	there := w.s.r.store.Connections.Current(ctx, []string{w.connection})[0]
	return there.Err == nil && there.Deleted
}

// forget drops the run without storing that. The document belongs to a connection that is gone; it
// is overwritten, or removed with it.
func (w *worker) forget(generation string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.doc.Generation == generation {
		w.doc.Run, w.doc.Next = nil, nil
	}
}

// portion reads some orders and records that they are done. What the vendor refuses to return
// counts as unreadable. While the vendor cannot be reached, portion waits. If a response makes no
// sense, that is attributed to the order if another order can be read at the same time. If none
// can, every response is more likely replaced by some page, such as one about maintenance: then
// portion waits, too, though not forever.
func (w *worker) portion(
	starting, ending context.Context, c relay.Connection, run relay.ReconcileRun, list []openOrder,
) error {
	if !w.next(run, list[len(list)-1].key) {
		return errOtherRun
	}
	results := map[outcome]int{}
	var unreadable []string
	left, began := list, time.Now()
	for len(left) > 0 {
		var failed []openOrder
		var trouble error
		settled := 0
		round := w.round(starting, ending, c.ID, run, left)
		given := slices.ContainsFunc(round, func(r result) bool { return r.outcome == unchanged || r.outcome == changed })
		for _, r := range round {
			if r.outcome == senseless {
				r.outcome = unavailable
				if given || time.Since(began) > w.s.r.cfg.patience {
					r.outcome = unreadableOrder
					w.log.Info("an order that is read again cannot be read", "site", r.order.site, "order", r.order.order,
						"error", r.err,
						"correlation_id", audatex.CorrelationIDOf(r.err))
				}
			}
			switch r.outcome {
			case unavailable:
				if failed = append(failed, r.order); trouble == nil {
					trouble = r.err
				}
			case stopped:
				return errLapsed
			case stuck:
				return r.err
			case senseless: // decided above
			case unreadableOrder:
				unreadable = append(unreadable, r.order.site+"."+r.order.order)
				fallthrough
			case skipped, unchanged, changed:
				results[r.outcome]++
				settled++
			}
		}
		if settled > 0 {
			w.retry.Reset()
		}
		if left = failed; len(left) == 0 {
			break
		}
		if trouble != nil && !w.told {
			w.told = true
			w.log.Warn("orders cannot be read again yet; it is tried until they can", "orders",
				len(left), "error", trouble)
		}
		if !w.retry.Sleep(starting, audatex.RetryAfterOf(trouble)) {
			return starting.Err()
		}
		if _, ok := w.await(starting, c.Generation); !ok {
			return errEnded
		}
	}
	w.told = false
	w.s.r.cfg.Metrics.orders(results)
	return w.update(ending, run.StartedAt, func(d *relay.Reconciliation) {
		r := d.Run
		r.Advance(list[len(list)-1].key)
		r.Done += len(list)
		r.Total = max(r.Total, r.Done)
		r.Read += results[unchanged] + results[changed] + results[unreadableOrder]
		r.Changed += results[changed]
		r.Unreadable += results[unreadableOrder]
		r.Orders = append(r.Orders, unreadable[:min(len(unreadable), max(0, keptOrders-len(r.Orders)))]...)
	})
}

// errOtherRun means that the run has changed before any of the orders was read.
var errOtherRun = errors.New("the run has got more to do")

// errEnded means that the connection was removed in the middle of a portion.
var errEnded = errors.New("the connection is not there any more")

// round tries every order of a portion once, several at the same time. After some failures in a row
// the rest is not tried.
func (w *worker) round(
	starting, ending context.Context, connection string, run relay.ReconcileRun, list []openOrder,
) []result {
	results := make([]result, len(list))
	var (
		mu      sync.Mutex
		row     int
		reading sync.WaitGroup
		mine    = make(chan struct{}, concurrency)
	)
	for i, o := range list {
		results[i] = result{order: o, outcome: unavailable}
		mine <- struct{}{}
		mu.Lock()
		down := row >= failuresInRow
		mu.Unlock()
		if down {
			<-mine
			continue
		}
		reading.Go(func() {
			defer func() { <-mine }()
			results[i] = w.one(starting, ending, connection, run, o)
			mu.Lock()
			defer mu.Unlock()
			if row++; results[i].outcome != unavailable {
				row = 0
			}
		})
	}
	reading.Wait()
	return results
}

// one reads one order when there is a slot for it.
func (w *worker) one(starting, ending context.Context, connection string, run relay.ReconcileRun, o openOrder) result {
	select {
	case w.s.r.slots <- struct{}{}:
		defer func() { <-w.s.r.slots }()
	case <-starting.Done():
		return result{order: o, outcome: stopped, err: starting.Err()}
	}
	r := w.s.r.readOrder(starting, ending, w.s.lease, connection, run, o)
	if r.outcome == unreadableOrder {
		w.log.Info("an order that is read again cannot be read", "site", o.site, "order", o.order, "error", r.err,
			"correlation_id", audatex.CorrelationIDOf(r.err))
	}
	return r
}
