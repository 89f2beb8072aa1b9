package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// ownedWorld is a bucket with a writer whose writes meet a fate, and another one.
type ownedWorld struct {
	nc           *nats.Conn
	gated, other *store.Store

	mu     sync.Mutex
	before func() error // of the gated writer's next write
	after  func() error
}

func (w *ownedWorld) hook(hook *func() error) error {
	w.mu.Lock()
	f := *hook
	w.mu.Unlock()
	if f == nil {
		return nil
	}
	return f()
}

func newOwnedWorld(t *testing.T) *ownedWorld {
	t.Helper()
	w := &ownedWorld{nc: natstest.Start(t)}
	open := func(gate store.Gate) *store.Store {
		s, err := store.Open(t.Context(), store.Config{
			Conn: w.nc, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
			Log: slog.New(slog.DiscardHandler), Gate: gate,
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	w.other = open(store.Gate{})
	w.gated = open(store.Gate{
		Before: func(store.Write) error { return w.hook(&w.before) },
		After:  func(store.Write) error { return w.hook(&w.after) },
	})
	return w
}

// errMeeting is how a cluster responds while another write of the same subject is in progress.
var errMeeting = fmt.Errorf("%w: %w",
	store.ErrUnclear, &jetstream.APIError{ErrorCode: jetstream.JSErrCodeStreamWrongLastSequenceConstant})

// What is there in the place of a write: what was there when it was made, our very document, an
// older one of our own, another owner's, or nothing.
const (
	unchanged = "unchanged"
	same      = "same"
	own       = "own"
	lower     = "lower"
	higher    = "higher"
	gone      = "gone"
)

// Every way in which a write can end, with everything that may be found in its place.
func TestWritesOfAnOwner(t *testing.T) {
	t.Parallel()
	w := newOwnedWorld(t)
	for _, fate := range []string{"ok", "conflict", "unclear applied", "unclear not applied", "refused for a moment",
		"refused to the end", "unavailable", "too large", "lagging node"} {
		for _, place := range []string{unchanged, same, own, lower, higher, gone} {
			for _, readUnclear := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, %t", fate, place, readUnclear), func(t *testing.T) {
					w.write(t, fate, place, readUnclear, false)
					if !strings.HasPrefix(fate, "unclear") {
						w.write(t, fate, place, readUnclear, true)
					}
				})
			}
		}
	}
}

func (w *ownedWorld) write(t *testing.T, fate, place string, readUnclear, remove bool) {
	ctx, key, put := t.Context(), relay.NewID(), relay.Poll{Epoch: 5, SubscriptionID: "ours"}
	revision, err := w.other.Polls.Create(ctx, key, relay.Poll{Epoch: 4, SubscriptionID: "before"})
	if err != nil {
		t.Fatal(err)
	}
	meanwhile := func() {
		now := w.other.Polls.Current(ctx, []string{key})[0]
		at, err := now.Revision, now.Err
		switch place {
		case unchanged:
		case same:
			_, err = w.other.Polls.Update(ctx, key, put, at)
		case own:
			_, err = w.other.Polls.Update(ctx, key, relay.Poll{Epoch: 5, SubscriptionID: "older"}, at)
		case lower:
			_, err = w.other.Polls.Update(ctx, key, relay.Poll{Epoch: 4, SubscriptionID: "late"}, at)
		case higher:
			_, err = w.other.Polls.Update(ctx, key, relay.Poll{Epoch: 6, SubscriptionID: "theirs"}, at)
		case gone:
			err = w.other.Polls.Delete(ctx, key, at)
		}
		if err != nil {
			t.Error(err)
		}
	}
	before, after := func() error { return nil }, func() error { return nil }
	want := store.Written
	found := func(unclear bool) store.Outcome {
		switch {
		case place == higher:
			return store.Superseded
		case place == same && !remove, place == gone && remove:
			return store.Written
		case place == unchanged && unclear:
			return store.Unclear
		case place == unchanged:
			return store.Written
		}
		return store.Changed
	}
	switch fate {
	case "ok":
		meanwhile()
		revision = w.other.Polls.Current(ctx, []string{key})[0].Revision
	case "conflict", "lagging node":
		meanwhile()
		want = found(false)
	case "unclear applied":
		after = func() error { meanwhile(); return store.ErrUnclear }
		if want = store.Unclear; readUnclear {
			want = found(false)
		}
	case "unclear not applied":
		before = func() error { meanwhile(); return store.ErrUnclear }
		if want = store.Unclear; readUnclear {
			want = found(true)
		}
	case "refused for a moment":
		meanwhile()
		want = found(false)
		refusals := 3
		before = func() error {
			if refusals--; refusals >= 0 {
				return errMeeting
			}
			return nil
		}
	case "refused to the end":
		meanwhile()
		want = store.NotStored
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		before = func() error { return errMeeting }
	case "unavailable":
		meanwhile()
		want = store.NotStored
		before = func() error { return store.ErrUnavailable }
	case "too large":
		meanwhile()
		want = store.NotStored
		before = func() error { return store.ErrTooLarge }
	}
	if fate == "lagging node" { // a reader of a copy gets what was there before
		stale, err := w.nc.Subscribe("$JS.API.DIRECT.GET.KV_relay_polls.>", func(*nats.Msg) {
			t.Error("a copy was asked that may lag")
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = stale.Unsubscribe() }()
	}
	w.mu.Lock()
	w.before, w.after = before, after
	w.mu.Unlock()
	var r store.OwnedResult[relay.Poll]
	if remove {
		r = store.RemoveOwned(ctx, w.gated.Polls,
			[]store.OwnedRemoval{{Removal: store.Removal{Key: key, Revision: revision}, Epoch: 5}})[0]
	} else {
		r = store.PutOwned(ctx, w.gated.Polls,
			[]store.Put[relay.Poll]{{Key: key, Value: put, Revision: revision}}, readUnclear)[0]
	}
	w.mu.Lock()
	w.before, w.after = nil, nil
	w.mu.Unlock()
	if r.Outcome != want || (r.Err == nil) != (want == store.Written) {
		t.Fatalf("removal %t: outcome %d with %v, want %d", remove, r.Outcome, r.Err, want)
	}
	now := w.other.Polls.Current(t.Context(), []string{key})[0]
	if now.Err != nil {
		t.Fatal(now.Err)
	}
	switch {
	case r.Outcome == store.Written && now.Deleted != remove, r.Outcome == store.Written && !remove &&
		(now.Value.SubscriptionID != "ours" || now.Revision != r.Entry.Revision):
		t.Fatalf("removal %t: written, and there is %+v; the result has revision %d", remove, now, r.Entry.Revision)
	case r.Outcome == store.Superseded && (r.Entry.Value.Epoch != 6 || now.Value.Epoch != 6):
		t.Fatalf("superseded by %+v, and there is %+v", r.Entry, now)
	case r.Outcome == store.Changed:
		// The next round writes the present state over what was found.
		if next := store.PutOwned(t.Context(), w.gated.Polls, []store.Put[relay.Poll]{
			{Key: key, Value: put, Revision: r.Entry.Revision}}, false)[0]; next.Outcome != store.Written {
			t.Fatalf("the next write over revision %d: outcome %d, %v", r.Entry.Revision, next.Outcome, next.Err)
		}
	case r.Outcome == store.Unclear && place == unchanged:
		// The next write over the same revision finds out.
		next := store.PutOwned(t.Context(), w.gated.Polls,
			[]store.Put[relay.Poll]{{Key: key, Value: put, Revision: revision}}, false)[0]
		if next.Outcome != store.Written {
			t.Fatalf("the next write: outcome %d, %v", next.Outcome, next.Err)
		}
	}
}

// A removal whose revision is not known looks for the document first.
func TestRemovalOfWhatMayNotBeStored(t *testing.T) {
	t.Parallel()
	w := newOwnedWorld(t)
	for key, epoch := range map[string]uint64{"none": 0, "ours": 5, "earlier": 4, "later": 6} {
		if epoch > 0 {
			if _, err := w.other.Polls.Create(t.Context(), key, relay.Poll{Epoch: epoch}); err != nil {
				t.Fatal(err)
			}
		}
		want := store.Written
		if epoch == 6 {
			want = store.Superseded
		}
		r := store.RemoveOwned(t.Context(), w.gated.Polls,
			[]store.OwnedRemoval{{Removal: store.Removal{Key: key}, Epoch: 5}})[0]
		if _, _, err := w.other.Polls.Get(t.Context(), key); r.Outcome != want ||
			errors.Is(err, store.ErrNotFound) != (want == store.Written) {
			t.Errorf("%s: outcome %d, %v; afterwards %v", key, r.Outcome, r.Err, err)
		}
	}
}

// What was removed leaves a marker, over which a document can be created at once.
func TestCreationOverAMarker(t *testing.T) {
	t.Parallel()
	w := newOwnedWorld(t)
	put := []store.Put[relay.Poll]{{Key: "a", Value: relay.Poll{Epoch: 5}}}
	for range 3 {
		r := store.PutOwned(t.Context(), w.gated.Polls, put, true)[0]
		if r.Outcome != store.Written {
			t.Fatalf("outcome %d, %v", r.Outcome, r.Err)
		}
		removal := []store.OwnedRemoval{{Removal: store.Removal{Key: "a", Revision: r.Entry.Revision}, Epoch: 5}}
		if r := store.RemoveOwned(t.Context(), w.gated.Polls, removal)[0]; r.Outcome != store.Written {
			t.Fatalf("outcome %d, %v", r.Outcome, r.Err)
		}
	}
}

// After an outage thousands of writes may be unclear at once. While the leader does not respond they
// are not all asked for.
func TestReadingBackEndsWithTheLeader(t *testing.T) {
	t.Parallel()
	w := newOwnedWorld(t)
	puts := make([]store.Put[relay.Poll], 2000)
	for i := range puts {
		puts[i] = store.Put[relay.Poll]{Key: fmt.Sprint(i), Value: relay.Poll{Epoch: 5}}
	}
	w.before = func() error { return store.ErrUnclear }
	asked := make(chan struct{}, len(puts))
	ctx, cancel := context.WithCancel(t.Context())
	listening, err := w.nc.Subscribe("$JS.API.STREAM.MSG.GET.KV_relay_polls", func(*nats.Msg) {
		asked <- struct{}{}
		cancel()
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listening.Unsubscribe() }()
	for i, r := range store.PutOwned(ctx, w.gated.Polls, puts, true) {
		if r.Outcome != store.Unclear || r.Err == nil {
			t.Fatalf("write %d: outcome %d, %v", i, r.Outcome, r.Err)
		}
	}
	if n := len(asked); n > 200 {
		t.Errorf("the leader was asked %d times", n)
	}
}

// Keys of shards 5 and 50, and of orders with dots, are not confused.
func TestCursorKeys(t *testing.T) {
	t.Parallel()
	shards := map[int]string{}
	for i := 0; len(shards) < relay.Shards; i++ {
		id := fmt.Sprintf("c%d", i)
		shards[relay.ShardOf(id)] = id
	}
	for shard, id := range shards {
		for _, kind := range []store.CursorKind{store.InboxCursors, store.CallbackCursors} {
			key := kind.Key(id)
			if !strings.HasPrefix(key, fmt.Sprintf("%d.%s.", shard, kind)) ||
				!strings.HasPrefix(key, kind.OfShard(shard)+".") {
				t.Errorf("the key of %s is %s", id, key)
			}
			for _, order := range []string{"", "o", "leeds.5f0c", "leeds."} {
				full := key
				if order != "" {
					full = store.LaneKey(key, order)
				}
				if k, i, o, ok := store.ParseCursorKey(full); !ok || k != kind || i != id || o != order {
					t.Errorf("%s reads as %s, %s, %s, %t", full, k, i, o, ok)
				}
			}
			if _, _, _, ok := store.ParseCursorKey(fmt.Sprintf("%d.%s.%s", (shard+1)%relay.Shards, kind, id)); ok {
				t.Errorf("a cursor of %s was taken for one of another shard", id)
			}
		}
	}
	for _, key := range []string{"", "5", "5.inbox", "5.inbox.", "inbox.a", "5.watermark.events", "x.inbox.a",
		store.InboxCursors.Key("a") + "."} {
		if _, _, _, ok := store.ParseCursorKey(key); ok {
			t.Errorf("%q was taken for a cursor's key", key)
		}
	}
}
