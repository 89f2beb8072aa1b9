package dispatcher_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
)

type cursorDocument = cursor.Document

func TestGoneDisablesUntilResumed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var back atomic.Bool
	r := newReceiver(t, func(relay.Event, int) int {
		if back.Load() {
			return 200
		}
		return 410
	})
	cb := callback("bms", r.URL)
	b.register(cb)
	d := b.start()
	for i := range 10 {
		b.publish("leeds", i)
	}
	until(t, "it is disabled and told", func() bool {
		stored, _, err := b.store.Callbacks.Get(context.Background(), "bms")
		return err == nil && stored.Disabled != nil && stored.Disabled.Reason == "gone" &&
			len(b.told(relay.KindCallbackDisabled)) == 1
	})
	for i := range 200 {
		b.publish("leeds", i)
	}
	d.stop()
	b.start()
	if n := r.distinct(); n != 0 {
		t.Fatalf("%d were taken", n)
	}
	back.Store(true)
	b.change("bms", func(cb *relay.Callback) { cb.Disabled = nil; cb.Resumed++ })
	until(t, "all arrive after resuming", func() bool { return r.distinct() == 210 })
	r.inOrder(t)
	if n := len(b.told(relay.KindCallbackDisabled)); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// What is answered where a callback was before it was moved neither disables nor fails it.
func TestAnswersFromBeforeAMoveDoNotEndIt(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	before := newReceiver(t, func(relay.Event, int) int { arrived <- struct{}{}; <-release; return 410 })
	after := newReceiver(t, nil)
	cb := callback("bms", before.URL)
	cb.Concurrency = 3
	b.register(cb)
	b.start()
	b.publish("leeds", 1)
	b.publish("leeds", 2)
	<-arrived
	<-arrived
	b.change("bms", func(cb *relay.Callback) { cb.SetURL(after.URL); cb.Resumed++ })
	n := 0
	until(t, "it is moved", func() bool {
		if after.distinct() > 0 {
			return true
		}
		n++
		b.publish("leeds", 2+n)
		return false
	})
	close(release)
	until(t, "all arrive where it is now", func() bool { return after.distinct() >= 3 })
	if stored, _, err := b.store.Callbacks.Get(context.Background(), "bms"); err != nil || stored.Disabled != nil {
		t.Errorf("it is %+v, %v", stored.Disabled, err)
	}
}

func TestCircuitOpensAndRecovers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var back atomic.Bool
	r := newReceiver(t, func(relay.Event, int) int {
		if back.Load() {
			return 200
		}
		return 500
	})
	cb := callback("bms", r.URL)
	b.register(cb)
	d := b.start(func(c *dispatcher.Config) {
		c.Schedule = []time.Duration{time.Hour}
		c.ProbeSchedule = []time.Duration{10 * time.Millisecond}
	})
	for i := range 300 {
		b.publish("leeds", i%30)
	}
	until(t, "the circuit is open", func() bool {
		s, _ := d.Details("bms")
		return s.Health == "open" && s.InFlight == 0 && s.Lanes > 0 && s.Backlog > 0
	})
	s, _ := d.Details("bms")
	if s.FailingSince.IsZero() || s.Lanes > 30 {
		t.Errorf("status %+v", s)
	}
	back.Store(true)
	until(t, "all arrive, without a wait of an hour", func() bool { return r.distinct() == 300 })
	until(t, "the recovery is told", func() bool { return len(b.told(relay.KindCallbackRecovered)) == 1 })
	r.inOrder(t)
	until(t, "no lane is left in the store", func() bool {
		lanes, err := b.store.Lanes.All(context.Background(), "", func(string, error) {})
		return err == nil && len(lanes) == 0
	})
}

func TestFailingTooLongDisables(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := newReceiver(t, func(relay.Event, int) int { return 500 })
	b.register(callback("bms", r.URL))
	b.start(func(c *dispatcher.Config) { c.DisableAfter = 50 * time.Millisecond })
	for i := range 10 {
		b.publish("leeds", i)
	}
	until(t, "it is disabled", func() bool {
		stored, _, err := b.store.Callbacks.Get(context.Background(), "bms")
		return err == nil && stored.Disabled != nil && stored.Disabled.Reason == "failing"
	})
}

// Time in which a callback is paused, or in which nothing waits for it, is no time of failing: it disables nobody.
func TestOnlyFailingDisables(t *testing.T) {
	t.Parallel()
	const tooLong, failing, retrying = time.Second, "audatex_relay_callback_failing_seconds",
		"audatex_relay_callback_retrying_orders"
	for name, quiet := range map[string]func(b *bench, d *running, reg *prometheus.Registry, cb relay.Callback,
		first uint64, passes func()){
		"paused": func(b *bench, d *running, reg *prometheus.Registry, cb relay.Callback, first uint64, passes func()) {
			b.change("bms", func(cb *relay.Callback) { cb.Paused = true })
			passes()
			b.change("bms", func(cb *relay.Callback) { cb.Paused = false })
			until(b.t, "it is not paused any more", func() bool { return gathered(b.t, reg, retrying, "bms") == 1 })
			if w, _, err := d.Retry("bms", cb.Generation, first, order(1)); w != relay.PositionDue || err != nil {
				b.t.Fatalf("retry: %v, %v", w, err)
			}
		},
		"nothing waits": func(b *bench, d *running, _ *prometheus.Registry, cb relay.Callback,
			first uint64, passes func()) {
			if w, err := d.Skip(context.Background(), "bms", cb.Generation, first); w != relay.PositionSkipped ||
				err != nil {
				b.t.Fatalf("skip: %v, %v", w, err)
			}
			passes()
			b.publish("leeds", 2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			var tries atomic.Int32
			cb := callback("bms", newReceiver(t, func(relay.Event, int) int { tries.Add(1); return 500 }).URL)
			b.register(cb)
			reg := prometheus.NewRegistry()
			d := b.start(func(c *dispatcher.Config) {
				c.Metrics, c.DisableAfter, c.Schedule = reg, tooLong, []time.Duration{time.Hour, time.Hour, time.Hour}
			})
			began := time.Now()
			first := b.publish("leeds", 1)
			until(t, "it fails", func() bool { return gathered(t, reg, failing, "bms") >= 0 })
			var passed time.Time
			quiet(b, d, reg, cb, first, func() {
				until(t, "it does not fail any more", func() bool {
					return gathered(t, reg, failing, "bms") < 0 && time.Since(began) > tooLong
				})
				passed = time.Now()
			})
			until(t, "it has failed again, and only since then", func() bool {
				seconds := gathered(t, reg, failing, "bms")
				return tries.Load() > 1 && seconds >= 0 && seconds <= time.Since(passed).Seconds()
			})
			if stored, _, err := b.store.Callbacks.Get(context.Background(), "bms"); err != nil ||
				stored.Disabled != nil {
				t.Errorf("it is %+v, %v", stored.Disabled, err)
			}
		})
	}
}

// After the last attempt a delivery has failed, and the order's next event gets its turn.
func TestExhausted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := newReceiver(t, func(ev relay.Event, _ int) int {
		if n, _ := ev.SequenceNumber(); n == 1 {
			return 500
		}
		return 200
	})
	cb := callback("bms", r.URL)
	b.register(cb)
	b.start(func(c *dispatcher.Config) { c.Schedule = []time.Duration{time.Millisecond, time.Millisecond} })
	first := b.publish("leeds", 1)
	second := b.publish("leeds", 1)
	until(t, "the second arrives", func() bool { return r.distinct() == 1 })
	until(t, "both are closed", func() bool { return len(b.closings("bms", cb.Generation)) == 2 })
	ends := b.closings("bms", cb.Generation)
	if ends[first] != relay.DeliveryFailed || ends[second] != relay.DeliveryDelivered {
		t.Errorf("they ended %v", ends)
	}
}

func TestPauseDeleteRecreate(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, nil)
	cb := callback("bms", r.URL)
	b.register(cb)
	d := b.start()
	b.publish("leeds", 1)
	until(t, "the first arrives", func() bool { return r.distinct() == 1 })
	b.change("bms", func(cb *relay.Callback) { cb.Paused = true })
	marker := newReceiver(t, nil) // once a later callback works, the change before it has been seen
	b.register(callback("marker", marker.URL))
	until(t, "the pause is seen", func() bool { return marker.distinct() == 1 })
	for i := range 100 {
		b.publish("leeds", i)
	}
	until(t, "the marker has all", func() bool { return marker.distinct() == 101 })
	if n := r.distinct(); n != 1 {
		t.Fatalf("%d arrived in the pause", n-1)
	}
	b.change("bms", func(cb *relay.Callback) { cb.Paused = false })
	until(t, "all arrive after the pause", func() bool { return r.distinct() == 101 })
	r.inOrder(t)

	if err := b.store.Callbacks.Delete(context.Background(), "bms", 0); err != nil {
		t.Fatal(err)
	}
	until(t, "its cursor is gone", func() bool {
		_, _, err := b.store.Cursors.Get(context.Background(), store.CallbackCursor("bms"))
		_, known := d.Status("bms")
		return errors.Is(err, store.ErrNotFound) && !known
	})
	b.publish("leeds", 1)

	anew := newReceiver(t, nil)
	b.register(callback("bms", anew.URL)) // from the beginning of the log, under a new generation
	until(t, "the new one gets everything", func() bool { return anew.distinct() == 102 })
	if n := len(r.events()); n != 101 {
		t.Errorf("the deleted one got %d events", n)
	}

	// Made again in one step: the watcher may never see the deletion.
	third := newReceiver(t, nil)
	b.register(callback("bms", third.URL))
	until(t, "so does the third", func() bool { return third.distinct() == 102 })
	third.inOrder(t)
}

// What waits is judged again when its turn comes: a changed filter, and a site taken from the client, hold for it.
func TestChangesHoldForWhatWaits(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(b *bench){
		"filter": func(b *bench) {
			b.change("bms", func(cb *relay.Callback) { cb.Filter.Sites = []string{"leeds"}; cb.Resumed++ })
		},
		"client": func(b *bench) {
			b.client(relay.Client{ID: "shop", Sites: []string{"leeds"}})
			b.change("bms", func(cb *relay.Callback) { cb.Resumed++ })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			var back atomic.Bool
			r := newReceiver(t, func(relay.Event, int) int {
				if back.Load() {
					return 200
				}
				return 500
			})
			cb := callback("bms", r.URL)
			b.register(cb)
			d := b.start(func(c *dispatcher.Config) {
				c.Schedule = []time.Duration{time.Hour}
				c.ProbeSchedule = []time.Duration{time.Hour}
			})
			for i := range 20 {
				b.publish("leeds", i)
				b.publish("york", 100+i)
			}
			// None in flight: one that is refused only after the change would wait for the schedule's hour.
			until(t, "the receiver is found failing", func() bool {
				s, _ := d.Details("bms")
				return s.Health == "open" && s.InFlight == 0
			})
			back.Store(true)
			change(b)
			until(t, "everything is closed", func() bool {
				return len(b.closings("bms", cb.Generation)) >= 20 && r.distinct() == 20
			})
			for _, ev := range r.events() {
				if ev.Site != "leeds" {
					t.Fatalf("an event of %s was delivered", ev.Site)
				}
			}
			skipped := 0
			for _, status := range b.closings("bms", cb.Generation) {
				if status == relay.DeliverySkipped {
					skipped++
				}
			}
			if skipped == 0 {
				t.Error("what had been waiting in lanes was not closed as skipped")
			}
		})
	}
}

// Events that leave the log before they could be delivered end as expired, and that is published.
func TestExpired(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var back atomic.Bool
	r := newReceiver(t, func(relay.Event, int) int {
		if back.Load() {
			return 200
		}
		return 500
	})
	cb := callback("bms", r.URL)
	b.register(cb)
	d := b.start(func(c *dispatcher.Config) {
		c.Schedule = []time.Duration{time.Hour}
		c.ProbeSchedule = []time.Duration{time.Hour}
	})
	for i := range 100 {
		b.publish("leeds", i)
	}
	until(t, "the circuit is open", func() bool {
		s, _ := d.Details("bms")
		return s.Health == "open" && s.InFlight == 0 && s.Behind
	})
	js, err := jetstream.New(b.conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), b.topo.Events())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(91)); err != nil {
		t.Fatal(err)
	}
	back.Store(true)
	b.change("bms", func(cb *relay.Callback) { cb.Resumed++ })
	until(t, "what is left arrives", func() bool { return r.distinct() >= 10 })
	until(t, "the loss is told", func() bool { return len(b.told(relay.KindDeliveriesExpired)) > 0 })
	until(t, "what was known to wait is closed", func() bool {
		expired := 0
		for seq, status := range b.closings("bms", cb.Generation) {
			if status == relay.DeliveryExpired && seq <= 90 {
				expired++
			}
		}
		return expired >= 5
	})
	if s, _ := d.Status("bms"); s.Expired < 5 {
		t.Errorf("its status counts %d deliveries that have expired", s.Expired)
	}
}

// What leaves the log while a callback is paused is counted and reported then, once, and does not wait any more.
func TestExpiredWhilePaused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := newReceiver(t, nil)
	cb := callback("bms", r.URL)
	cb.Paused = true
	b.register(cb)
	d := b.start(func(c *dispatcher.Config) { c.ExpireEvery = 20 * time.Millisecond })
	for i := range 100 {
		b.publish("leeds", i)
	}
	until(t, "all wait", func() bool { s, _ := d.Status("bms"); return s.Backlog == 100 })
	js, err := jetstream.New(b.conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), b.topo.Events())
	if err != nil {
		t.Fatal(err)
	}
	for _, first := range []uint64{51, 91} {
		if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(first)); err != nil {
			t.Fatal(err)
		}
		until(t, "they are counted", func() bool {
			s, _ := d.Status("bms")
			return s.Expired == int(first)-1 && s.Backlog == 101-int(first)
		})
	}
	until(t, "it is told", func() bool { return len(b.told(relay.KindDeliveriesExpired)) > 0 })
	b.change("bms", func(cb *relay.Callback) { cb.Paused = false })
	until(t, "what is left arrives", func() bool { return r.distinct() == 10 })
	if s, _ := d.Status("bms"); s.Expired != 90 {
		t.Errorf("%d have expired", s.Expired)
	}
}

// In mode latest only the newest of an order's waiting events is sent; the others end skipped.
func TestModeLatest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	release := make(chan struct{})
	var first atomic.Bool
	r := newReceiver(t, func(relay.Event, int) int {
		if first.CompareAndSwap(false, true) {
			<-release
		}
		return 200
	})
	cb := callback("bms", r.URL)
	cb.Mode, cb.Concurrency = relay.ModeLatest, 1
	b.register(cb)
	d := b.start()
	for range 10 {
		b.publish("leeds", 1)
	}
	until(t, "all wait", func() bool { s, _ := d.Status("bms"); return s.Backlog == 10 })
	close(release)
	until(t, "all are closed", func() bool { return len(b.closings("bms", cb.Generation)) == 10 })
	got := r.events()
	if len(got) != 2 || got[1].Sequence != "10" {
		t.Errorf("%d were sent, the last %s", len(got), got[len(got)-1].Sequence)
	}
	for seq, status := range b.closings("bms", cb.Generation) {
		want := relay.DeliverySkipped
		if seq == 1 || seq == 10 {
			want = relay.DeliveryDelivered
		}
		if status != want {
			t.Errorf("event at %d ended %s", seq, status)
		}
	}
}

func TestOperatorsHand(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var well atomic.Bool
	var refused atomic.Int32
	r := newReceiver(t, func(ev relay.Event, _ int) int {
		if n, _ := ev.SequenceNumber(); n == 1 && !well.Load() {
			refused.Add(1)
			return 500
		}
		return 200
	})
	cb := callback("bms", r.URL)
	b.register(cb)
	d := b.start(func(c *dispatcher.Config) { c.Schedule = []time.Duration{time.Hour, time.Hour} })
	first, second := b.publish("leeds", 1), b.publish("leeds", 1)
	until(t, "it is being retried", func() bool {
		v, ok := d.Delivery("bms", first, order(1))
		return ok && v.Status == relay.DeliveryRetrying && v.Attempts == 1 && !v.NextAttempt.IsZero() && v.Reason != ""
	})
	if v, _ := d.Delivery("bms", second, order(1)); v.Status != relay.DeliveryPending {
		t.Errorf("the second stands at %+v", v)
	}
	if w, earlier, err := d.Retry("bms", cb.Generation, second, order(1)); w != relay.PositionEarlier ||
		earlier != first || err != nil {
		t.Fatalf("a retry of the second: %v, %d, %v", w, earlier, err)
	}
	if w, _, err := d.Retry("bms", cb.Generation, first, order(1)); w != relay.PositionDue || err != nil {
		t.Fatalf("a retry of what waits: %v, %v", w, err)
	}
	until(t, "it was tried again, which is not counted", func() bool {
		v, _ := d.Delivery("bms", first, order(1))
		return refused.Load() == 2 && !v.UnderWay && v.Attempts == 1
	})
	if w, err := d.Skip(context.Background(), "bms", cb.Generation, first); w != relay.PositionSkipped || err != nil {
		t.Fatalf("skip: %v, %v", w, err)
	}
	if w, _, err := d.Retry("bms", cb.Generation, first, order(1)); w != relay.PositionEnded || err != nil {
		t.Fatalf("a retry of what has ended: %v, %v", w, err)
	}
	until(t, "the second arrives", func() bool { return r.distinct() == 1 })
	if v, ok := d.Delivery("bms", first, order(1)); !ok || v.Status != "" {
		t.Errorf("the skipped one stands at %+v", v)
	}
	until(t, "both are closed", func() bool {
		ends := b.closings("bms", cb.Generation)
		return ends[first] == relay.DeliverySkipped && ends[second] == relay.DeliveryDelivered
	})

	well.Store(true)
	ev, err := b.store.Events.Get(context.Background(), first)
	if err != nil {
		t.Fatal(err)
	}
	a, err := d.deliverer.Test(context.Background(), cb, ev.Body, "leeds-"+order(1)+"-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.Outcome != sender.Success {
		t.Errorf("the test answered %+v", a)
	}
	if n := len(b.closings("bms", cb.Generation)); n != 2 {
		t.Errorf("the test left a record: %d", n)
	}
}
