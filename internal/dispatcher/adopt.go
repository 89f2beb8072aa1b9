package dispatcher

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/trouble"
)

const (
	// adoptChunk is how many callbacks are written under a new epoch in one go.
	adoptChunk = 1024
	// adoptTries is how often a callback that a former owner is still writing is loaded again at once.
	adoptTries = 5
	// loadAtOnce is how many shards are loaded at the same time.
	loadAtOnce = 8
	// loadAgain is how long one waits before what could not be loaded is tried again.
	loadAgain = time.Second
)

// load is what must be loaded of a shard: all of it, or some callbacks.
type load struct {
	whole  bool
	ids    []string
	except map[string]bool // of the whole: these work already, or are being retired
	mark   cursorstore.Watermark
}

// found is what a load has read.
type found struct {
	cursors     map[string]*cursorstore.Stored
	gone        map[string]bool // no longer registered
	first, last uint64          // of the log
	clamped     []string        // keys of what stands beyond the log, and has not been published as that
}

// load takes on callbacks of the shard, and hands them to the loop. Whoever else may still be writing for them is
// fenced off first: what is read here is written again under the lease's epoch, at the revision that was read, before
// anything is started. The order matters: documents, then their lanes, then the watermark, then the bounds of the log
// are read; the watermark is written before the documents, the lanes before theirs. Whatever a former owner writes in
// between shows as a conflict, and that callback is loaded again.
func (l *loop) load(what *load) {
	d := l.d
	select {
	case d.loads <- struct{}{}:
		defer func() { <-d.loads }()
	case <-l.run.Done():
		l.send(loadEnded{what, true})
		return
	}
	ids := what.ids
	if what.whole {
		ids = d.conf.Deliverer.Targets.OfShard(l.shard)
	}
	f, again := &found{}, true
	var err error
	for try := 0; again && err == nil && try <= adoptTries && l.run.Err() == nil; try++ {
		backoff.Sleep(l.run, time.Duration(try)*10*time.Millisecond)
		ids, err = l.loadOnce(l.run, what, ids, what.whole && try == 0, f)
		again = len(ids) > 0
	}
	if err != nil && l.run.Err() == nil {
		d.conf.Log.Log(l.run, store.Level(err, slog.LevelWarn), "callbacks could not be loaded; trying again", "shard", l.shard, "callbacks", len(ids), "error", err)
	}
	l.send(loadEnded{what, err != nil || again || l.run.Err() != nil})
}

// loadOnce loads what it can. Again are callbacks that somebody else wrote meanwhile.
func (l *loop) loadOnce(ctx context.Context, what *load, ids []string, whole bool, f *found) (again []string, err error) {
	if f.cursors, err = l.d.cursors.Load(ctx, l.shard, ids); err != nil {
		return nil, err
	}
	maps.DeleteFunc(f.cursors, func(id string, _ *cursorstore.Stored) bool {
		return what.except[id] || !whole && !slices.Contains(ids, id)
	})
	registered, err := l.confirm(ctx, f)
	if err != nil {
		return nil, err
	}
	if !what.mark.Adopted && registered {
		if err = l.adoptWatermark(ctx, &what.mark); err != nil {
			return nil, err
		}
	}
	var highest uint64
	for _, s := range f.cursors {
		highest = max(highest, s.Highest())
	}
	if f.first, f.last, err = l.d.pages.Bounds(ctx, highest); err != nil {
		return nil, err
	}
	var made []*callback
	for id, s := range f.cursors {
		switch t := l.d.conf.Deliverer.Targets.Of(id); {
		case f.gone[id]:
			l.erase(ctx, s, "")
			if t != nil { // about to become known as deleted, or a node of the store that lags
				again = append(again, id)
			}
		case s.Epoch() > l.lease.Epoch():
			l.send(laterOwner{s.Epoch()})
		case t != nil && s.Unreadable != nil:
			l.d.conf.Log.Error("a cursor cannot be read; its callback starts again from where it was registered", "callback", id, "error", s.Unreadable)
			l.erase(ctx, s, "")
			again = append(again, id)
		case t != nil:
			made = append(made, l.d.newCallback(t, s, l.lease.Epoch(), what.mark, f))
		}
	}
	l.d.cursors.ReportClamped(ctx, l.d.conf.Operational, f.clamped, f.last)
	f.clamped = nil
	for chunk := range slices.Chunk(made, adoptChunk) {
		more, failed := l.adopt(ctx, chunk, what.mark, f.first)
		if again = append(again, more...); failed != nil {
			return again, failed
		}
	}
	return again, nil
}

// confirm notes which of the callbacks are no longer registered, and reports whether any is.
func (l *loop) confirm(ctx context.Context, f *found) (any bool, err error) {
	f.gone = map[string]bool{}
	for id, s := range f.cursors {
		generation := ""
		if s.Document != nil {
			generation = s.Document.Generation
		}
		registered, err := l.d.conf.Deliverer.Targets.Confirm(ctx, id, generation)
		if err != nil {
			return false, err
		}
		any, f.gone[id] = any || registered, !registered
	}
	return any, nil
}

// adoptWatermark writes the shard's watermark under the lease's epoch, and notes where it is.
func (l *loop) adoptWatermark(ctx context.Context, mark *cursorstore.Watermark) error {
	reported := false
	w, later, err := l.d.cursors.AdoptWatermark(ctx, l.shard, l.lease.Epoch(), func(ctx context.Context, at uint64) (last uint64, err error) {
		if _, last, err = l.d.pages.Bounds(ctx, at); err == nil && at > last && !reported {
			reported = true
			l.d.cursors.ReportClamped(ctx, l.d.conf.Operational, []string{store.WatermarkKey(l.shard, "events")}, last)
		}
		return last, err
	})
	if later > 0 {
		l.send(laterOwner{later})
	}
	if err == nil {
		*mark = w
	}
	return err
}

// newCallback makes a callback of its stored cursor, or of none, and takes that on under the lease's epoch.
func (d *Dispatcher) newCallback(t *delivery.Target, s *cursorstore.Stored, epoch uint64, mark cursorstore.Watermark, f *found) *callback {
	now, cb := time.Now(), &t.Callback
	c := &callback{id: cb.ID, gen: cb.Generation, log: d.conf.Log.With("callback", cb.ID), target: t}
	troubles := &c.sending.shown.troubles
	troubles.Wait(trouble.Ever, cb.CreatedAt)
	if cb.Paused || cb.Disabled != nil || t.Orphaned {
		troubles.Began(trouble.Ever)
	}
	c.storing.stored = storedState{s.Handle, d.conf.Deliverer.Recorder(cb.ID, cb.Generation)}
	policy := d.conf.policyOf(*cb)
	cur, err := s.Restore(policy, cb.Generation, now)
	if err != nil { // one bad document must not keep everybody's deliveries from starting
		c.log.Error("the cursor cannot be used; the callback starts again from where it was registered", "error", err)
	}
	if cur == nil {
		cur = s.Begin(policy, cb.Generation, max(min(cb.StartSeq, f.last), f.first-1), now)
		cur.SetCarried(cursor.Carried{Generation: cb.Generation, Behind: true, Resumed: cb.Resumed})
	}
	if _, cut := cur.Clamp(f.last); cut {
		f.clamped = append(f.clamped, store.CallbackCursor(cb.ID))
	}
	carried := cur.Carried()
	if carried.Behind { // it was so before, and what kept it is not known
		troubles.Wait(trouble.Ever, now)
	} else {
		cur.Advance(mark.Base)
		carried.Behind = cur.Position() < mark.Highest // loaded after the watermark has moved: that does not cover this one
	}
	resumed := carried.Resumed < cb.Resumed
	carried.Resumed = cb.Resumed
	cur.SetCarried(carried)
	cur.Adopt(epoch)
	c.cur = cur
	c.storing.covered, c.storing.durable = !carried.Behind, cur.Position()
	since := cur.Health().FailingSince
	if tooLong := !since.IsZero() && now.Sub(since) >= d.conf.DisableAfter; resumed || tooLong && cb.Disabled == nil {
		cur.ResumeAll(now) // resumed while nobody delivered, or nobody delivered for days: it gets its chance
	}
	return c
}

// adopt writes callbacks under the lease's epoch and hands them to the loop. Again are those that others wrote since.
func (l *loop) adopt(ctx context.Context, list []*callback, mark cursorstore.Watermark, first uint64) (again []string, err error) {
	saves := make([]cursorstore.Save, len(list))
	for i, cb := range list {
		saves[i] = cursorstore.Save{Handle: cb.storing.stored.cursor, Changes: cb.cur.Changes()}
	}
	if !l.lease.Valid() {
		return nil, fmt.Errorf("%w: the lease is not valid", store.ErrUnavailable)
	}
	written := &adopted{mark: mark, first: first}
	failed := 0
	for i, r := range l.d.cursors.Adopt(ctx, l.lease.Epoch(), saves) {
		cb := list[i]
		switch {
		case r.Outcome == store.Written:
			cb.cur.Stored(saves[i].Changes)
			fallthrough
		case r.Fenced: // what remains comes with the next round
			cb.ctx, cb.cancel = context.WithCancel(l.life)
			cb.sending.place = l.d.conf.Deliverer.Places.Join(cb.target.Callback.Client, cb.target.Key, func() { go l.send(placed{cb}) })
			written.callbacks = append(written.callbacks, cb)
		case r.Outcome == store.Superseded:
			l.send(laterOwner{r.Epoch})
		case r.Outcome == store.Changed:
			again = append(again, cb.id)
		default:
			failed++
		}
	}
	l.send(written)
	if failed > 0 {
		err = fmt.Errorf("%w: %d cursors could not be written under the epoch of their shards", store.ErrUnavailable, failed)
	}
	return again, err
}

// eraseCursor removes what is stored of a retired callback's cursor, but not of the generation that is registered now.
func (l *loop) eraseCursor(id string) {
	stored, err := l.d.cursors.LoadSome(l.life, []string{id})
	if err != nil {
		l.d.complain("the cursor of callback "+id, err)
		return
	}
	keep := ""
	if t := l.d.conf.Deliverer.Targets.Of(id); t != nil {
		keep = t.Callback.Generation
	}
	l.erase(l.life, stored[id], keep)
}

// erase removes what is stored of a cursor. What cannot be removed now is of a generation that nobody loads, and is
// removed when the shard is next taken on.
func (l *loop) erase(ctx context.Context, s *cursorstore.Stored, keep string) {
	if !l.lease.Valid() {
		return
	}
	if err := l.d.cursors.Erase(ctx, l.lease.Epoch(), s, keep); err != nil {
		l.d.complain("the cursor of callback "+s.ID, err)
	}
}
