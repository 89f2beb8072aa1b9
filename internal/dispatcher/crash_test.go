package dispatcher_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// A dispatcher is cut off from the store at random moments and abandoned, with failures, lanes and a full window in the
// air. After the last restart every event has arrived, in order per order, under one webhook-id; what came twice was in
// flight or not yet stored when a crash came.
func TestCrashes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := newReceiver(t, func(ev relay.Event, attempt int) int {
		if n, _ := ev.SequenceNumber(); n%5 == 0 && attempt == 1 {
			return 500
		}
		return 200
	})
	cb := callback("bms", r.URL)
	cb.Concurrency = 8
	b.register(cb)
	const crashes, events = 6, 900
	published := 0
	bound := 0
	for range crashes {
		cut, writes := 20+rand.IntN(60), int64(0)
		d := b.start()
		d.gate.mu.Lock()
		d.gate.each = func(store.Write) error {
			if atomic.AddInt64(&writes, 1) >= int64(cut) {
				d.gate.shut = true // the write this is asked for is the last that goes out; its response is lost
			}
			return nil
		}
		d.gate.mu.Unlock()
		for range events / crashes {
			b.publish("leeds", published%60)
			published++
		}
		until(t, "some arrive or the store is cut off", func() bool {
			d.gate.mu.Lock()
			defer d.gate.mu.Unlock()
			return d.gate.shut || r.distinct() == published
		})
		d.crash()
		bound += 2*(4*cb.Concurrency+32) + cb.Concurrency // settled and not stored, and in flight
	}
	b.start()
	until(t, "all arrive", func() bool { return r.distinct() == published })
	r.inOrder(t)
	repeats := len(r.events()) - published
	t.Logf("%d events, %d crashes, %d repeats (at most %d)", published, crashes, repeats, bound)
	if repeats > bound {
		t.Errorf("%d repeats, at most %d can be explained", repeats, bound)
	}
	until(t, "every delivery is closed as delivered", func() bool {
		ends := b.closings("bms", cb.Generation)
		for _, status := range ends {
			if status != relay.DeliveryDelivered {
				t.Fatalf("a delivery ended %s", status)
			}
		}
		return len(ends) == published
	})
}

// While the store takes no writes deliveries stop soon; nothing is lost, and they go on when it does again.
func TestStoreOutage(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, nil)
	cb := callback("bms", r.URL)
	b.register(cb)
	d := b.start()
	b.publish("leeds", 0)
	until(t, "the first arrives", func() bool { return r.distinct() == 1 })
	d.gate.mu.Lock()
	d.gate.each = func(store.Write) error { return errors.New("no space left") }
	d.gate.mu.Unlock()
	const limit = 2*(4*4+32) + 4 + 1
	for i := range 3 * limit {
		b.publish("leeds", i)
	}
	until(t, "it has stopped", func() bool {
		s, _ := d.Details("bms")
		return r.distinct() >= limit-10 && s.InFlight == 0
	})
	if n := r.distinct(); n > limit {
		t.Errorf("%d were delivered while nothing could be stored, at most %d may be", n, limit)
	}
	d.gate.mu.Lock()
	d.gate.each = nil
	d.gate.mu.Unlock()
	until(t, "all arrive", func() bool { return r.distinct() == 3*limit+1 })
	until(t, "all are recorded", func() bool { return len(b.closings("bms", cb.Generation)) == 3*limit+1 })
	if n := len(r.events()); n != 3*limit+1 {
		t.Errorf("%d requests for %d events", n, 3*limit+1)
	}
	r.inOrder(t)
}

// A successor with a higher epoch has written the callback's document: this replica stops delivering to it.
func TestFencedOff(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, nil)
	b.register(callback("bms", r.URL))
	d := b.start()
	b.publish("leeds", 1)
	key := store.CallbackCursor("bms")
	until(t, "the cursor is stored", func() bool {
		doc, _, err := b.store.Cursors.Get(context.Background(), key)
		return err == nil && doc.Position == 1
	})
	put(b, b.store.Cursors, key, func(doc *cursorDocument) { doc.Epoch = 9 })
	b.publish("leeds", 2)
	until(t, "it has noticed", func() bool {
		b.publish("leeds", 3)
		_, delivers := d.Status("bms")
		return !delivers
	})
	doc, _, err := b.store.Cursors.Get(context.Background(), key)
	if err != nil || doc.Epoch != 9 || doc.Position != 1 {
		t.Errorf("the successor's document is now %+v, %v", doc, err)
	}
	if found := d.lease("bms").Found(); len(found) == 0 || found[0] != 9 {
		t.Errorf("the lease was told of %v", found)
	}
}

// Two hundred callbacks to which nothing comes write nothing while others' events pass, and need not read those again
// after a restart.
func TestQuietCallbacksWriteNothing(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, nil)
	quiet := newReceiver(t, nil)
	for i := range 200 {
		cb := callback("quiet-"+order(i)[30:], quiet.URL)
		cb.Filter.Sites = []string{"york"}
		b.register(cb)
	}
	b.register(callback("busy", r.URL))
	d := b.start()
	isQuiet := func(subject string) bool { return strings.Contains(subject, ".callback.quiet-") }
	until(t, "each has its first documents", func() bool {
		n := 0
		docs, err := b.store.Cursors.All(context.Background(),
			store.CallbackCursors.Everywhere(), func(string, error) {})
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range docs {
			if !doc.Value.Behind {
				n++
			}
		}
		return n == 201
	})
	before := d.gate.count(isQuiet)
	for i := range 500 {
		b.publish("leeds", i%50)
	}
	until(t, "all arrive", func() bool { return r.distinct() == 500 })
	until(t, "the watermarks say so", func() bool {
		marks, err := b.store.Watermarks.All(context.Background(), store.AllWatermarks, func(string, error) {})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range marks {
			if m.Value.Position != 500 {
				return false
			}
		}
		return len(marks) > 50
	})
	if n := d.gate.count(isQuiet) - before; n != 0 {
		t.Errorf("quiet callbacks wrote %d documents", n)
	}
	d.crash()

	again := b.start()
	if at := again.ReadFrom(); at != 501 {
		t.Errorf("after the restart reading begins at %d and not at 501", at)
	}
	b.publish("york", 1)
	until(t, "the quiet ones get theirs", func() bool { return len(quiet.events()) == 200 })
}

// The log ends before the cursors' positions: they go on from its end instead of waiting for it to come that far.
func TestLogCutOff(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, nil)
	b.register(callback("bms", r.URL))
	d := b.start()
	for i := range 20 {
		b.publish("leeds", i)
	}
	until(t, "all arrive", func() bool { return r.distinct() == 20 })
	d.stop()
	js, err := jetstream.New(b.conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), b.topo.Events()); err != nil {
		t.Fatal(err)
	}
	b.store = b.open(b.gate) // makes the stream again, empty
	b.last = map[string]uint64{}
	b.start()
	for i := range 5 {
		b.publish("leeds", 100+i)
	}
	until(t, "the new ones arrive", func() bool { return r.distinct() == 25 })
	until(t, "it is told", func() bool { return len(b.told(relay.KindLogClamped)) == 1 })
}

// One event that hangs does not keep the quiet callbacks of its shard from moving on: its callback's document is marked
// behind, and after a restart it is sent again while the others begin where the log ended.
func TestStuckCallbackLetsTheWatermarkPass(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	answer, stopped := context.WithCancel(context.Background())
	stuck := newReceiver(t, func(relay.Event, int) int { <-answer.Done(); return 200 })
	t.Cleanup(stopped) // before the receiver is closed, which waits for its responses
	cb := callback("stuck", stuck.URL)
	cb.TimeoutSeconds = 60 // an attempt that ran out would have the event wait in a lane
	cb.Filter.Sites = []string{"york"}
	b.register(cb)
	d := b.start(func(c *dispatcher.Config) { c.Lookback = 1000 })
	until(t, "it reads with the others", func() bool {
		doc, _, err := b.store.Cursors.Get(context.Background(), store.CallbackCursor("stuck"))
		return err == nil && !doc.Behind
	})
	held := b.publish("york", 1)
	for i := range 300 {
		b.publish("leeds", i)
	}
	mark := store.WatermarkKey(relay.ShardOf("stuck"), "events")
	until(t, "the watermark passes the stuck event", func() bool {
		w, _, err := b.store.Watermarks.Get(context.Background(), mark)
		return err == nil && w.Position > held+100
	})
	var doc cursor.Document
	until(t, "its document is read", func() bool {
		var err error
		doc, _, err = b.store.Cursors.Get(context.Background(), store.CallbackCursor("stuck"))
		return err == nil
	})
	if !doc.Behind || doc.Position >= held {
		t.Fatalf("its document is %+v", doc)
	}
	d.crash()
	b.start()
	stopped()
	until(t, "it arrives after the restart", func() bool { return stuck.distinct() == 1 })
}
