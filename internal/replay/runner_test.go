package replay

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/store"
)

// While nothing may be taken, what is due does not have the runner look again and again.
func TestAHaltedReplayRests(t *testing.T) {
	t.Parallel()
	for name, halt := range map[string]func(w *runner){
		"paused":   func(w *runner) { w.sel.callback.Callback.Paused = true },
		"disabled": func(w *runner) { w.sel.callback.Callback.Disabled = &relay.Disabled{} },
		"orphaned": func(w *runner) { w.sel.callback.Orphaned = true },
		"records":  func(w *runner) { w.storing.records = make([]relay.AttemptRecord, recordsMost) },
	} {
		r := &Replayer{c: Config{Schedule: DefaultSchedule}}
		w := &runner{
			lease: shardtest.Fixed(0, 1), cur: cursor.New(r.policy(4)),
			sel: &selection{callback: &delivery.Target{}},
		}
		w.cur.Offer(cursor.Entry{Seq: 1, Order: "a"})
		if wait := time.Until(w.nextLook()); wait > 0 {
			t.Fatalf("what is due waits for %s", wait)
		}
		halt(w)
		if wait := time.Until(w.nextLook()); wait < time.Minute {
			t.Errorf("%s: it looks again in %s", name, wait)
		}
	}
}

// What waits to be sent again is due once a test has shown that the receiver responds.
func TestASuccessfulTestHurriesAReplay(t *testing.T) {
	t.Parallel()
	r := &Replayer{c: Config{Schedule: []time.Duration{time.Hour}}, working: map[*runner]struct{}{}}
	now := time.Now()
	waits := func(callback string) *runner {
		w := &runner{callback: callback, generation: "one", cur: cursor.New(r.policy(4)),
			changed: make(chan struct{}, 1)}
		w.cur.Offer(cursor.Entry{Seq: 1, Order: "a"})
		b, _ := w.cur.Take(now, 1)
		w.cur.Fail(b, now, cursor.Failure{Reason: "it fails"})
		r.working[w] = struct{}{}
		return w
	}
	bms, other := waits("bms"), waits("other")
	r.Answers("bms", "one")
	r.Answers("other", "two")
	for w, due := range map[*runner]bool{bms: true, other: false} {
		if woken := len(w.changed) == 1; woken != due {
			t.Errorf("%s was woken: %t", w.callback, woken)
		}
		w.hurry()
		if _, ok := w.cur.Take(time.Now(), 1); ok != due {
			t.Errorf("of %s something is due: %t", w.callback, ok)
		}
	}
}

// oneReplay is a store with one replay.
type oneReplay struct {
	reads atomic.Int32
	gone  atomic.Bool
}

func (o *oneReplay) Watch(context.Context, func(store.Entry[relay.Replay]), func(), func(string, error)) error {
	return nil
}

func (o *oneReplay) Current(_ context.Context, keys []string) []store.Present[relay.Replay] {
	o.reads.Add(1)
	var now store.Present[relay.Replay]
	now.Deleted, now.Key, now.Revision = o.gone.Load(), keys[0], 1
	now.Value = relay.Replay{ID: "again", Callback: "bms", State: relay.ReplayRunning}
	return []store.Present[relay.Replay]{now}
}

// A replay whose client is missing looks for it ever less often, and at once when something has changed. The log has
// once that it waits.
func TestAReplayWithoutItsClientRests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		there := &oneReplay{}
		r := &Replayer{c: Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, target: func(string) *delivery.Target {
			return nil
		}}
		r.follow(there)
		w := newRunner(r, shardtest.Fixed(0, 1), store.Entry[relay.Replay]{Key: "bms.again",
			Value: relay.Replay{Callback: "bms", State: relay.ReplayRunning}})
		ended := make(chan struct{})
		go func() { w.run(t.Context()); close(ended) }()
		<-time.After(time.Hour)
		synctest.Wait()
		reads := there.reads.Load()
		if logged := strings.Count(log.String(), "a replay waits"); reads > 150 || logged != 1 {
			t.Errorf("in an hour it has looked %d times, and logged that %d times", reads, logged)
		}
		w.wake()
		if synctest.Wait(); there.reads.Load() != reads+1 {
			t.Error("it has not looked although something has changed")
		}
		there.gone.Store(true)
		w.wake()
		select {
		case <-ended:
		case <-time.After(time.Second):
			t.Error("it waits although it was removed")
		}
	})
}
