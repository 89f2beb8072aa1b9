package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// heldWrites is a dispatcher of which one shard's writes are held. In this shard there are hung, whose receiver hangs,
// and held, whose receiver is well; in another one stuck, whose receiver hangs, and well.
type heldWrites struct {
	*bench
	*running
	reg                     *prometheus.Registry
	hung, held, stuck, well string
	callbacks               map[string]relay.Callback
	receivers               map[string]*receiver
	answerAll               func() // of the receivers that hang
	published               int
	last                    uint64 // the position of the last event
}

func newHeldWrites(t *testing.T) *heldWrites {
	w := &heldWrites{
		bench: newBench(t), reg: prometheus.NewRegistry(),
		callbacks: map[string]relay.Callback{}, receivers: map[string]*receiver{},
	}
	release := make(chan struct{})
	hangs := func(relay.Event, int) int { <-release; return 200 }
	w.answerAll = sync.OnceFunc(func() { close(release) })
	w.hung = w.add("hung", hangs, func(int) bool { return true })
	w.held = w.add("held", nil, func(shard int) bool { return shard == relay.ShardOf(w.hung) })
	w.stuck = w.add("stuck", hangs, func(shard int) bool { return shard != relay.ShardOf(w.hung) })
	w.well = w.add("well", nil, func(shard int) bool { return shard == relay.ShardOf(w.stuck) })
	t.Cleanup(w.answerAll) // before the receivers are closed, which waits for their responses
	w.running = w.start(func(c *dispatcher.Config) { c.Ring, c.Metrics = 64, w.reg })
	return w
}

// add registers a callback in one of some shards, and returns its id.
func (w *heldWrites) add(name string, answer func(relay.Event, int) int, in func(shard int) bool) (id string) {
	id = name
	for i := 0; !in(relay.ShardOf(id)); i++ {
		id = fmt.Sprintf("%s-%d", name, i)
	}
	w.receivers[id] = newReceiver(w.t, answer)
	cb := callback(id, w.receivers[id].URL)
	cb.TimeoutSeconds = 300 // longer than the test looks
	w.register(cb)
	w.callbacks[id] = cb
	return id
}

// publishMany appends events of a hundred orders to the log.
func (w *heldWrites) publishMany(events int) {
	for range events {
		w.last = w.publish("leeds", w.published%100)
		w.published++
	}
}

func (w *heldWrites) document(id string) cursor.Document {
	w.t.Helper()
	doc, _, err := w.store.Cursors.Get(context.Background(), store.CallbackCursor(id))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		w.t.Fatal(err)
	}
	return doc
}

// report returns how a callback is doing. That must be known at any time: the test fails if nothing is returned.
func (w *heldWrites) report(id string) dispatcher.Details {
	w.t.Helper()
	answer := make(chan dispatcher.Details)
	go func() {
		defer close(answer)
		_, known := w.Status(id)
		if v, also := w.Details(id); known && also {
			answer <- v
		}
	}()
	select {
	case v, known := <-answer:
		if !known {
			w.t.Fatalf("%s is unknown", id)
		}
		return v
	case <-time.After(patience):
		w.t.Fatalf("how %s is doing is not reported", id)
		return dispatcher.Details{}
	}
}

// wrong returns what those report that stand still, unless that is right: events have waited for the ones whose
// receivers hang for so long, and none is sent to the one for which nothing can be stored.
func (w *heldWrites) wrong(since time.Duration) (reports string) {
	w.t.Helper()
	for id, underWay := range map[string]int{w.hung: 4, w.stuck: 4, w.held: 0} {
		v := w.report(id)
		if v.InFlight != underWay || !v.Behind || v.Backlog == 0 || underWay > 0 && v.LagSeconds < since.Seconds() {
			reports += fmt.Sprintf("\n%s: %+v", id, v)
		}
	}
	return reports
}

// awaitEverythingOnce waits until every receiver has got everything.
func (w *heldWrites) awaitEverythingOnce() {
	w.t.Helper()
	for id, r := range w.receivers {
		until(w.t, id+" gets everything", func() bool { return r.distinct() == w.published })
		if r.inOrder(w.t); len(r.events()) != w.published {
			w.t.Errorf("%s has got %d events in %d requests", id, w.published, len(r.events()))
		}
	}
}

// awaitStored waits until every delivery is recorded and every position is stored.
func (w *heldWrites) awaitStored() {
	w.t.Helper()
	for id, cb := range w.callbacks {
		until(w.t, "the deliveries of "+id+" are recorded", func() bool {
			return len(w.closings(id, cb.Generation)) == w.published
		})
		for seq, ends := range w.allClosings(id, cb.Generation) {
			if len(ends) != 1 || ends[0] != relay.DeliveryDelivered {
				w.t.Errorf("event %d of %s has ended %v", seq, id, ends)
			}
		}
		mark := store.WatermarkKey(relay.ShardOf(id), "events")
		until(w.t, "the position of "+id+" is stored", func() bool {
			doc := w.document(id)
			covers, _, err := w.store.Watermarks.Get(context.Background(), mark)
			return err == nil && (doc.Position >= w.last || !doc.Behind && covers.Position >= w.last)
		})
	}
}

// For ten seconds nothing of a shard is stored while receivers hang, with room for few events at hand. All that time
// every callback reports how it is doing, another shard's gets everything and has it stored, and what is sent for the
// shard whose writes are held ends before too much of it is unstored. After that everything arrives in order and is
// stored, once: a crash repeats nothing of it.
func TestHeldWritesAndHangingReceiversHoldUpNobody(t *testing.T) {
	t.Parallel()
	const hold, between = 10 * time.Second, 500 * time.Millisecond
	w := newHeldWrites(t)
	before := map[string]cursor.Document{}
	for id := range w.callbacks {
		until(t, id+" is stored as one that keeps up", func() bool {
			before[id] = w.document(id)
			return before[id].Epoch > 0 && !before[id].Behind
		})
	}
	mark := store.WatermarkKey(relay.ShardOf(w.hung), "events")
	release := w.running.gate.keep(func(write store.Write) bool {
		s := write.Subject
		return strings.Contains(s, w.hung) || strings.Contains(s, w.held) || strings.HasSuffix(s, mark)
	})
	defer release()

	w.publishMany(1000)
	until(t, "a write is held", w.running.gate.keeps)
	began := time.Now()
	until(t, "the others stand still and report it", func() bool { return w.wrong(0) == "" })
	tick := time.NewTicker(between)
	defer tick.Stop()
	for time.Since(began) < hold {
		<-tick.C
		since := time.Since(began)
		w.publishMany(10)
		until(t, "everything arrives in another shard", func() bool {
			return w.receivers[w.well].distinct() == w.published
		})
		until(t, "it is stored there", func() bool {
			return w.closings(w.well, w.callbacks[w.well].Generation)[w.last] == relay.DeliveryDelivered
		})
		until(t, "nothing waits there", func() bool {
			v := w.report(w.well)
			return v.Backlog == 0 && v.LagSeconds == 0 && !v.Behind
		})
		if reports := w.wrong(since); reports != "" {
			t.Errorf("after %s they report %s", since, reports)
		}
		for id := range w.callbacks {
			if n := gathered(t, w.reg, "audatex_relay_callback_backlog", id); n < 0 || (n > 0) != (id != w.well) {
				t.Errorf("after %s the metrics show %v events that wait for %s", since, n, id)
			}
		}
	}
	if !w.running.gate.keeps() {
		t.Error("no write is held any more")
	}
	for _, id := range []string{w.hung, w.held} {
		n, doc := len(w.closings(id, w.callbacks[id].Generation)), w.document(id)
		if n > 0 || !reflect.DeepEqual(doc, before[id]) {
			t.Errorf("of %s %d ends were stored while writes were held, and %+v", id, n, doc)
		}
	}
	if n, most := w.receivers[w.held].distinct(), 2*(4*4+32)+4; n > most {
		t.Errorf("%d were delivered while nothing could be stored, at most %d may be", n, most)
	}

	release()
	until(t, "the one whose writes were held gets everything", func() bool {
		return w.receivers[w.held].distinct() == w.published
	})
	if n := w.receivers[w.hung].distinct() + w.receivers[w.stuck].distinct(); n > 0 {
		t.Errorf("receivers that hang have taken %d", n)
	}
	w.answerAll()
	w.awaitEverythingOnce()
	w.awaitStored()
	w.crash()
	w.start()
	w.publishMany(1)
	w.awaitEverythingOnce()
}
