package dispatcher_test

import (
	"context"
	"math"
	"sync/atomic"
	"testing"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// unpublished refuses so many operational events.
type unpublished struct {
	*bench
	left, refused atomic.Int64
}

func (u *unpublished) Operational(
	ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any,
) error {
	if u.left.Add(-1) >= 0 {
		u.refused.Add(1)
		return errRefused
	}
	return u.bench.Operational(ctx, site, kind, id, message, details)
}

// That a callback is disabled is published although its owner dies after storing it: by the next one.
func TestADisablingOutlivesACrash(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.register(callback("bms", newReceiver(t, func(relay.Event, int) int { return 410 }).URL))
	u := &unpublished{bench: b}
	u.left.Store(math.MaxInt64)
	d := b.start(func(c *dispatcher.Config) { c.Operational = u })
	b.publish("leeds", 1)
	until(t, "it is disabled, and that cannot be published", func() bool {
		cb, _, err := b.store.Callbacks.Get(context.Background(), "bms")
		return err == nil && cb.Disabled != nil && u.refused.Load() > 0
	})
	d.crash()
	for range 2 { // the second finds it published
		d = b.start()
		until(t, "it is published", func() bool { return len(b.told(relay.KindCallbackDisabled)) > 0 })
		d.stop()
	}
	if told := b.told(relay.KindCallbackDisabled); len(told) != 1 || told[0].details["reason"] != "gone" {
		t.Errorf("published: %+v", told)
	}
}

// That a callback is disabled is published although the shard is given up before that succeeds.
func TestAFactIsPublishedWhileTheShardIsGivenUp(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.register(callback("bms", newReceiver(t, func(relay.Event, int) int { return 410 }).URL))
	u := &unpublished{bench: b}
	u.left.Store(math.MaxInt64)
	d := b.start(func(c *dispatcher.Config) { c.Operational, c.Grace = u, patience })
	b.publish("leeds", 1)
	until(t, "it is disabled, and that cannot be published", func() bool {
		cb, _, err := b.store.Callbacks.Get(context.Background(), "bms")
		return err == nil && cb.Disabled != nil && u.refused.Load() > 0
	})
	u.left.Store(2)
	d.give(relay.ShardOf("bms"))
	if told := b.told(relay.KindCallbackDisabled); len(told) != 1 {
		t.Errorf("published %d times", len(told))
	}
}

// That cursors stand beyond the log's end is published before they are taken back: should the replica die in between,
// it is again.
func TestWhatIsBeyondTheLogIsPublishedBeforeItIsTakenBack(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, load := range map[string]bool{"at the start": false, "by who takes the shard": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			cb, mark := callback("bms", newReceiver(t, nil).URL), store.WatermarkKey(relay.ShardOf("bms"), "events")
			b.register(cb)
			b.publish("leeds", 1)
			var d *running
			u := &asked{bench: b}
			if load {
				d = b.join(func(c *dispatcher.Config) { c.Operational = u })
			}
			put(b, b.store.Cursors, store.CallbackCursor("bms"), func(doc *cursor.Document) {
				*doc = cursor.Document{V: 1, Position: 50, Carried: cursor.Carried{Generation: cb.Generation}}
			})
			put(b, b.store.Watermarks, mark, func(w *store.Watermark) { w.Position = 60 })
			positions := func() [2]uint64 {
				doc, _, err := b.store.Cursors.Get(ctx, store.CallbackCursor("bms"))
				w, _, failed := b.store.Watermarks.Get(ctx, mark)
				if err != nil || failed != nil {
					t.Error(err, failed)
				}
				return [2]uint64{doc.Position, w.Position}
			}
			var before [][2]uint64
			u.before = func() { before = append(before, positions()) }
			if load {
				d.take(allShards()...)
				d.ready()
			} else {
				b.join(func(c *dispatcher.Config) { c.Operational = u })
			}
			until(t, "both are taken back", func() bool { now := positions(); return now[0] <= 1 && now[1] <= 1 })
			b.mu.Lock()
			defer b.mu.Unlock()
			if want := [2]uint64{50, 60}; len(before) == 0 || before[0] != want ||
				load && (len(before) != 2 || before[1][0] != 50) || !load && len(before) != 1 {
				t.Errorf("when that was published they stood at %v", before)
			}
		})
	}
}

// asked calls a function before each operational event.
type asked struct {
	*bench
	before func()
}

func (a *asked) Operational(
	ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any,
) error {
	a.mu.Lock()
	a.before()
	a.mu.Unlock()
	return a.bench.Operational(ctx, site, kind, id, message, details)
}
