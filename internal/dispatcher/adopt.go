package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// listFrom is how many single callbacks are loaded one by one; for more the buckets are listed.
	listFrom = 16
	// adoptChunk is how many callbacks are written under a new epoch in one go.
	adoptChunk = 1024
	// adoptTries is how often a callback that a former owner is still writing is loaded again at once.
	adoptTries = 5
)

// stored is what the store has of one callback's cursor.
type stored struct {
	doc        *store.Entry[cursor.Document]
	lanes      []store.Entry[cursor.Lane]
	unreadable bool // the document cannot be decoded
}

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
			d.conf.Log.Warn("callbacks could not be loaded; trying again", "shards", len(whole), "callbacks", len(single), "error", err)
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
	bounds := func(ctx context.Context) (uint64, error) {
		var err error
		first, last, err = d.conf.Store.Events.Bounds(ctx)
		return last, err
	}
	if clamped, err = d.touchWatermarks(ctx, keys(tenures), bounds); err != nil {
		return nil, nil, 0, err
	}
	if _, err := bounds(ctx); err != nil {
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

// read answers what the store has of the callbacks: listing the buckets once for many.
func (d *Dispatcher) read(ctx context.Context, of func(string) *tenure, whole map[int]*tenure, single map[string]*tenure) (map[string]*stored, error) {
	found := map[string]*stored{}
	get := func(id string) *stored {
		if found[id] == nil {
			found[id] = &stored{}
		}
		return found[id]
	}
	unreadable := func(key string, err error) {
		if id := strings.TrimPrefix(key, store.CallbackCursor("")); of(id) != nil {
			get(id).unreadable = true
			d.conf.Log.Error("a cursor cannot be read; its callback starts anew from where it was registered", "key", key, "error", err)
		}
	}
	if len(whole) == 0 && len(single) <= listFrom {
		for id := range single {
			v, rev, err := d.conf.Store.Cursors.Get(ctx, store.CallbackCursor(id))
			switch {
			case err == nil:
				get(id).doc = &store.Entry[cursor.Document]{Value: v, Revision: rev}
			case errors.Is(err, store.ErrNotFound):
				continue
			case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrUnclear):
				return nil, err
			default:
				unreadable(store.CallbackCursor(id), err)
			}
			if get(id).lanes, err = d.conf.Store.Lanes.All(ctx, store.CallbackCursor(id), d.badLane); err != nil {
				return nil, err
			}
		}
		return found, nil
	}
	documents, err := d.conf.Store.Cursors.All(ctx, "callback", unreadable)
	if err != nil {
		return nil, err
	}
	for i := range documents {
		if id := strings.TrimPrefix(documents[i].Key, store.CallbackCursor("")); of(id) != nil {
			get(id).doc = &documents[i]
		}
	}
	lanes, err := d.conf.Store.Lanes.All(ctx, "callback", d.badLane)
	if err != nil {
		return nil, err
	}
	for _, l := range lanes {
		id, _, _ := strings.Cut(strings.TrimPrefix(l.Key, store.CallbackCursor("")), ".")
		if of(id) != nil {
			get(id).lanes = append(get(id).lanes, l)
		}
	}
	return found, nil
}

func (d *Dispatcher) badLane(key string, err error) {
	d.conf.Log.Error("a lane cannot be read; what waits in it is not delivered (replay the order)", "key", key, "error", err)
}

// verify asks the store about callbacks whose document and settings do not belong together: what this replica has heard of the settings
// may be some milliseconds old, and a former owner may know more. Gone are those that are not registered any more.
func (d *Dispatcher) verify(ctx context.Context, of func(string) *tenure, found map[string]*stored) (gone map[string]bool, err error) {
	gone = map[string]bool{}
	var ask []string
	d.settings.mu.Lock()
	for id, s := range found {
		cb, known := d.settings.callbacks[id]
		if !known || s.doc == nil || s.doc.Value.Generation != cb.Generation {
			ask = append(ask, id)
		}
	}
	for id := range d.settings.callbacks {
		if found[id] == nil && of(id) != nil && d.find(id) == nil {
			ask = append(ask, id)
		}
	}
	d.settings.mu.Unlock()
	clients := map[string]bool{}
	for _, id := range ask {
		cb, rev, err := d.conf.Store.Callbacks.Get(ctx, id)
		switch {
		case errors.Is(err, store.ErrNotFound):
			gone[id] = true
			continue
		case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrUnclear):
			return nil, err
		case err != nil:
			continue // it cannot be read: the settings before stay in force
		}
		d.settings.mu.Lock()
		d.settings.knowCallback(id, rev, &cb)
		d.settings.mu.Unlock()
		if clients[cb.Client] {
			continue
		}
		// A callback may be heard of before the client it belongs to.
		clients[cb.Client] = true
		client, rev, err := d.conf.Store.Clients.Get(ctx, cb.Client)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		d.settings.mu.Lock()
		d.settings.knowClient(cb.Client, rev, &client)
		d.settings.mu.Unlock()
	}
	return gone, nil
}

// install makes the callbacks of what was read; they do nothing yet.
func (d *Dispatcher) install(ctx context.Context, of func(string) *tenure, found map[string]*stored, gone map[string]bool, first, last uint64) (made []*callback, clamped []string) {
	d.settings.mu.Lock()
	defer d.settings.mu.Unlock()
	for id, cb := range d.settings.callbacks {
		t := of(id)
		if t == nil || gone[id] || d.settings.retiring[id] || t.ending.Load() || !t.mark.touched || d.find(id) != nil {
			continue
		}
		s := found[id]
		if s == nil {
			s = &stored{}
		}
		if higher := s.epoch(); higher > t.lease.Epoch() {
			t.supersede(d.conf.Log, higher)
			continue
		}
		c, cut := d.make(ctx, t, cb, s, first, last)
		if cut {
			clamped = append(clamped, store.CallbackCursor(id))
		}
		d.mu.Lock()
		d.callbacks[id] = c
		d.mu.Unlock()
		made = append(made, c)
	}
	return made, clamped
}

// epoch is the highest that has written anything of it.
func (s *stored) epoch() (highest uint64) {
	if s.doc != nil {
		highest = s.doc.Value.Epoch
	}
	for _, l := range s.lanes {
		highest = max(highest, l.Value.Epoch)
	}
	return highest
}

// make makes a callback of its stored cursor, or of none, and takes that on under the tenure's epoch. Clamped says that it stood beyond the
// log. settings.mu is held.
func (d *Dispatcher) make(ctx context.Context, t *tenure, cb relay.Callback, s *stored, first, last uint64) (c *callback, clamped bool) {
	c = &callback{
		d: d, t: t, id: cb.ID, gen: cb.Generation, log: d.conf.Log.With("callback", cb.ID), laneRevs: map[string]uint64{}, adopting: true,
	}
	now := time.Now()
	lanes := make([]cursor.Lane, 0, len(s.lanes))
	for _, l := range s.lanes {
		lanes = append(lanes, l.Value)
		c.laneRevs[l.Value.Order] = l.Revision
	}
	known := s.doc != nil && s.doc.Value.Generation == cb.Generation
	if s.doc != nil {
		c.revision = s.doc.Revision
	}
	if s.unreadable {
		d.erase(ctx, t, cb.ID, s, "")
		lanes, c.laneRevs = nil, map[string]uint64{}
	}
	if known {
		cur, err := cursor.Load(d.policyOf(cb), s.doc.Value, lanes, now)
		if err != nil { // one bad document must not keep everybody's deliveries from starting
			c.log.Error("the cursor contradicts itself; the callback starts anew from where it was registered", "error", err)
			known = false
		}
		c.cur = cur
	}
	if !known {
		c.cur = d.anew(t, cb, lanes, max(min(cb.StartSeq, last), first-1), now)
	}
	_, clamped = c.cur.Clamp(last)
	carried := c.cur.Carried()
	if !carried.Behind {
		c.cur.Advance(t.mark.base)
		if c.cur.Position() < t.mark.highest() { // loaded after the watermark has moved: it does not speak for this one
			carried.Behind = true
		}
	}
	c.cur.SetCarried(carried)
	c.cur.Adopt(t.lease.Epoch())
	c.holds, c.durable = !carried.Behind, c.cur.Position()
	c.tripped = c.cur.Health().Open
	if since := c.cur.Health().FailingSince; !since.IsZero() && now.Sub(since) >= d.conf.DisableAfter && cb.Disabled == nil {
		c.cur.ResumeAll(now) // resumed while nobody delivered, or nobody delivered for days: it gets its chance
		c.tripped = false
	}
	c.ctx, c.cancel = context.WithCancel(t.life)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setTarget(newTarget(cb, d.clientOf(cb.Client)))
	if known {
		c.expireBelow(first, now)
	}
	return c, clamped
}

// anew is the cursor of a callback that has none. Lanes there may be of one before are removed with what is stored first.
func (d *Dispatcher) anew(t *tenure, cb relay.Callback, lanes []cursor.Lane, from uint64, now time.Time) *cursor.Cursor {
	c := cursor.New(d.policyOf(cb))
	c.Advance(from)
	c.SetCarried(cursor.Carried{Epoch: t.lease.Epoch(), Adopted: t.lease.Epoch() + 1, Generation: cb.Generation, Behind: true})
	if bare, err := cursor.Load(d.policyOf(cb), c.Document(), lanes, now); err == nil {
		return bare
	}
	return c
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

// join lets loaded callbacks work: those that stand where the shared reader still has what follows join it, the others read by
// themselves.
func (d *Dispatcher) join(list []*callback) {
	for len(list) > 0 {
		chunk := list[:min(len(list), 256)]
		list = list[len(chunk):]
		d.feed.mu.Lock()
		for _, c := range chunk {
			c.mu.Lock()
			c.adopting = false
			if !c.stopped && !c.cur.Carried().Behind {
				c.joinRing()
			}
			c.mu.Unlock()
		}
		d.feed.mu.Unlock()
		for _, c := range chunk {
			c.mu.Lock()
			if !c.stopped {
				if c.cur.Dirty() || len(c.records) > 0 || !c.attached {
					c.d.flush.mark(c)
				}
				c.pump(time.Now())
			}
			c.mu.Unlock()
		}
	}
}

// joinRing joins the shared reader if its ring still has everything that follows and there is room for it. feed.mu and mu are held.
func (c *callback) joinRing() {
	events, _, ok := c.d.feed.after(c.cur.ReadFrom()-1, c.d.feed.limit)
	if !ok {
		return
	}
	for _, ev := range events {
		if c.target.matches(ev) && (c.halted() || !c.offer(ev)) {
			return
		}
	}
	c.attach()
}

// erase removes what is stored of a callback's cursor, unless it is of the generation to keep, or of a later owner. What cannot be removed
// now is of a generation that nobody loads, and is removed when the shard is next taken on.
func (d *Dispatcher) erase(ctx context.Context, t *tenure, id string, s *stored, keep string) {
	if s == nil || !t.mayStore() {
		return
	}
	var lanes, documents []store.Removal
	for _, l := range s.lanes {
		if l.Value.Epoch <= t.lease.Epoch() && (keep == "" || l.Value.Generation != keep) {
			lanes = append(lanes, store.Removal{Key: l.Key, Revision: l.Revision})
		}
	}
	switch {
	case s.unreadable:
		documents = append(documents, store.Removal{Key: store.CallbackCursor(id)})
	case s.doc != nil && s.doc.Value.Epoch <= t.lease.Epoch() && (keep == "" || s.doc.Value.Generation != keep):
		documents = append(documents, store.Removal{Key: store.CallbackCursor(id), Revision: s.doc.Revision})
	}
	var err error
	for _, r := range append(d.conf.Store.Lanes.Remove(ctx, lanes), d.conf.Store.Cursors.Remove(ctx, documents)...) {
		if !errors.Is(r.Err, store.ErrConflict) { // on a conflict it has changed since: it is looked at when the shard is next taken on
			err = errors.Join(err, r.Err)
		}
	}
	if err != nil {
		d.complain("cursor of "+id, err)
	}
}
