package dispatcher_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/relay"
)

// lines is a log that tests look into.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// with returns the lines that hold every one of the texts.
func (l *lines) with(texts ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for line := range strings.Lines(l.b.String()) {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

// Who is called at night finds in the log since when a receiver fails and why: once, not for each attempt.
func TestAFailingReceiverIsLoggedOnce(t *testing.T) {
	t.Parallel()
	b, out := newBench(t), &lines{}
	r := newReceiver(t, func(relay.Event, int) int { return 503 })
	b.register(callback("bms", r.URL))
	d := b.start(func(c *dispatcher.Config) { c.Log = slog.New(slog.NewTextHandler(out, nil)) })
	for i := range 300 {
		b.publish("leeds", i%30)
	}
	until(t, "it is open and probed several times", func() bool {
		s, _ := d.Status("bms")
		r.mu.Lock()
		defer r.mu.Unlock()
		tries := 0
		for _, n := range r.tries {
			tries += n
		}
		return s.Health == "open" && tries > 30
	})
	if opened := out.with("is probed until it answers", "callback=bms", "answered 503"); len(opened) != 1 {
		t.Errorf("logged %d times: %q", len(opened), opened)
	}
	if all := out.with("level=WARN"); len(all) > 3 {
		t.Errorf("%d warnings of one receiver: %q", len(all), all)
	}
}

func TestADeliveryThatFailedForGoodIsLoggedOnceForItsOrder(t *testing.T) {
	t.Parallel()
	b, out := newBench(t), &lines{}
	r := newReceiver(t, func(relay.Event, int) int { return 422 })
	cb := callback("bms", r.URL)
	b.register(cb)
	b.start(func(c *dispatcher.Config) {
		c.Log = slog.New(slog.NewTextHandler(out, nil))
		c.Schedule = []time.Duration{time.Millisecond, time.Millisecond}
	})
	for range 5 {
		b.publish("leeds", 1)
	}
	until(t, "all have ended", func() bool { return len(b.closings("bms", cb.Generation)) == 5 })
	if failed := out.with("failed for good", "callback=bms", "site=leeds", "order="+order(1),
		"answered 422"); len(failed) != 1 {
		t.Errorf("logged %d times: %q", len(failed), failed)
	}
	if again := out.with("has failed again", "next_attempt="); len(again) != 1 {
		t.Errorf("retries logged %d times: %q", len(again), again)
	}
}

// A callback that has never read anything, as it was paused from the start, shows what waits for it.
func TestBacklogOfACallbackThatWasNeverRead(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), newReceiver(t, nil)
	cb := callback("bms", r.URL)
	cb.Paused, cb.Filter.Sites = true, []string{"leeds"}
	b.register(cb)
	for i := range 120 {
		b.publish([]string{"leeds", "york", "hull"}[i%3], i)
	}
	d := b.start()
	until(t, "its backlog is told", func() bool {
		s, ok := d.Status("bms")
		return ok && s.Backlog == 40 && s.LagSeconds > 0
	})
	b.change("bms", func(cb *relay.Callback) { cb.Paused = false })
	until(t, "all arrive", func() bool { s, _ := d.Status("bms"); return r.distinct() == 40 && s.Backlog == 0 })
}

// Probes follow the schedule of retries as long as that is the more impatient.
func TestProbesBeginWithTheSchedule(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var back sync.Map
	r := newReceiver(t, func(relay.Event, int) int {
		if _, ok := back.Load("up"); ok {
			return 200
		}
		return 500
	})
	b.register(callback("bms", r.URL))
	d := b.start(func(c *dispatcher.Config) {
		c.ProbeSchedule = nil
		c.Schedule = make([]time.Duration, 50)
		for i := range c.Schedule {
			c.Schedule[i] = 50 * time.Millisecond
		}
	})
	for i := range 20 {
		b.publish("leeds", i)
	}
	until(t, "the circuit is open", func() bool { s, _ := d.Status("bms"); return s.Health == "open" })
	back.Store("up", true)
	until(t, "all arrive, without a wait of minutes", func() bool { return r.distinct() == 20 })
}

// An order that a receiver refuses lists a hundred of its events; what waits behind them counts as well.
func TestBacklogOfALongLane(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var up atomic.Bool
	r := newReceiver(t, func(relay.Event, int) int {
		if up.Load() {
			return 200
		}
		return 422
	})
	b.register(callback("bms", r.URL))
	d := b.start(func(c *dispatcher.Config) { c.Schedule = []time.Duration{time.Hour} })
	for range 250 {
		b.publish("leeds", 1)
	}
	until(t, "all that waits is told", func() bool { s, _ := d.Status("bms"); return s.Backlog == 250 })
	up.Store(true)
	b.change("bms", func(cb *relay.Callback) { cb.Resumed++ })
	until(t, "all arrive", func() bool { s, _ := d.Status("bms"); return r.distinct() >= 250 && s.Backlog == 0 })
}
