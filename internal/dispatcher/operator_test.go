package dispatcher_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// An event of a batch of mode latest that an operator skips while the batch is under way ends once, whichever it is.
func TestASkipInABatchUnderWayEndsItOnce(t *testing.T) {
	t.Parallel()
	for name, skipped := range map[string]int{"an older one": 2, "the one that is sent": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			arrived, release := make(chan struct{}), make(chan struct{})
			free := sync.OnceFunc(func() { close(release) })
			defer free()
			r := newReceiver(t, func(relay.Event, int) int {
				arrived <- struct{}{}
				<-release
				return 200
			})
			cb := callback("bms", r.URL)
			cb.Mode, cb.Concurrency = relay.ModeLatest, 1
			b.register(cb)
			d := b.start()
			events := []uint64{b.publish("leeds", 1)}
			<-arrived
			events = append(events, b.publish("leeds", 1), b.publish("leeds", 1), b.publish("leeds", 1))
			until(t, "all wait", func() bool { s, _ := d.Status("bms"); return s.Backlog == 4 })
			release <- struct{}{}
			<-arrived // the newest of the other three
			if w, err := d.Skip(context.Background(), "bms", cb.Generation,
				events[skipped]); w != relay.PositionSkipped || err != nil {
				t.Fatalf("skip: %v, %v", w, err)
			}
			free()
			ends := func() map[uint64][]relay.DeliveryStatus { return b.allClosings("bms", cb.Generation) }
			until(t, "all have ended", func() bool { return len(ends()) == 4 })
			last := b.publish("leeds", 1) // recorded after all of them
			<-arrived
			until(t, "the last has ended", func() bool { return len(ends()[last]) > 0 })
			for i, seq := range events {
				want := relay.DeliverySkipped
				if i == 0 || i == 3 && skipped != 3 {
					want = relay.DeliveryDelivered
				}
				if got := ends()[seq]; len(got) != 1 || got[0] != want {
					t.Errorf("event %d of the order ended %v", i+1, got)
				}
			}
		})
	}
}

// An attempt that ends after its delivery was skipped is recorded as late, also if its 410 disables the callback. One
// whose delivery waits for the callback to be resumed is not.
func TestAnAttemptThatOutlastsItsDelivery(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	r := newReceiver(t, func(relay.Event, int) int { arrived <- struct{}{}; <-release; return 410 })
	cb := callback("bms", r.URL)
	b.register(cb)
	d := b.start()
	skipped, waits := b.publish("leeds", 1), b.publish("leeds", 2)
	<-arrived
	<-arrived
	if w, err := d.Skip(context.Background(), "bms", cb.Generation, skipped); w != relay.PositionSkipped || err != nil {
		t.Fatalf("skip: %v, %v", w, err)
	}
	free()
	late := map[uint64]bool{}
	until(t, "both attempts are recorded", func() bool {
		note := func(_ uint64, _ time.Time, batch relay.AttemptBatch) bool {
			for _, rec := range batch.Records {
				if rec.Status == http.StatusGone {
					late[rec.Seq] = rec.Late
				}
			}
			return true
		}
		return b.store.Attempts.Walk(context.Background(), "bms", cb.Generation, 0, note) == nil && len(late) == 2
	})
	if !late[skipped] || late[waits] {
		t.Errorf("late are %v, the event at %d was skipped", late, skipped)
	}
}

// What a paused callback has not read yet can be neither skipped nor retried, and has not ended; what waits behind the
// first attempt of its order gets that as the reason.
func TestAnEventThatWasNotReachedHasNotEnded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	cb := callback("bms",
		newReceiver(t, func(relay.Event, int) int { arrived <- struct{}{}; <-release; return 200 }).URL)
	b.register(cb)
	d := b.start()
	first := b.publish("leeds", 1)
	<-arrived
	second := b.publish("leeds", 1)
	until(t, "both wait", func() bool { s, _ := d.Status("bms"); return s.Backlog == 2 })
	if w, earlier, err := d.Retry("bms", cb.Generation, second, order(1)); w != relay.PositionEarlier ||
		earlier != first || err != nil {
		t.Errorf("a retry behind the first attempt: %v, %d, %v", w, earlier, err)
	}
	if w, _, err := d.Retry("bms", cb.Generation, first, order(1)); w != relay.PositionDue || err != nil {
		t.Errorf("a retry of what is under way: %v, %v", w, err)
	}
	free()
	until(t, "both have ended", func() bool { return len(b.closings("bms", cb.Generation)) == 2 })
	b.change("bms", func(cb *relay.Callback) { cb.Paused = true })
	var last uint64
	until(t, "it is left unread", func() bool {
		last = b.publish("leeds", 2)
		v, known := d.Delivery("bms", last, order(2))
		s, _ := d.Details("bms")
		return known && v.Status == relay.DeliveryPending && s.Behind
	})
	if w, err := d.Skip(context.Background(), "bms", cb.Generation, last); w != relay.PositionUnread || err != nil {
		t.Errorf("a skip of what was not read: %v, %v", w, err)
	}
	if w, _, err := d.Retry("bms", cb.Generation, last, order(2)); w != relay.PositionUnread &&
		w != relay.PositionEarlier || err != nil {
		t.Errorf("a retry of what was not read: %v, %v", w, err)
	}
	if w, err := d.Skip(context.Background(), "bms", cb.Generation, first); w != relay.PositionEnded || err != nil {
		t.Errorf("a skip of what has ended: %v, %v", w, err)
	}
}

// allClosings returns how often and how the deliveries of a callback ended, by log position.
func (b *bench) allClosings(id, generation string) map[uint64][]relay.DeliveryStatus {
	b.t.Helper()
	ends := map[uint64][]relay.DeliveryStatus{}
	err := b.store.Attempts.Walk(context.Background(), id, generation, 0,
		func(_ uint64, _ time.Time, batch relay.AttemptBatch) bool {
			for _, r := range batch.Records {
				if r.Closing != "" {
					ends[r.Seq] = append(ends[r.Seq], r.Closing)
				}
			}
			return true
		})
	if err != nil {
		b.t.Fatal(err)
	}
	return ends
}

// A skip returns once it is stored: a crash after that does not bring the delivery back.
func TestASkipIsStoredWhenItReturns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var well atomic.Bool
	r := newReceiver(t, func(relay.Event, int) int { return map[bool]int{true: 200, false: 500}[well.Load()] })
	cb := callback("bms", r.URL)
	b.register(cb)
	d := b.start(func(c *dispatcher.Config) { c.Schedule = []time.Duration{time.Hour} })
	first := b.publish("leeds", 1)
	until(t, "it waits", func() bool { s, _ := d.Status("bms"); return s.Health == "failing" })
	release := d.gate.keep(func(store.Write) bool { return true })
	ctx, cancel := context.WithCancel(context.Background())
	unclear := make(chan error, 1)
	go func() {
		_, err := d.Skip(ctx, "bms", cb.Generation, first)
		unclear <- err
	}()
	until(t, "it is being stored", func() bool {
		v, known := d.Delivery("bms", first, order(1))
		return known && v.Status == "" && d.gate.keeps()
	})
	cancel()
	if err := <-unclear; !errors.Is(err, store.ErrUnclear) {
		t.Errorf("a skip that is not stored yet: %v", err)
	}
	release()
	second := b.publish("leeds", 2)
	until(t, "the second one waits", func() bool {
		v, _ := d.Delivery("bms", second, order(2))
		return v.Attempts == 1
	})
	if w, err := d.Skip(context.Background(), "bms", cb.Generation, second); w != relay.PositionSkipped || err != nil {
		t.Fatalf("skip: %v, %v", w, err)
	}
	d.crash()
	if ends := b.closings("bms", cb.Generation); ends[first] != relay.DeliverySkipped ||
		ends[second] != relay.DeliverySkipped {
		t.Errorf("they ended %v", ends)
	}
	well.Store(true)
	b.start()
	b.publish("leeds", 3)
	until(t, "the next one arrives", func() bool { return r.distinct() > 0 })
	if n := r.distinct(); n != 1 {
		t.Errorf("%d events arrived", n)
	}
}

// In mode latest the newest event of an order is what a retry sends, so it may be asked for; the older ones are due
// with it. Behind an attempt under way a retry names what is being sent.
func TestARetryInModeLatest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var well atomic.Bool
	arrived, release := make(chan string, 10), make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	cb := callback("bms", newReceiver(t, func(ev relay.Event, _ int) int {
		arrived <- ev.Sequence
		<-release
		return map[bool]int{true: 200, false: 500}[well.Load()]
	}).URL)
	cb.Mode = relay.ModeLatest
	b.register(cb)
	d := b.start(patient)
	oldest := b.publish("leeds", 1)
	<-arrived
	middle, newest := b.publish("leeds", 1), b.publish("leeds", 1)
	until(t, "all wait", func() bool { s, _ := d.Status("bms"); return s.Backlog == 3 })
	w, earlier, err := d.Retry("bms", cb.Generation, newest, order(1))
	if w != relay.PositionEarlier || earlier != oldest || err != nil {
		t.Errorf("a retry behind the first attempt: %v, %d, %v", w, earlier, err)
	}
	free()
	ended := func() bool { v, _ := d.Delivery("bms", oldest, order(1)); return v.Attempts != 0 && !v.UnderWay }
	until(t, "the first has failed", ended)
	for _, seq := range []uint64{oldest, middle, newest} {
		well.Store(seq == newest)
		if w, earlier, err := d.Retry("bms", cb.Generation, seq, order(1)); w != relay.PositionDue || err != nil {
			t.Fatalf("a retry of the event at %d of three: %v, %d, %v", seq, w, earlier, err)
		}
		if sent := <-arrived; sent != "3" {
			t.Errorf("a retry of the event at %d sent %s", seq, sent)
		}
		if seq != newest {
			until(t, "the attempt has ended", ended)
		}
	}
	until(t, "all have ended", func() bool { return len(b.closings("bms", cb.Generation)) == 3 })
	ends := b.closings("bms", cb.Generation)
	if ends[newest] != relay.DeliveryDelivered || ends[middle] != relay.DeliverySkipped {
		t.Errorf("they ended %v", ends)
	}
}
