package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Shards move at random between three dispatchers while events come and receivers fail now and then: handed over, taken
// from one whose lease has run out, and taken from one that still believes in its lease. Everything arrives, in order
// per order, at every callback, and what comes twice was in flight or not yet stored when somebody else took over.
func TestShardsMoveUnderLoad(t *testing.T) {
	t.Parallel()
	seed, runs := uint64(time.Now().UnixNano()), 3
	if s, err := strconv.ParseUint(os.Getenv("RELAY_CRASH_SEED"), 10, 64); err == nil {
		seed = s
	}
	if n, err := strconv.Atoi(os.Getenv("RELAY_CRASH_KILLS")); err == nil {
		runs = n
	}
	t.Logf("RELAY_CRASH_SEED=%d", seed)
	b, random := newBench(t), rand.New(rand.NewPCG(seed, 0))
	replicas := []*running{b.join(), b.join(), b.join()}
	for run := range runs {
		moveShards(t, b, replicas, random, run)
	}
}

func moveShards(t *testing.T, b *bench, replicas []*running, random *rand.Rand, run int) {
	const callbacks = 3
	site := fmt.Sprintf("site-%d", run)
	receivers := make([]*receiver, callbacks)
	ids, at := make([]string, callbacks), make([]int, callbacks)
	_, start, err := b.store.Events.Bounds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range receivers {
		receivers[i] = newReceiver(t, func(ev relay.Event, attempt int) int {
			if n, _ := ev.SequenceNumber(); attempt == 1 && (int(n)+i)%9 == 0 {
				return 500
			}
			return 200
		})
		cb := callback(fmt.Sprintf("moves-%d-%d", run, i), receivers[i].URL)
		for j := 0; i > 0 && relay.ShardOf(cb.ID) == relay.ShardOf(ids[i-1]) ||
			i > 1 && relay.ShardOf(cb.ID) == relay.ShardOf(ids[0]); j++ {
			cb.ID = fmt.Sprintf("moves-%d-%d-%d", run, i, j)
		}
		cb.Filter.Sites, cb.StartSeq = []string{site}, start
		b.register(cb)
		ids[i], at[i] = cb.ID, -1
	}
	published, taken := 0, make([]int, callbacks)
	publish := func(most int) {
		for range random.IntN(most) {
			b.publish(site, published%7)
			published++
		}
	}
	for range 10 {
		i, to := random.IntN(callbacks), random.IntN(len(replicas))
		n, from := relay.ShardOf(ids[i]), at[i]
		switch how := random.IntN(3); {
		case from < 0:
			replicas[to].take(n)
		case how == 0 || from == to: // handed over, or back and forth
			replicas[from].give(n)
			replicas[to].take(n)
		default:
			taken[i]++
			if how == 1 {
				replicas[from].lease(ids[i]).Expire()
			}
			replicas[to].take(n)
			publish(30)
			if random.IntN(2) == 0 {
				until(t, "the new owner has loaded it", func() bool { _, ok := replicas[to].Status(ids[i]); return ok })
			}
			replicas[from].give(n)
		}
		at[i] = to
		publish(60)
	}
	for i, id := range ids {
		if at[i] < 0 {
			at[i] = 0
			replicas[0].take(relay.ShardOf(id))
		}
	}
	for i, r := range receivers {
		until(t, "everything arrives at each callback", func() bool { return r.distinct() == published }, func() any {
			status, delivers := replicas[at[i]].Status(ids[i])
			return fmt.Sprintf("run %d, callback %d: %d of %d, its owner (%t): %+v",
				run, i, r.distinct(), published, delivers, status)
		})
		r.inOrder(t)
		bound := taken[i] * (2*(4*4+32) + 4)
		repeats := len(r.events()) - published
		if t.Logf("run %d, callback %d: %d events, %d takeovers, %d repeats",
			run, i, published, taken[i], repeats); repeats > bound {
			t.Errorf("%d repeats, %d takeovers explain at most %d", repeats, taken[i], bound)
		}
		until(t, "its owner answers for it, and nobody else", func() bool {
			for j, replica := range replicas {
				if _, delivers := replica.Status(ids[i]); delivers != (j == at[i]) {
					return false
				}
			}
			return true
		})
		until(t, "no lane of the present owner is left", func() bool {
			lanes, err := b.store.Lanes.All(context.Background(), store.CallbackCursor(ids[i]), func(string, error) {})
			doc, _, failed := b.store.Cursors.Get(context.Background(), store.CallbackCursor(ids[i]))
			return err == nil && failed == nil && !slices.ContainsFunc(lanes, func(l store.Entry[cursor.Lane]) bool {
				return l.Value.Epoch >= doc.Adopted
			})
		})
	}
	for i, id := range ids {
		replicas[at[i]].give(relay.ShardOf(id))
	}
}

// A dispatcher is cut off from the store without a goodbye; whoever takes its shards delivers what it had not stored.
func TestTakeoverWithoutAGoodbye(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, nil)
	cb := callback("bms", r.URL)
	b.register(cb)
	first, second := b.start(), b.join()
	for i := range 300 {
		b.publish("leeds", i%20)
	}
	until(t, "some arrive", func() bool { return r.distinct() >= 100 })
	first.gate.close()
	for i := range 300 {
		b.publish("leeds", i%20)
	}
	second.take(allShards()...)
	until(t, "all arrive", func() bool { return r.distinct() == 600 })
	until(t, "all are closed", func() bool { return len(b.closings("bms", cb.Generation)) == 600 })
	r.inOrder(t)
	first.crash()
	if n, most := len(r.events())-600, 2*(2*(4*4+32)+4); n > most {
		t.Errorf("%d repeats, at most %d can be explained", n, most)
	}
	if _, known := first.Status("bms"); known {
		t.Error("the first still answers for it")
	}
}

// A dispatcher wakes up with results it was about to store while another has taken over: nothing that the other has
// written changes, and what it still managed to write is not taken for the other's.
func TestStaleOwnerWritesNothing(t *testing.T) {
	t.Parallel()
	n := relay.ShardOf("busy")
	for _, held := range []string{"attempts", "_lanes.", "_cursors." + store.CallbackCursor("busy"),
		"_cursors." + store.WatermarkKey(n, "events")} {
		t.Run(held, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			var well atomic.Bool
			r := newReceiver(t, func(ev relay.Event, _ int) int {
				if n, _ := ev.SequenceNumber(); n > 1 && !well.Load() {
					return 500
				}
				return 200
			})
			b.registerBusyAndQuiet(r.URL)
			first, second := b.join(patient), b.join(patient)
			first.take(n)
			for i := range 5 {
				b.publish("leeds", i)
			}
			until(t, "the first has stored its first", func() bool {
				doc, _, err := b.store.Cursors.Get(context.Background(), store.CallbackCursor("busy"))
				return err == nil && doc.Position == 5
			})
			release := first.gate.keep(func(w store.Write) bool { return strings.Contains(w.Subject, held) })
			defer release()
			for i := range 10 { // half of them fail and go to lanes
				b.publish("leeds", i)
			}
			until(t, "the first is about to store", first.gate.keeps)
			first.lease("busy").Renew(time.Hour)

			second.take(n)
			until(t, "the second has stored everything", func() bool {
				s, _ := second.Details("busy")
				doc, _, err := b.store.Cursors.Get(context.Background(), store.CallbackCursor("busy"))
				mark, _, failed := b.store.Watermarks.Get(context.Background(), store.WatermarkKey(n, "events"))
				return err == nil && failed == nil && doc.Epoch == 2 && doc.Position == 15 && s.Lanes == 5 &&
					mark.Epoch == 2 && mark.Position == 15
			})
			before := b.revisions(2)
			release()
			until(t, "the first has found the second", func() bool {
				found := first.lease("busy").Found()
				return len(found) > 0 && found[0] == 2
			})
			first.give(n)
			after := b.revisions(2)
			if len(before) < 7 || fmt.Sprint(before) != fmt.Sprint(after) {
				t.Errorf("what the second had written was %v and is %v", before, after)
			}

			// Whoever comes next takes over what the second had, and no more.
			second.give(n)
			well.Store(true)
			second.take(n)
			until(t, "it is loaded", func() bool { s, ok := second.Details("busy"); return ok && s.Lanes == 5 })
			b.change("busy", func(cb *relay.Callback) { cb.Resumed++ })
			until(t, "all arrive", func() bool { return r.distinct() == 15 })
			r.inOrder(t)
			until(t, "no lane is left", func() bool {
				lanes, err := b.store.Lanes.All(context.Background(), "", func(string, error) {})
				return err == nil && len(lanes) == 0
			})
		})
	}
}

// revisions returns at which revision every document, lane and watermark of an epoch is.
func (b *bench) revisions(epoch uint64) map[string]uint64 {
	b.t.Helper()
	at := map[string]uint64{}
	bad := func(key string, err error) { b.t.Error(key, err) }
	docs, err1 := b.store.Cursors.All(context.Background(), store.CallbackCursors.Everywhere(), bad)
	lanes, err2 := b.store.Lanes.All(context.Background(), store.CallbackCursors.Everywhere(), bad)
	marks, err3 := b.store.Watermarks.All(context.Background(), store.AllWatermarks, bad)
	if err := errors.Join(err1, err2, err3); err != nil {
		b.t.Fatal(err)
	}
	for _, e := range docs {
		if e.Value.Epoch == epoch {
			at["document "+e.Key] = e.Revision
		}
	}
	for _, e := range lanes {
		if e.Value.Epoch == epoch {
			at["lane "+e.Key] = e.Revision
		}
	}
	for _, e := range marks {
		if e.Value.Epoch == epoch {
			at["watermark "+e.Key] = e.Revision
		}
	}
	return at
}

// Nothing is started or stored while the lease is not valid, and nothing is forgotten.
func TestInvalidLeaseStartsNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	hang := make(chan struct{})
	r := newReceiver(t, func(relay.Event, int) int { <-hang; return 200 })
	cb := callback("bms", r.URL)
	b.register(cb)
	d := b.start(func(c *dispatcher.Config) { c.Grace = 2 * patience })
	for i := range 20 {
		b.publish("leeds", i)
	}
	until(t, "four are under way", func() bool { s, _ := d.Details("bms"); return s.InFlight == 4 })
	before, rev, err := b.store.Cursors.Get(context.Background(), store.CallbackCursor("bms"))
	if err != nil {
		t.Fatal(err)
	}
	d.lease("bms").Expire()
	close(hang)
	until(t, "they end", func() bool { s, _ := d.Details("bms"); return s.InFlight == 0 })
	<-time.After(3 * 200 * time.Millisecond) // three rounds of the flusher
	if doc, now, err := b.store.Cursors.Get(context.Background(), store.CallbackCursor("bms")); err != nil ||
		now != rev {
		t.Errorf("the document was %+v and is %+v, %v", before, doc, err)
	}
	if n := len(r.events()); n != 4 {
		t.Errorf("%d were started", n-4)
	}
	if _, _, err := d.Retry("bms", cb.Generation, 20, order(1)); !errors.Is(err, dispatcher.ErrUnknown) {
		t.Errorf("a retry answered %v", err)
	}
	if _, err := d.Skip(context.Background(), "bms", cb.Generation, 20); !errors.Is(err, dispatcher.ErrUnknown) {
		t.Errorf("a skip answered %v", err)
	}
	d.lease("bms").Renew(time.Hour)
	until(t, "all arrive", func() bool { return r.distinct() == 20 })
	until(t, "all are closed", func() bool { return len(b.closings("bms", cb.Generation)) == 20 })
	if n := len(r.events()); n != 20 {
		t.Errorf("%d requests for 20 events", n)
	}

	d.lease("bms").Expire()
	began := time.Now()
	d.give(relay.ShardOf("bms"))
	if took := time.Since(began); took > patience {
		t.Errorf("an idle shard took %v to give up", took)
	}
}
