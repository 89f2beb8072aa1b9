package dispatcher_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/relay"
)

// A receiver that hangs, one that is slow, one that refuses and one that is not there at all hold up nobody: the
// healthy one gets everything while the hanging one has not responded to a single request.
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
		return h.InFlight == 4 && h.Behind && h.Backlog > 0 && h.LagSeconds > 0 && r.Health == "open" &&
			g.Health == "open" && l.Behind
	})
}

// However events and responses interleave, a callback that falls behind and joins again misses nothing and repeats
// nothing.
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
