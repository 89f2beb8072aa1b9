package reconciler

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// surveyAtOnce is how many orders' documents are read at the same time.
const surveyAtOnce = 16

// openOrder is an entry of relay_open.
type openOrder struct {
	key, site, order string
	listedLately     bool
	revision         uint64
}

// survey returns the orders that a run has left, in the order in which it reads them. It removes
// the entries of orders that are closed, or have had no event for a long time.
func (r *Reconciler) survey(ctx context.Context, connection string, run relay.ReconcileRun) ([]openOrder, error) {
	select {
	case <-r.whole:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	listed, err := r.store.Open.All(ctx, connection, func(key string, err error) {
		r.cfg.Log.ErrorContext(ctx, "an entry of an open order cannot be read", "key", key, "error", err)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(listed, func(a, b store.Entry[relay.OpenOrder]) int { return strings.Compare(a.Key, b.Key) })
	keys := make([]string, len(listed))
	entries := make(map[string]openOrder, len(listed))
	for i, e := range listed {
		keys[i] = e.Key
		_, site, order, ok := relay.SplitOpenKey(e.Key)
		if !ok {
			continue
		}
		entries[e.Key] = openOrder{e.Key, site, order,
			r.cfg.now().Sub(e.Value.ListedAt).Abs() < listedLately, e.Revision}
	}
	left := run.Left(keys)
	due := make([]bool, len(left))
	var (
		mu       sync.Mutex
		reading  errgroup.Group
		removals []store.Removal
	)
	reading.SetLimit(surveyAtOnce)
	for i, key := range left {
		o, ok := entries[key]
		if !ok {
			continue
		}
		reading.Go(func() error {
			state, _, err := r.store.Orders.Get(ctx, o.site+"."+o.order)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil && !errors.Is(err, store.ErrNotFound):
				return err
			case o.listedLately || r.due(state, run.Delivered):
				due[i] = true
			case !r.due(state, true):
				removals = append(removals, store.Removal{Key: key, Revision: o.revision})
			}
			return nil
		})
	}
	if err := reading.Wait(); err != nil {
		return nil, err
	}
	if len(removals) > 0 {
		r.store.Open.Remove(ctx, removals) // what is not removed now is removed next time; what was written since stays
	}
	var orders []openOrder
	for i, key := range left {
		if due[i] {
			orders = append(orders, entries[key])
		}
	}
	return orders, nil
}

// due reports whether an order must be read again.
func (r *Reconciler) due(s relay.OrderState, delivered bool) bool {
	return len(s.Order) > 0 && !relay.IsClosed(s.Status) && (delivered || !relay.IsDelivered(s.Status)) &&
		r.cfg.now().Sub(s.UpdatedAt) < openFor
}
