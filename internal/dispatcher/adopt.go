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
	// adoptTries is how often a callback is loaded again at once if a former owner has written it meanwhile.
	adoptTries = 5
	// adoptAtOnce is how many shards are adopted at the same time.
	adoptAtOnce = 8
	// loadAgain is the wait before callbacks that could not be loaded are loaded again.
	loadAgain = time.Second
)

// loadRequest is what must be loaded of a shard: the whole of it, or some callbacks.
type loadRequest struct {
	whole  bool
	ids    []string
	except map[string]bool // callbacks of the whole that are loaded already, or are being retired
	mark   cursorstore.Watermark
}

// loadedState is what a load has read.
type loadedState struct {
	cursors     map[string]*cursorstore.Stored
	gone        map[string]bool // no longer registered
	first, last uint64          // of the log
	clamped     []string        // keys of cursors that were beyond the end of the log; this must still be published
}

// load loads callbacks of the shard, and hands them to the loop. Before anything is started for a callback, what was
// read of it is written again under the lease's epoch: from then on the writes of former owners are refused. If one of
// them has written in between, the write here is refused, and the callback is loaded again. Hence the order: documents
// are read before lanes, watermark and bounds of the log; the watermark is written before lanes and documents.
func (l *loop) load(what *loadRequest) {
	d, ids := l.d, what.ids
	if what.whole {
		ids = d.conf.Deliverer.Targets.OfShard(l.shard)
	}
	f, again := &loadedState{}, true
	var err error
	for try := 0; again && err == nil && try <= adoptTries && l.run.Err() == nil; try++ {
		backoff.Sleep(l.run, time.Duration(try)*10*time.Millisecond)
		ids, err = l.loadOnce(l.run, what, ids, what.whole && try == 0, f)
		again = len(ids) > 0
	}
	if again && err == nil {
		err = fmt.Errorf("%w %d times: somebody else is still writing their cursors", store.ErrConflict, adoptTries+1)
	}
	if err != nil && l.run.Err() == nil {
		d.conf.Log.Log(l.run, store.Level(err, slog.LevelWarn), "callbacks could not be loaded; trying again",
			"shard", l.shard, "callbacks", len(ids), "error", err)
	}
	l.send(loadEnded{what, err != nil || l.run.Err() != nil})
}

// loadOnce loads what it can. It returns the callbacks that others have written meanwhile: they must be loaded again.
func (l *loop) loadOnce(ctx context.Context, what *loadRequest, ids []string, whole bool, f *loadedState) (again []string, err error) {
	if f.cursors, err = l.d.cursors.Load(ctx, l.shard, ids); err != nil {
		return nil, err
	}
	maps.DeleteFunc(f.cursors, func(id string, _ *cursorstore.Stored) bool {
		return what.except[id] || !whole && !slices.Contains(ids, id)
	})
	if len(f.cursors) == 0 {
		return nil, nil
	}
	select { // not before the cursors are read: shards that come together are read together
	case l.d.adopting <- struct{}{}:
		defer func() { <-l.d.adopting }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	registered, err := l.confirm(ctx, f)
	if err == nil && registered && !what.mark.Adopted {
		err = l.adoptWatermark(ctx, &what.mark)
	}
	if err != nil {
		return nil, err
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
			if t != nil { // its deletion is about to become known here, or the node of the store that was asked lags
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

// confirm finds out which of the callbacks are no longer registered, and reports whether any of them is registered.
func (l *loop) confirm(ctx context.Context, f *loadedState) (any bool, err error) {
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

// adoptWatermark writes the shard's watermark under the lease's epoch, and sets mark to it.
func (l *loop) adoptWatermark(ctx context.Context, mark *cursorstore.Watermark) (err error) {
	var later uint64
	reported := false
	*mark, later, err = l.d.cursors.AdoptWatermark(ctx, l.shard, l.lease.Epoch(), func(ctx context.Context, at uint64) (last uint64, err error) {
		if _, last, err = l.d.pages.Bounds(ctx, at); err == nil && at > last && !reported {
			reported = true
			l.d.cursors.ReportClamped(ctx, l.d.conf.Operational, []string{store.WatermarkKey(l.shard, "events")}, last)
		}
		return last, err
	})
	if later > 0 {
		l.send(laterOwner{later})
	}
	return err
}

// newCallback makes a callback with its stored cursor, or a new one, and sets the lease's epoch in that.
func (d *Dispatcher) newCallback(t *delivery.Target, s *cursorstore.Stored, epoch uint64, mark cursorstore.Watermark, f *loadedState) *callback {
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
	if carried.Behind { // the former owner left it behind; for which reason is not known
		troubles.Wait(trouble.Ever, now)
	} else {
		cur.Advance(mark.Base)
		carried.Behind = cur.Position() < mark.Highest // the watermark has moved before this one was loaded: it does not cover it
	}
	resumed := carried.Resumed < cb.Resumed
	carried.Resumed = cb.Resumed
	cur.SetCarried(carried)
	cur.Adopt(epoch)
	c.cur = cur
	c.storing.covered, c.storing.storedThrough = !carried.Behind, cur.Position()
	since := cur.Health().FailingSince
	if tooLong := !since.IsZero() && now.Sub(since) >= d.conf.DisableAfter; resumed || tooLong && cb.Disabled == nil {
		cur.ResumeAll(now) // it was resumed while nobody delivered, or nobody has delivered for days: everything is tried at once
	}
	return c
}

// adopt writes callbacks under the lease's epoch and hands them to the loop. It returns those to load again.
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
		case r.Fenced: // the rest is written by the next round
			cb.ctx, cb.cancel = context.WithCancel(l.life)
			wake := func() { go l.send(slotGranted{cb}) }
			cb.sending.allowance = l.d.conf.Deliverer.Slots.Join(cb.target.Callback.Client, cb.target.Key, wake)
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

// erase removes what is stored of a cursor, except what belongs to the generation keep. What cannot be removed now does
// no harm, as nobody loads that generation; it is removed when the shard is loaded next.
func (l *loop) erase(ctx context.Context, s *cursorstore.Stored, keep string) {
	if !l.lease.Valid() {
		return
	}
	if err := l.d.cursors.Erase(ctx, l.lease.Epoch(), s, keep); err != nil {
		l.d.complain("the cursor of callback "+s.ID, err)
	}
}
