package reconciler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// wholeKey is the key in relay_open that is set when every order that may be open is listed.
	// Other keys have dots.
	wholeKey = "whole"
	// wholePage is how many orders' documents are read at a time when the list is built again.
	wholePage = 256
)

// Run makes sure that relay_open lists every order that may be open, before anything relies on it:
// a restore of only some streams may have left it out. The reconciling itself is done by Own.
func (r *Reconciler) Run(ctx context.Context) error {
	for wait := (backoff.Backoff{Least: storeLeast, Most: storeMost}); ; {
		err := r.makeWhole(ctx)
		if err == nil {
			break
		}
		r.cfg.Log.Log(ctx, store.Level(err, slog.LevelError),
			"the list of open orders cannot be completed yet", "error", err)
		if !wait.Sleep(ctx, 0) {
			return ctx.Err()
		}
	}
	close(r.whole)
	<-ctx.Done()
	return ctx.Err()
}

// makeWhole lists all orders that may be open, unless that was done before. Publishers may write
// the same entries at the same time.
func (r *Reconciler) makeWhole(ctx context.Context) error {
	_, _, err := r.store.Open.Get(ctx, wholeKey)
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	now := r.cfg.now().UTC()
	put := func(key string) store.Put[relay.OpenOrder] {
		return store.Put[relay.OpenOrder]{Key: key, Value: relay.OpenOrder{ListedAt: now}, Revision: store.AnyRevision}
	}
	total := 0
	for from, more := uint64(1), true; more; {
		var orders []store.Entry[relay.OrderState]
		var last uint64
		orders, last, more, err = r.store.Orders.Changed(ctx, from, nil, wholePage, func(key string, err error) {
			r.cfg.Log.ErrorContext(ctx, "an order's document cannot be read; the order is not listed as open", "key",
				key, "error", err)
		})
		if err != nil {
			return err
		}
		from = last + 1
		var puts []store.Put[relay.OpenOrder]
		for _, o := range orders {
			if !r.due(o.Value, true) {
				continue
			}
			for connection := range o.Value.Published {
				puts = append(puts, put(relay.OpenKey(connection, o.Value.Site, o.Value.ID)))
			}
		}
		for i, result := range r.store.Open.PutAll(ctx, puts) {
			if result.Err != nil {
				return fmt.Errorf("list %s: %w", puts[i].Key, result.Err)
			}
		}
		total += len(puts)
	}
	if total > 0 {
		r.cfg.Log.InfoContext(ctx, "the list of open orders was built again from the orders", "entries", total)
	}
	return r.store.Open.Set(ctx, wholeKey, relay.OpenOrder{ListedAt: now})
}
