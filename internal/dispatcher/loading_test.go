package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

var errRefused = errors.New("refused by the test")

// refuse has the store refuse the writes that match while on is set, and counts them.
func (g *gate) refuse(match func(subject string) bool) (on *atomic.Bool, refused *atomic.Int64) {
	on, refused = &atomic.Bool{}, &atomic.Int64{}
	on.Store(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.each = func(w store.Write) error {
		if on.Load() && match(w.Subject) {
			refused.Add(1)
			return errRefused
		}
		return nil
	}
	return on, refused
}

// A shard of which not all could be loaded is loaded again, but for what works already: nothing comes twice.
func TestALoadThatFailsInPartIsNotRepeatedForWhatWorks(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	good, bad := "good", "bad"
	for i := 0; relay.ShardOf(bad) != relay.ShardOf(good); i++ {
		bad = "bad" + strings.Repeat("-", i)
	}
	receivers := map[string]*receiver{good: newReceiver(t, nil), bad: newReceiver(t, nil)}
	for id, r := range receivers {
		b.register(callback(id, r.URL))
	}
	d := b.join()
	on, refused := d.gate.refuse(func(subject string) bool {
		return strings.Contains(subject, store.CallbackCursor(bad))
	})
	d.take(allShards()...)
	const events = 40
	until(t, "the rest has failed several times", func() bool { return refused.Load() >= 3 })
	for i := range events {
		b.publish("leeds", i%3)
	}
	until(t, "the one that was loaded gets its events", func() bool { return receivers[good].distinct() == events })
	on.Store(false)
	d.ready()
	for range events {
		b.publish("leeds", 1)
	}
	for id, r := range receivers {
		until(t, id+" gets everything", func() bool { return r.distinct() == 2*events })
		if r.inOrder(t); len(r.events()) != 2*events {
			t.Errorf("%s got %d events %d times", id, 2*events, len(r.events()))
		}
	}
}

// A replica is ready once its first shards have been loaded, however often that fails, and whether others are taken
// from it meanwhile.
func TestReadyWaitsForLoadsThatFail(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	stays, goes := "stays", "goes"
	for _, id := range []string{stays, goes} {
		b.register(callback(id, newReceiver(t, nil).URL))
	}
	d := b.join()
	on, refused := d.gate.refuse(func(subject string) bool { return strings.Contains(subject, ".events") })
	d.take(relay.ShardOf(stays), relay.ShardOf(goes))
	for n := range 2 {
		before := refused.Load()
		until(t, "loading fails", func() bool { return refused.Load() >= before+5 })
		select {
		case <-d.Ready():
			t.Fatalf("ready with nothing loaded, %d shards taken from it", n)
		default:
		}
		d.give(relay.ShardOf(goes))
	}
	on.Store(false)
	d.ready()
	until(t, "it delivers", func() bool { _, delivers := d.Status(stays); return delivers })
}

// A start with all shards asks the store for little more than one with a few: what they have is read at once, and of
// shards without callbacks nothing else is asked.
func TestAStartReadsAllShardsTogether(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const callbacks = 5
	for n := range callbacks {
		b.register(callback(fmt.Sprintf("bms-%d", n), newReceiver(t, nil).URL))
	}
	d := b.join()
	asked := natstest.Requests(t, b.conn)
	d.take(allShards()...)
	d.ready()
	all, listings := asked(""), asked("CONSUMER.CREATE.KV_relay_cursors.")
	t.Logf("%d requests, %d listings of the cursors", all, listings)
	if most := 200; listings == 0 || all > most {
		t.Errorf("the start took %d requests, with %d listings of the cursors; at most %d are right",
			all, listings, most)
	}
}

// A shard whose callbacks are written by somebody else all the time is loaded again and again, and the log has a line
// about it.
func TestCallbacksThatStayContestedAreLogged(t *testing.T) {
	t.Parallel()
	b, out := newBench(t), &lines{}
	b.register(callback("bms", newReceiver(t, nil).URL))
	d := b.join(func(c *dispatcher.Config) { c.Log = slog.New(slog.NewTextHandler(out, nil)) })
	key, former := store.CallbackCursor("bms"), cursor.New(cursor.Policy{}).Document()
	var contests atomic.Bool
	contests.Store(true)
	d.gate.mu.Lock()
	d.gate.each = func(w store.Write) error {
		if contests.Load() && strings.HasSuffix(w.Subject, key) {
			put(b, b.store.Cursors, key, func(d *cursor.Document) { *d = former })
		}
		return nil
	}
	d.gate.mu.Unlock()
	d.take(relay.ShardOf("bms"))
	until(t, "the log says so", func() bool {
		return len(out.with("level=WARN", "callbacks could not be loaded",
			"shard="+strconv.Itoa(relay.ShardOf("bms")), "callbacks=1")) > 0
	})
	contests.Store(false)
	d.ready()
	until(t, "it delivers", func() bool { _, delivers := d.Status("bms"); return delivers })
}

// A callback that is deleted while it is loaded is not delivered to.
func TestACallbackDeletedWhileItIsLoadedEnds(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := newReceiver(t, nil)
	b.register(callback("bms", r.URL))
	d := b.join()
	free := d.gate.keep(func(w store.Write) bool { return strings.Contains(w.Subject, store.CallbackCursor("bms")) })
	d.take(allShards()...)
	until(t, "it is being loaded", d.gate.keeps)
	if err := b.store.Callbacks.Delete(context.Background(), "bms", 0); err != nil {
		t.Fatal(err)
	}
	other := callback("witness", newReceiver(t, nil).URL)
	b.register(other) // heard of after the deletion
	until(t, "the deletion has been heard of", func() bool { _, delivers := d.Status("witness"); return delivers })
	free()
	d.ready()
	until(t, "nothing of it is left", func() bool {
		_, delivers := d.Status("bms")
		_, _, err := b.store.Cursors.Get(context.Background(), store.CallbackCursor("bms"))
		return !delivers && errors.Is(err, store.ErrNotFound)
	})
}
