package dispatcher_test

import (
	"context"
	"errors"
	"testing"

	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// An event in the log becomes a signed callback, its attempt is recorded, and a restart repeats nothing.
func TestEventReachesCallback(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, nil)
	cb := callback("bms", r.URL)
	b.register(cb)
	d := b.start()
	for i := range 50 {
		b.publish("leeds", i%10)
	}
	until(t, "all arrive", func() bool { return r.distinct() == 50 })
	until(t, "all are recorded", func() bool { return len(b.closings("bms", cb.Generation)) == 50 })
	d.stop()
	r.inOrder(t)
	for seq, status := range b.closings("bms", cb.Generation) {
		if status != relay.DeliveryDelivered {
			t.Errorf("event at %d ended %s", seq, status)
		}
	}
	doc, _, err := b.store.Cursors.Get(context.Background(), store.CallbackCursor("bms"))
	if err != nil || doc.Position < 50 || len(doc.Done) != 0 {
		t.Fatalf("the cursor stands at %+v, %v", doc, err)
	}

	b.start()
	b.publish("leeds", 1)
	until(t, "the next arrives", func() bool { return r.distinct() == 51 })
	if n := len(r.events()); n != 51 {
		t.Errorf("%d requests for 51 events", n)
	}
}

// With the responses of many receivers failing at random, each order's events still come in order and every one comes.
func TestOrderPerOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := newReceiver(t, func(ev relay.Event, attempt int) int {
		n, _ := ev.SequenceNumber()
		if attempt <= int(n*7+uint64(ev.Subject[len(ev.Subject)-1]))%3 { // up to two failures, differing by event
			return 500
		}
		return 200
	})
	cb := callback("bms", r.URL)
	cb.Concurrency = 16
	b.register(cb)
	b.start()
	for i := range 600 {
		b.publish("leeds", i%40)
	}
	until(t, "all arrive", func() bool { return r.distinct() == 600 })
	r.inOrder(t)
}

func TestUnknownCallback(t *testing.T) {
	t.Parallel()
	d := newBench(t).start()
	if _, ok := d.Status("nobody"); ok {
		t.Error("a status of nobody")
	}
	if _, _, err := d.Retry("nobody", "", 1, order(1)); !errors.Is(err, dispatcher.ErrUnknown) {
		t.Errorf("retry returned %v", err)
	}
	if _, err := d.Skip(context.Background(), "nobody", "", 1); !errors.Is(err, dispatcher.ErrUnknown) {
		t.Errorf("skip answered %v", err)
	}
}
