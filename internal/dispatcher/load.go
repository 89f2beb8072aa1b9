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

// startUntil tries to start until the store lets it.
func (d *Dispatcher) startUntil(ctx context.Context) error {
	for {
		err := d.start(ctx)
		if ctx.Err() != nil || !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrUnclear) && !errors.Is(err, store.ErrConflict) {
			return err
		}
		d.conf.Log.Warn("deliveries cannot start yet; trying again", "error", err)
		wait(ctx, time.Second)
		d.mu.Lock()
		for id, c := range d.callbacks {
			c.cancel()
			delete(d.callbacks, id)
		}
		d.mu.Unlock()
	}
}

// start loads every callback of this replica's shards, takes what stands beyond the log back to it, and says where the shared
// reader begins.
func (d *Dispatcher) start(ctx context.Context) error {
	for _, complete := range d.settings.complete {
		select {
		case <-complete:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	first, last, err := d.conf.Store.Events.Bounds(ctx)
	if err != nil {
		return fmt.Errorf("start delivering: %w", err)
	}
	d.settings.mu.Lock()
	defer d.settings.mu.Unlock()
	clamped, err := d.loadWatermarks(ctx, last)
	if err != nil {
		return fmt.Errorf("start delivering: %w", err)
	}
	more, err := d.loadCallbacks(ctx, first, last)
	if err != nil {
		return fmt.Errorf("start delivering: %w", err)
	}
	if clamped = append(clamped, more...); len(clamped) > 0 {
		if err := d.storeClamped(ctx, clamped, last); err != nil {
			return fmt.Errorf("start delivering: %w", err)
		}
	}
	d.join(last)
	d.settings.live = true
	return nil
}

// join attaches every callback that is not behind, at the lowest position of theirs, and lets the others read by themselves.
func (d *Dispatcher) join(last uint64) {
	list, from := d.list(), last
	near := make([]*callback, 0, len(list))
	for _, c := range list {
		c.mu.Lock()
		if at := c.cur.ReadFrom() - 1; !c.cur.Carried().Behind && at+d.conf.Lookback >= last {
			near = append(near, c)
			from = min(from, at)
		}
		c.mu.Unlock()
	}
	d.feed.start(from)
	d.feed.mu.Lock()
	for _, c := range near {
		c.mu.Lock()
		c.attach()
		c.mu.Unlock()
	}
	d.feed.mu.Unlock()
	for _, c := range list {
		c.begin()
	}
}

// begin lets a loaded callback work.
func (c *callback) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur.Dirty() || len(c.records) > 0 || !c.attached && !c.cur.Carried().Behind {
		c.d.flush.mark(c)
	}
	c.pump(time.Now())
}

func (d *Dispatcher) loadWatermarks(ctx context.Context, last uint64) (clamped []string, err error) {
	entries, err := d.conf.Store.Watermarks.All(ctx, "watermark", func(key string, err error) {
		d.conf.Log.Error("a watermark cannot be read; quiet callbacks start from their documents", "key", key, "error", err)
	})
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		for s := range relay.Shards {
			if e.Key != store.WatermarkKey(s, "events") || !d.conf.Owns(s) {
				continue
			}
			at := e.Value.Position
			d.marks.revision[s], d.marks.stored[s] = e.Revision, at
			if at > last {
				rev, err := d.conf.Store.Watermarks.Update(ctx, e.Key, store.Watermark{Epoch: d.conf.Epoch, Position: last}, e.Revision)
				if err != nil {
					return nil, err
				}
				d.marks.revision[s], d.marks.stored[s] = rev, last
				clamped = append(clamped, e.Key)
			}
			d.marks.tried[s].Store(d.marks.stored[s])
		}
	}
	return clamped, nil
}

func (d *Dispatcher) loadCallbacks(ctx context.Context, first, last uint64) (clamped []string, err error) {
	unread := map[string]bool{}
	documents, err := d.conf.Store.Cursors.All(ctx, "callback", func(key string, err error) {
		unread[key] = true
		d.conf.Log.Error("a cursor cannot be read; its callback starts anew from where it was registered", "key", key, "error", err)
	})
	if err != nil {
		return nil, err
	}
	allLanes, err := d.conf.Store.Lanes.All(ctx, "callback", d.badLane)
	if err != nil {
		return nil, err
	}
	byID := map[string]*store.Entry[cursor.Document]{}
	for i := range documents {
		byID[strings.TrimPrefix(documents[i].Key, store.CallbackCursor(""))] = &documents[i]
	}
	lanes := map[string][]store.Entry[cursor.Lane]{}
	for _, l := range allLanes {
		id, _, _ := strings.Cut(strings.TrimPrefix(l.Key, store.CallbackCursor("")), ".")
		lanes[id] = append(lanes[id], l)
		if byID[id] == nil {
			unread[store.CallbackCursor(id)] = true
		}
	}
	for key := range unread {
		if id := strings.TrimPrefix(key, store.CallbackCursor("")); d.conf.Owns(shardOf(id)) {
			d.eraseCursor(ctx, id)
			delete(lanes, id)
		}
	}
	for id := range byID {
		if _, ok := d.settings.callbacks[id]; !ok && d.conf.Owns(shardOf(id)) {
			d.eraseCursor(ctx, id) // deleted while nobody delivered
		}
	}
	for id, cb := range d.settings.callbacks {
		if !d.conf.Owns(shardOf(id)) {
			continue
		}
		_, cut, err := d.adopt(ctx, cb, byID[id], lanes[id], first, last)
		if err != nil {
			return nil, err
		}
		if cut {
			clamped = append(clamped, store.CallbackCursor(id))
		}
	}
	return clamped, nil
}

func (d *Dispatcher) badLane(key string, err error) {
	d.conf.Log.Error("a lane cannot be read; what waits in it is not delivered (replay the order)", "key", key, "error", err)
}

// adopt makes the callback of its stored cursor, or of none. It answers nil if a later epoch than ours has written it, and whether the
// cursor stood beyond the log. settings.mu is held.
func (d *Dispatcher) adopt(ctx context.Context, cb relay.Callback, doc *store.Entry[cursor.Document], lanes []store.Entry[cursor.Lane], first, last uint64) (*callback, bool, error) {
	log := d.conf.Log.With("callback", cb.ID)
	if doc != nil && doc.Value.Epoch > d.conf.Epoch {
		log.Warn("another replica delivers to this callback", "epoch", doc.Value.Epoch)
		return nil, false, nil
	}
	if doc != nil && doc.Value.Generation != cb.Generation { // made anew under the same id
		d.eraseCursor(ctx, cb.ID)
		doc, lanes = nil, nil
	}
	c := &callback{d: d, id: cb.ID, gen: cb.Generation, shard: shardOf(cb.ID), log: log, laneRevs: map[string]uint64{}}
	now := time.Now()
	clamped := false
	if doc == nil {
		c.cur = cursor.New(d.policyOf(cb))
		c.cur.Advance(max(min(cb.StartSeq, last), first-1))
		c.cur.SetCarried(cursor.Carried{Epoch: d.conf.Epoch, Generation: cb.Generation, Behind: true})
	} else {
		stored := make([]cursor.Lane, 0, len(lanes))
		for _, l := range lanes {
			stored = append(stored, l.Value)
			c.laneRevs[l.Value.Order] = l.Revision
		}
		cur, err := cursor.Load(d.policyOf(cb), doc.Value, stored, now)
		if err != nil { // one bad document must not keep everybody's deliveries from starting
			log.Error("the cursor contradicts itself; the callback starts anew from where it was registered", "error", err)
			d.eraseCursor(ctx, cb.ID)
			return d.adopt(ctx, cb, nil, nil, first, last)
		}
		c.cur, c.revision, c.holds = cur, doc.Revision, !doc.Value.Behind
		_, clamped = cur.Clamp(last)
		if !doc.Value.Behind {
			cur.Advance(d.marks.stored[c.shard])
		}
		c.durable = c.cur.Position()
		c.tripped = cur.Health().Open
		if since := cur.Health().FailingSince; !since.IsZero() && now.Sub(since) >= d.conf.DisableAfter && cb.Disabled == nil {
			cur.ResumeAll(now) // resumed while nobody delivered, or nobody delivered for days: it gets its chance
			c.tripped = false
		}
	}
	c.ctx, c.cancel = context.WithCancel(d.life)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setTarget(newTarget(cb, d.clientOf(cb.Client)))
	if doc != nil {
		c.expireBelow(first, now)
	}
	d.mu.Lock()
	d.callbacks[cb.ID] = c
	d.mu.Unlock()
	return c, clamped, nil
}

// storeClamped stores cursors that stood beyond the log before anything is read: positions above its end will be given to other
// events.
func (d *Dispatcher) storeClamped(ctx context.Context, clamped []string, last uint64) error {
	for _, c := range d.list() {
		c.mu.Lock()
		if c.cur.Dirty() {
			d.flush.mark(c)
		}
		c.mu.Unlock()
	}
	var left []*callback
	for range 3 {
		if !d.flush.do(ctx, func(ctx context.Context) {
			d.flush.round(ctx, d.flush.list(false))
			left = d.flush.list(false)
		}) {
			return ctx.Err()
		}
		if len(left) == 0 {
			break
		}
		for _, c := range left {
			c.mu.Lock()
			c.listed = false
			d.flush.mark(c)
			c.mu.Unlock()
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("%w: %d cursors that stand beyond the log could not be stored", store.ErrUnavailable, len(left))
	}
	slices.Sort(clamped)
	d.conf.Log.Error("the log of events ends earlier than cursors say: it was cut off or restored; they were taken back to its end", "last", last, "cursors", len(clamped))
	d.chore(func(ctx context.Context) bool {
		err := d.conf.Operational.Operational(ctx, relay.NoSite, relay.KindLogClamped, "events",
			"The log of events ends earlier than callbacks had read: it was cut off or restored from a backup. They go on from its end.",
			map[string]any{"last": last, "cursors": len(clamped), "examples": clamped[:min(len(clamped), 20)]})
		if err != nil {
			d.conf.Log.Warn("an operational event could not be published", "kind", relay.KindLogClamped, "error", err)
		}
		return err == nil
	})
	return nil
}
