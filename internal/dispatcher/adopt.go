package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// adoptChunk is how many callbacks are written under a new epoch in one go.
	adoptChunk = 1024
	// adoptTries is how often a callback that a former owner is still writing is loaded again at once.
	adoptTries = 5
)

// load takes on the callbacks of shards that have arrived, and single ones, and answers what is to be tried again. Whoever else may still
// be writing for them is fenced off first: what is read here is written again under the tenure's epoch, at the revision that was
// read, before anything is started. The order matters: documents, then their lanes, then the watermarks, then the bounds of the log are
// read; the watermarks are written before the documents, the lanes before theirs. Whatever a former owner writes in between shows
// as a conflict, and that callback is loaded again.
func (d *Dispatcher) load(ctx context.Context, shards []*tenure, ids []string) (left todo) {
	whole := map[int]*tenure{}
	for _, t := range shards {
		if !t.ending.Load() {
			whole[t.shard] = t
		}
	}
	single := map[string]*tenure{}
	for _, id := range ids {
		if shard := relay.ShardOf(id); whole[shard] == nil && d.find(id) == nil {
			if t := d.tenure(shard); t != nil {
				single[id] = t
			}
		}
	}
	var clamped []string
	var last uint64
	for try := 0; (len(whole) > 0 || len(single) > 0) && ctx.Err() == nil; try++ {
		wait(ctx, time.Duration(try)*10*time.Millisecond)
		again, cut, end, err := d.loadOnce(ctx, whole, single)
		clamped, last = append(clamped, cut...), max(last, end)
		if err != nil && ctx.Err() == nil {
			d.conf.Log.Log(ctx, store.Level(err, slog.LevelWarn), "callbacks could not be loaded; trying again", "shards", len(whole), "callbacks", len(single), "error", err)
		}
		if err != nil || try == adoptTries {
			for _, t := range whole {
				left.shards = append(left.shards, t)
			}
			left.ids = append(left.ids, keys(single)...)
			break
		}
		whole, single = nil, again
	}
	if len(clamped) > 0 {
		d.chores.Go(func() { d.tellClamped(ctx, clamped, last) })
	}
	d.settle(shards, ids, left)
	return left
}

// settle notes what is loaded of shards and single callbacks, and lets the watermarks of those shards move of which everything is.
func (d *Dispatcher) settle(shards []*tenure, ids []string, left todo) {
	d.settings.mu.Lock()
	defer d.settings.mu.Unlock()
	concerned := map[*tenure]bool{}
	note := func(id string) {
		t := d.tenure(relay.ShardOf(id))
		if t == nil {
			return
		}
		concerned[t] = true
		_, registered := d.settings.callbacks[id]
		if c := d.find(id); !registered || c != nil && c.t == t && !c.isAdopting() {
			delete(t.missing, id)
		} else {
			t.missing[id] = true
		}
	}
	for _, id := range ids {
		note(id)
	}
	if len(shards) > 0 {
		for _, t := range shards {
			concerned[t] = true
			t.listed = t.listed || !slices.Contains(left.shards, t)
		}
		for id := range d.settings.callbacks {
			note(id)
		}
	}
	for t := range concerned {
		t.mark.hold(!t.listed || len(t.missing) > 0)
	}
}

func (c *callback) isAdopting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.adopting
}

// loadOnce loads what it can. Again are callbacks that somebody else wrote meanwhile.
func (d *Dispatcher) loadOnce(ctx context.Context, whole map[int]*tenure, single map[string]*tenure) (again map[string]*tenure, clamped []string, last uint64, err error) {
	of := func(id string) *tenure {
		if t := whole[relay.ShardOf(id)]; t != nil {
			return t
		}
		return single[id]
	}
	found, err := d.read(ctx, of, whole, single)
	if err != nil {
		return nil, nil, 0, err
	}
	gone, err := d.verify(ctx, of, found)
	if err != nil {
		return nil, nil, 0, err
	}
	tenures := map[*tenure]bool{}
	d.settings.mu.Lock()
	for id := range d.settings.callbacks {
		if t := of(id); t != nil {
			tenures[t] = true
		}
	}
	d.settings.mu.Unlock()
	var first uint64
	bounds := func(ctx context.Context, highest uint64) (uint64, error) {
		var err error
		first, last, err = d.bounds(ctx, highest)
		return last, err
	}
	if clamped, err = d.touchWatermarks(ctx, keys(tenures), bounds); err != nil {
		return nil, nil, 0, err
	}
	var highest uint64
	for _, f := range found {
		highest = max(highest, f.highest())
	}
	if _, err := bounds(ctx, highest); err != nil {
		return nil, nil, 0, err
	}
	for id := range gone {
		d.erase(ctx, of(id), id, found[id], "")
	}
	made, more := d.install(ctx, of, found, gone, first, last)
	clamped = append(clamped, more...)
	again = map[string]*tenure{}
	for len(made) > 0 {
		chunk := made[:min(len(made), adoptChunk)]
		made = made[len(chunk):]
		if err = errors.Join(err, d.fence(ctx, chunk, again)); ctx.Err() != nil {
			break
		}
	}
	d.settings.mu.Lock()
	defer d.settings.mu.Unlock()
	for id := range gone {
		if _, registered := d.settings.callbacks[id]; registered { // about to be heard of as deleted, or a node of the store that lags
			again[id] = of(id)
		}
	}
	return again, clamped, last, err
}

// fence writes callbacks under their tenures' epochs and lets them work. Again gets those that somebody else wrote meanwhile.
func (d *Dispatcher) fence(ctx context.Context, list []*callback, again map[string]*tenure) error {
	works := make([]*work, 0, len(list))
	for _, c := range list {
		w := &work{c: c, adopting: true, failed: !c.t.mayStore()}
		c.mu.Lock()
		w.changes = c.cur.Changes()
		c.mu.Unlock()
		works = append(works, w)
	}
	d.flush.lanes(ctx, works)
	d.flush.documents(ctx, works)
	written := make([]*callback, 0, len(works))
	failed := 0
	for _, w := range works {
		if !w.failed {
			written = append(written, w.c)
			continue
		}
		d.drop(w.c)
		if w.conflict {
			again[w.c.id] = w.c.t
		} else {
			failed++
		}
	}
	d.flush.erase(ctx, works)
	for _, w := range works {
		if !w.failed {
			w.c.mu.Lock()
			w.c.cur.Stored(w.changes)
			w.c.mu.Unlock()
		}
	}
	d.join(written)
	if failed > 0 {
		return fmt.Errorf("%w: %d cursors could not be written under the epoch of their shards", store.ErrUnavailable, failed)
	}
	return nil
}

// drop forgets a callback that could not be taken on.
func (d *Dispatcher) drop(c *callback) {
	c.mu.Lock()
	c.stopped, c.fenced = true, true
	c.mu.Unlock()
	c.cancel()
	d.flush.forget(c)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.callbacks[c.id] == c {
		delete(d.callbacks, c.id)
	}
}
