package httpapi

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// passedReason is why an event that matches now is not delivered. Only a replay delivers it.
const passedReason = "it did not match the callback's filter or its client's sites when the callback came to it; a " +
	"replay delivers it"

// cursorsAtOnce is how many callbacks' cursors are read at once.
const cursorsAtOnce = 16

// lookForPassed notes which events the callbacks have passed, of those whose filter or client was changed after the
// event. If there is no attempt either, the event did not match at that time, and there will be none.
//
// It must come before attempts are searched. An attempt is stored before the cursor that has it settled, so the search
// finds all that led to the cursors' positions.
func (t *trail) lookForPassed(ctx context.Context) error {
	quiet, wanted := map[int]uint64{}, map[string][]store.Stored{}
	for _, ev := range t.events {
		for id, cb := range t.of {
			if ev.Seq > cb.StartSeq && !t.changed(cb).Before(ev.Time) && t.matches(cb, ev) {
				wanted[id], quiet[relay.ShardOf(id)] = append(wanted[id], ev), 0
			}
		}
	}
	for shard := range quiet {
		mark, _, err := t.a.c.Store.Watermarks.Get(ctx, store.WatermarkKey(shard, "events"))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("read the watermark of shard %d: %w", shard, err)
		}
		quiet[shard] = mark.Position
	}
	settled := make(chan []deliveryOf, len(wanted))
	reads, ctx := errgroup.WithContext(ctx)
	reads.SetLimit(cursorsAtOnce)
	for id, events := range wanted {
		reads.Go(func() error {
			list, err := t.a.passedOf(ctx, t.of[id], events, quiet[relay.ShardOf(id)])
			settled <- list
			return err
		})
	}
	err := reads.Wait()
	close(settled)
	for list := range settled {
		for _, of := range list {
			t.passed[of] = true
		}
	}
	return err
}

// passedOf returns which deliveries of events of one order a callback's stored cursor has settled.
func (a *API) passedOf(
	ctx context.Context, cb relay.Callback, events []store.Stored, quiet uint64,
) (list []deliveryOf, err error) {
	key := store.CallbackCursor(cb.ID)
	doc, _, err := a.c.Store.Cursors.Get(ctx, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, nil // nothing has been stored yet
	case store.InTrouble(err):
		return nil, fmt.Errorf("read the cursor of callback %s: %w", cb.ID, err)
	case err != nil:
		a.unreadable("cursor")(key, err)
		return nil, nil
	case doc.Generation != cb.Generation:
		return nil, nil // of one that had the id before
	}
	lane, readable, err := a.lane(ctx, cb, events[0].Order)
	if err != nil || !readable {
		return nil, err
	}
	for _, ev := range events {
		if doc.Settled(cursor.Entry{Seq: ev.Seq, Order: ev.Order}, lane, quiet) {
			list = append(list, deliveryOf{cb.ID, ev.Seq})
		}
	}
	return list, nil
}

// lane returns how an order is being retried at a callback, nil if it is not, and whether that could be read.
func (a *API) lane(ctx context.Context, cb relay.Callback, order string) (lane *cursor.Lane, readable bool, err error) {
	key := store.LaneKey(store.CallbackCursor(cb.ID), order)
	found, _, err := a.c.Store.Lanes.Get(ctx, key)
	switch {
	case err == nil && found.Generation == cb.Generation:
		return &found, true, nil
	case err == nil || errors.Is(err, store.ErrNotFound):
		return nil, true, nil
	case store.InTrouble(err):
		return nil, false, fmt.Errorf("read a lane of callback %s: %w", cb.ID, err)
	}
	a.unreadable("lane")(key, err)
	return nil, false, nil
}
