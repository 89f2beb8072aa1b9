package dispatcher_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// A receiver that hangs, one that is slow, one that refuses and one that is not there at all hold up nobody: the healthy one
// gets everything while the hanging one has not responded to a single request.
func TestBadReceiversHoldUpNobody(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	release := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(hanging.Close)
	t.Cleanup(func() { close(release) })
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	healthy := newReceiver(t, nil)
	refusing := newReceiver(t, func(relay.Event, int) int { return 503 })
	hangs := callback("hanging", hanging.URL)
	hangs.TimeoutSeconds = 60 // it hangs for as long as the test looks
	b.register(hangs)
	b.register(callback("gone", gone.URL))
	b.register(callback("refusing", refusing.URL))
	b.register(callback("healthy", healthy.URL))
	limited := callback("limited", healthy.URL+"/limited")
	limited.RatePerSecond = 0.001
	b.register(limited)
	d := b.start(func(c *dispatcher.Config) { c.Ring = 64 })
	for i := range 1000 {
		b.publish("leeds", i%100)
	}
	until(t, "everything reaches the healthy one", func() bool { return healthy.distinct() == 1000 })
	healthy.inOrder(t)
	until(t, "the others are behind or failing", func() bool {
		h, _ := d.Details("hanging")
		r, _ := d.Status("refusing")
		g, _ := d.Status("gone")
		l, _ := d.Details("limited")
		return h.InFlight == 4 && h.Behind && h.Backlog > 0 && h.LagSeconds > 0 && r.Health == "open" && g.Health == "open" && l.Behind
	})
}

// While nothing of a shard can be stored and its receiver hangs, with room for few events at hand, its callback still reports how it is doing,
// and those of other shards get everything.
func TestHeldWritesAndHangingReceiversHoldUpNobody(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	answered := make(chan struct{})
	hanging := newReceiver(t, func(relay.Event, int) int { <-answered; return 200 })
	stored, healthy := newReceiver(t, nil), newReceiver(t, nil)
	hangs, writes, well := callback("hangs", hanging.URL), callback("writes", stored.URL), callback("well", healthy.URL)
	hangs.TimeoutSeconds = 60
	for i := 0; relay.ShardOf(writes.ID) != relay.ShardOf(hangs.ID); i++ {
		writes.ID = fmt.Sprintf("writes-%d", i)
	}
	for i := 0; relay.ShardOf(well.ID) == relay.ShardOf(hangs.ID); i++ {
		well.ID = fmt.Sprintf("well-%d", i)
	}
	for _, cb := range []relay.Callback{hangs, writes, well} {
		b.register(cb)
	}
	d := b.start(func(c *dispatcher.Config) { c.Ring = 64 })
	release := d.gate.keep(func(w store.Write) bool {
		return strings.Contains(w.Subject, hangs.ID) || strings.Contains(w.Subject, writes.ID) || strings.HasSuffix(w.Subject, store.WatermarkKey(relay.ShardOf(hangs.ID), "events"))
	})
	defer release()
	for i := range 1000 {
		b.publish("leeds", i%100)
	}
	until(t, "everything reaches the one in another shard", func() bool { return healthy.distinct() == 1000 })
	until(t, "it is stored", func() bool { return len(b.closings(well.ID, well.Generation)) == 1000 })
	until(t, "the others stand still and say so", func() bool {
		h, known := d.Details(hangs.ID)
		w, alsoKnown := d.Details(writes.ID)
		return known && alsoKnown && h.InFlight == 4 && h.Behind && h.Backlog > 0 && w.InFlight == 0 && w.Behind && w.Backlog > 0
	})
	if n, most := stored.distinct(), 2*(4*4+32)+4; n > most {
		t.Errorf("%d were delivered while nothing could be stored, at most %d may be", n, most)
	}
	release()
	until(t, "everything reaches the one whose writes were held", func() bool { return stored.distinct() == 1000 })
	if hanging.distinct() != 0 {
		t.Error("a receiver that hangs has taken something")
	}
	close(answered)
	until(t, "everything reaches the one that hung", func() bool { return hanging.distinct() == 1000 })
	for _, r := range []*receiver{hanging, stored, healthy} {
		r.inOrder(t)
	}
}

// However events and responses interleave, a callback that falls behind and joins again misses nothing and repeats nothing.
func TestBehindAndBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		// A token lets one request be answered; none are there while the receiver hangs.
		tokens := make(chan struct{}, 100_000)
		r := newReceiver(t, func(relay.Event, int) int {
			<-tokens
			return 200
		})
		defer r.Close()
		defer close(tokens) // whatever still hangs by then
		site := "site-" + order(run)[24:]
		cb := callback("cb-"+order(run)[24:], r.URL)
		cb.Filter.Sites = []string{site}
		cb.TimeoutSeconds = 60 // one that ran out would be a repeat
		cb.Concurrency = rapid.IntRange(1, 4).Draw(rt, "concurrency")
		_, cb.StartSeq, _ = b.store.Events.Bounds(t.Context())
		b.register(cb)
		start := func() *running {
			d := b.join(func(c *dispatcher.Config) { c.Ring = 8 })
			d.take(relay.ShardOf(cb.ID))
			d.ready()
			return d
		}
		d := start()
		defer func() { d.stop() }()
		published, granted := 0, 0
		for _, step := range rapid.SliceOfN(rapid.IntRange(0, 5), 1, 12).Draw(rt, "steps") {
			switch step {
			case 0, 1, 2: // a burst beyond the window and the ring, or a few
				for range []int{90, 5, 30}[step] {
					b.publish(site, published%7)
					b.publish("elsewhere", 1)
					published++
				}
			case 3, 4: // the receiver works some off
				n := min([]int{3, 40}[step-3], published-granted)
				for range n {
					tokens <- struct{}{}
				}
				granted += n
				until(t, "what was let through arrives", func() bool { return len(r.events()) == granted })
			case 5: // a graceful restart breaks off what hangs, which is sent again
				for ; granted < published; granted++ {
					tokens <- struct{}{}
				}
				until(t, "all arrive before the restart", func() bool { return r.distinct() == published })
				d.stop()
				d = start()
			}
		}
		for ; granted < published; granted++ {
			tokens <- struct{}{}
		}
		until(t, "all arrive", func() bool { return r.distinct() == published })
		until(t, "it has joined again", func() bool { s, _ := d.Details(cb.ID); return !s.Behind && s.Backlog == 0 })
		b.publish(site, 0)
		tokens <- struct{}{}
		until(t, "one more arrives", func() bool { return r.distinct() == published+1 })
		r.inOrder(t)
		if n := len(r.events()); n != published+1 {
			t.Fatalf("%d requests for %d events", n, published+1)
		}
	})
}

// A rate limit is kept, and does not keep events from coming.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, nil)
	cb := callback("bms", r.URL)
	cb.RatePerSecond = 100
	b.register(cb)
	b.start()
	begin := time.Now()
	for i := range 60 {
		b.publish("leeds", i)
	}
	until(t, "all arrive", func() bool { return r.distinct() == 60 })
	if took := time.Since(begin); took < 450*time.Millisecond { // 60 less a burst of 5, at 100 a second: 550 ms
		t.Errorf("60 events at 100 a second took only %v", took)
	}
}
