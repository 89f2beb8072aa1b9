package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// A crash between any two writes of taking a shard on loses nothing and repeats nothing: lanes keep what waits and how
// often it was tried, quiet callbacks stay where the watermark stood.
func TestCrashPointsOfAdoption(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var well atomic.Bool
	r := newReceiver(t, func(ev relay.Event, _ int) int {
		if ev.Site == "leeds" && ev.Subject < order(3) && !well.Load() {
			return 500
		}
		return 200
	})
	b.registerBusyAndQuiet(r.URL)
	n := relay.ShardOf("busy")
	d := b.join(patient)
	d.take(n)
	b.publish("york", 1)
	for i := range 20 {
		b.publish("leeds", i%10)
	}
	until(t, "three orders are in lanes", func() bool {
		s, _ := d.Details("busy")
		doc, _, err := b.store.Cursors.Get(context.Background(), store.CallbackCursor("busy"))
		return err == nil && s.Lanes == 3 && doc.Position == 21 && s.Backlog == 6
	})
	d.stop()
	points := 0
	for done := false; !done; points++ {
		d := b.join(patient)
		writes := 0
		d.gate.mu.Lock()
		d.gate.each = func(store.Write) error {
			if writes++; writes > points {
				d.gate.shut = true
				return errCut
			}
			return nil
		}
		d.gate.mu.Unlock()
		d.take(n)
		until(t, "it is loaded or cut off", func() bool {
			d.gate.mu.Lock()
			defer d.gate.mu.Unlock()
			select {
			case <-d.Ready():
				done = writes <= points
				return true
			default:
				return d.gate.shut
			}
		})
		d.crash()
	}
	if points < 6 { // the watermark, three lanes, two documents
		t.Errorf("only %d points", points)
	}
	d = b.join(patient)
	d.take(n)
	until(t, "it is loaded", func() bool { s, ok := d.Details("busy"); return ok && s.Lanes == 3 && s.Backlog == 6 })
	for i := range 3 {
		if v, ok := d.Delivery("busy", b.last["leeds"+order(i)]-10, order(i)); !ok || v.Attempts != 1 {
			t.Errorf("order %d stands at %+v", i, v)
		}
	}
	well.Store(true)
	b.change("busy", func(cb *relay.Callback) { cb.Resumed++ })
	b.publish("york", 1)
	until(t, "all arrive", func() bool { return r.distinct() == 22 })
	if all := len(r.events()); all != 22 {
		t.Errorf("%d requests for 22 events", all)
	}
	r.inOrder(t)
}

// Each shard is loaded by one listing of its own, however many callbacks it has.
func TestEachShardIsListedOnce(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, nil)
	const callbacks = 150
	for i := range callbacks {
		b.register(callback(fmt.Sprintf("cb-%d", i), r.URL))
	}
	b.start().stop() // from now on each has a document
	listed, err := b.conn.SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.CREATED.KV_" + b.topo.Bucket("cursors") + ".>")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listed.Unsubscribe() }()
	d := b.start()
	for i := range callbacks {
		if _, ok := d.Status(fmt.Sprintf("cb-%d", i)); !ok {
			t.Fatalf("callback %d is not loaded", i)
		}
	}
	b.publish("leeds", 1)
	until(t, "it arrives at all", func() bool { return len(r.events()) == callbacks })
	if n, _, _ := listed.Pending(); n == 0 || n > relay.Shards+2 { // Prepare lists all cursors, and all watermarks
		t.Errorf("the cursors were listed %d times", n)
	}
}

// Callbacks that come with a shard and are a little behind are read for together, also to a replica whose shared reader
// began later.
func TestComersAreReadForTogether(t *testing.T) {
	t.Parallel()
	b, r, quiet := newBench(t), newReceiver(t, nil), newReceiver(t, nil)
	const callbacks = 40
	for i := range callbacks {
		cb := callback(fmt.Sprintf("quiet-%d", i), quiet.URL)
		cb.Filter.Sites = []string{"york"}
		b.register(cb)
	}
	b.register(callback("busy", r.URL))
	first := b.start()
	b.publish("leeds", 1)
	until(t, "all follow the log", func() bool {
		docs, err := b.store.Cursors.All(context.Background(),
			store.CallbackCursors.Everywhere(), func(string, error) {})
		return err == nil && len(docs) == callbacks+1 &&
			!slices.ContainsFunc(docs, func(e store.Entry[cursor.Document]) bool {
				return e.Value.Behind
			})
	})
	first.crash()
	for i := range 100 {
		b.publish("leeds", i)
	}
	b.publish("york", 1)
	pages, err := b.conn.SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.CREATED." + b.topo.Events() + ".>")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pages.Unsubscribe() }()
	second := b.start()
	b.publish("york", 1)
	until(t, "all arrive", func() bool { return r.distinct() == 103 && len(quiet.events()) == 2*callbacks })
	until(t, "all follow the log again", func() bool {
		s, ok := second.Details("quiet-7")
		return ok && !s.Behind
	})
	quiet.inOrder(t)
	r.inOrder(t)
	// The shared reader, the ride (two, if the machine was slow), and the busy one, which has not the room for all at
	// once.
	if n, _, _ := pages.Pending(); n > callbacks/2 {
		t.Errorf("the log was read by %d readers", n)
	}
}

// Callbacks of all shards that come to a replica at once are read for by at most three readers of the log: the shared
// one, one for those that came, and another for those that came late.
func TestComersOfAllShardsNeedThreeReaders(t *testing.T) {
	t.Parallel()
	b, quiet := newBench(t), newReceiver(t, nil)
	shards := map[int]bool{}
	for i := 0; len(shards) < relay.Shards; i++ {
		cb := callback(fmt.Sprintf("quiet-%d", i), quiet.URL)
		if n := relay.ShardOf(cb.ID); !shards[n] {
			shards[n] = true
			cb.Filter.Sites = []string{"york"}
			b.register(cb)
		}
	}
	first := b.start()
	until(t, "all follow the log", func() bool {
		docs, err := b.store.Cursors.All(context.Background(),
			store.CallbackCursors.Everywhere(), func(string, error) {})
		return err == nil && len(docs) == relay.Shards &&
			!slices.ContainsFunc(docs, func(e store.Entry[cursor.Document]) bool {
				return e.Value.Behind
			})
	})
	first.crash()
	for i := range 300 {
		b.publish("leeds", i)
	}
	b.publish("york", 1)
	readers, err := b.conn.SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.CREATED." + b.topo.Events() + ".>")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = readers.Unsubscribe() }()
	b.start()
	b.publish("york", 1)
	until(t, "all arrive", func() bool { return len(quiet.events()) == 2*relay.Shards })
	quiet.inOrder(t)
	if n, _, _ := readers.Pending(); n == 0 || n > 3 {
		for m, err := readers.NextMsg(time.Second); err == nil; m, err = readers.NextMsg(time.Second) {
			t.Logf("%s", m.Data)
		}
		t.Errorf("the log was read by %d readers", n)
	}
}

// A dispatcher that starts has the newest events at hand: callbacks with a backlog do not read the log, and those that
// are ahead of its reader get nothing twice.
func TestAStartHasTheNewestEventsAtHand(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, nil)
	b.recent = true
	const callbacks, events = 10, 200 // more events than a callback takes at once
	for i := range callbacks {
		b.register(callback(fmt.Sprint("late-", i), r.URL))
	}
	readers, err := b.conn.SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.CREATED." + b.topo.Events() + ".>")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = readers.Unsubscribe() }()
	for i := range events {
		b.publish("leeds", i%50)
	}
	arrived := func(n int) func() bool {
		return func() bool { return len(r.events()) >= n*callbacks }
	}
	first := b.start()
	until(t, "the backlog arrives", arrived(events))
	first.stop()
	second := b.start()
	b.publish("leeds", 1)
	until(t, "the next event arrives", arrived(events+1))
	second.stop()
	if n := len(r.events()); n != (events+1)*callbacks {
		t.Errorf("%d deliveries of %d events to %d callbacks", n, events+1, callbacks)
	}
	if n, _, _ := readers.Pending(); n != 2 {
		t.Errorf("the log was read by %d readers in two starts", n)
	}
}

// What waits for a callback that leaves the shared reader soon after a start is counted right: neither what it had
// before nor what others get counts for it.
func TestTheBacklogAfterAStart(t *testing.T) {
	t.Parallel()
	for name, recent := range map[string]bool{"from the end": false, "from before the end": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, r := newBench(t), newReceiver(t, nil)
			b.recent = recent
			b.register(callback("one", r.URL))
			first := b.start()
			for i := range 300 {
				b.publish("leeds", i)
			}
			until(t, "all arrive", func() bool { return r.distinct() == 300 })
			first.stop()
			second := b.start()
			for i := range 3 {
				b.publish("leeds", i)
			}
			until(t, "the next ones arrive", func() bool { return r.distinct() == 303 })
			b.change("one", func(cb *relay.Callback) { cb.Paused = true })
			marker := newReceiver(t, nil) // once a later callback works, the pause has been seen
			b.register(callback("marker", marker.URL))
			until(t, "the pause is seen", func() bool { return marker.distinct() == 303 })
			for i := range 100 {
				b.publish("leeds", i)
			}
			until(t, "what waits is counted", func() bool {
				s, known := second.Status("one")
				return known && s.Backlog == 100
			})
		})
	}
}

// While a shard is being loaded the others deliver, and changes of theirs take effect.
func TestLoadingHoldsUpNobody(t *testing.T) {
	t.Parallel()
	b, r, late := newBench(t), newReceiver(t, nil), newReceiver(t, nil)
	b.register(callback("busy", r.URL))
	joins := callback("joins", late.URL)
	for i := 0; relay.ShardOf(joins.ID) == relay.ShardOf("busy"); i++ {
		joins.ID = fmt.Sprintf("joins-%d", i)
	}
	b.register(joins)
	d := b.join()
	d.take(relay.ShardOf("busy"))
	d.ready()
	release := d.gate.keep(func(w store.Write) bool { return strings.HasSuffix(w.Subject, ".callback."+joins.ID) })
	defer release()
	d.take(relay.ShardOf(joins.ID))
	until(t, "the other is being loaded", d.gate.keeps)
	for i := range 1000 {
		b.publish("leeds", i%50)
	}
	until(t, "the busy one gets all", func() bool { return r.distinct() == 1000 })
	until(t, "and stores it", func() bool {
		doc, _, err := b.store.Cursors.Get(context.Background(), store.CallbackCursor("busy"))
		return err == nil && doc.Position == 1000
	})
	moved := newReceiver(t, nil)
	b.change("busy", func(cb *relay.Callback) { cb.Secrets.URL = moved.URL })
	until(t, "its change takes effect", func() bool { b.publish("leeds", 1); return moved.distinct() > 0 })
	if late.distinct() != 0 {
		t.Error("the other was delivered to before it was fenced")
	}
	release()
	until(t, "the other gets all", func() bool {
		return late.distinct() == r.distinct()+moved.distinct() && late.distinct() > 1000
	})
	late.inOrder(t)
}

// What a callback was is removed by whoever next takes its shard, if it was deleted while nobody did.
func TestOrphansAreRemovedAtAdoption(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, func(relay.Event, int) int { return 500 })
	b.register(callback("bms", r.URL))
	d := b.start(func(c *dispatcher.Config) { c.Schedule = []time.Duration{time.Hour} })
	b.publish("leeds", 1)
	until(t, "a lane is stored", func() bool {
		_, _, err := b.store.Lanes.Get(context.Background(), store.CallbackCursor("bms")+"."+order(1))
		return err == nil
	})
	d.give(allShards()...)
	if err := b.store.Callbacks.Delete(context.Background(), "bms", 0); err != nil {
		t.Fatal(err)
	}
	other := newReceiver(t, nil)
	b.register(callback("marker", other.URL)) // once it is heard of, so is the deletion
	if _, _, err := b.store.Cursors.Get(context.Background(), store.CallbackCursor("bms")); err != nil {
		t.Errorf("its cursor was removed by somebody who did not hold its shard: %v", err)
	}
	d.take(allShards()...)
	until(t, "nothing is left of it", func() bool {
		_, _, err := b.store.Cursors.Get(context.Background(), store.CallbackCursor("bms"))
		_, _, failed := b.store.Lanes.Get(context.Background(), store.CallbackCursor("bms")+"."+order(1))
		return errors.Is(err, store.ErrNotFound) && errors.Is(failed, store.ErrNotFound)
	})
	until(t, "the other is delivered to", func() bool { return other.distinct() == 1 })
}

// A replica that is given no shard is ready as well.
func TestReadyWithoutAShard(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, nil)
	b.register(callback("bms", r.URL))
	d := b.join()
	d.ready()
	b.publish("leeds", 1)
	if _, ok := d.Status("bms"); ok {
		t.Error("it answers for a callback of nobody")
	}
	d.take(relay.ShardOf("bms"))
	until(t, "what came before arrives", func() bool { return r.distinct() == 1 })
}

// Prepare takes back what stands beyond the log's end, at the epoch of whoever wrote it, and leaves the rest alone.
func TestPrepareClampsWhatIsBeyondTheLog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range 5 {
		b.publish("leeds", i)
	}
	ctx := context.Background()
	beyond, within := store.CallbackCursor("beyond"), store.CallbackCursor("within")
	carried := cursor.Carried{Epoch: 3, Adopted: 3, Generation: "g"}
	put(b, b.store.Cursors, beyond, func(d *cursor.Document) {
		*d = cursor.Document{V: 1, Position: 50, Carried: carried}
	})
	put(b, b.store.Cursors, within, func(d *cursor.Document) {
		*d = cursor.Document{V: 1, Position: 4, Carried: carried}
	})
	put(b, b.store.Lanes, beyond+"."+order(1), func(l *cursor.Lane) {
		*l = cursor.Lane{V: 1, Order: order(1), Entries: []uint64{2, 40}, Attempts: 2, Epoch: 3, Generation: "g"}
	})
	// a lane is stored before the document that passes its entries
	put(b, b.store.Lanes, within+"."+order(1), func(l *cursor.Lane) {
		*l = cursor.Lane{V: 1, Order: order(1), Entries: []uint64{7}, Epoch: 3, Generation: "g"}
	})
	put(b, b.store.Watermarks, store.WatermarkKey(5, "events"), func(w *store.Watermark) {
		*w = store.Watermark{Epoch: 3, Position: 60}
	})
	b.join()
	doc, _, err := b.store.Cursors.Get(ctx, beyond)
	if err != nil || doc.Position != 5 || doc.Epoch != 3 || doc.Adopted != 3 {
		t.Errorf("the document is %+v, %v", doc, err)
	}
	if l, _, err := b.store.Lanes.Get(ctx, beyond+"."+order(1)); err != nil || len(l.Entries) != 1 ||
		l.Entries[0] != 2 || l.Attempts != 2 {
		t.Errorf("the lane is %+v, %v", l, err)
	}
	if l, _, err := b.store.Lanes.Get(ctx, within+"."+order(1)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the lane beyond the end is %+v, %v", l, err)
	}
	if doc, _, err := b.store.Cursors.Get(ctx, within); err != nil || doc.Position != 4 {
		t.Errorf("the document within is %+v, %v", doc, err)
	}
	if w, _, err := b.store.Watermarks.Get(ctx, store.WatermarkKey(5, "events")); err != nil ||
		w.Position != 5 || w.Epoch != 3 {
		t.Errorf("the watermark is %+v, %v", w, err)
	}
	if told := b.told(relay.KindLogClamped); len(told) != 1 || told[0].details["cursors"] != 3 {
		t.Errorf("told %+v", told)
	}
	b.join()
	if told := b.told(relay.KindLogClamped); len(told) != 1 {
		t.Errorf("told %d times", len(told))
	}
}
