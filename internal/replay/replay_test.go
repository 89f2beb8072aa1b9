package replay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/replay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/signature"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
	"github.com/audatex-relay/relay/relaytest"
)

func TestMain(m *testing.M) {
	natstest.Waiting(4)
	goleak.VerifyTestMain(m, natstest.Leftovers()...)
}

// world is a store with events in its log, a receiver, and replicas that replay.
type world struct {
	t        *testing.T
	conn     *nats.Conn
	keys     []byte
	store    *store.Store
	receiver relaytest.Receiver
	callback relay.Callback
	epoch    uint64
}

func newWorld(t *testing.T, behave relaytest.Behaviour, change func(*relay.Callback)) *world {
	t.Helper()
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, conn: natstest.Start(t), keys: keys}
	w.store = w.open(nil)
	w.receiver.Behave = behave
	server := httptest.NewServer(&w.receiver)
	t.Cleanup(server.Close)
	secret := signature.NewSecret()
	if err := w.receiver.VerifyWith(secret.Reveal()); err != nil {
		t.Fatal(err)
	}
	w.callback = relay.Callback{
		ID: "bms", Client: "shop", Concurrency: 16, TimeoutSeconds: 5, Mode: relay.ModeEvery, Generation: relay.NewID(),
		ContentType: "application/json",
		Secrets:     relay.CallbackSecrets{URL: server.URL, Signing: []relay.SigningSecret{{Secret: secret.Reveal()}}},
	}
	if change != nil {
		change(&w.callback)
	}
	if _, err := w.store.Clients.Create(t.Context(), "shop", relay.Client{ID: "shop", AllSites: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Callbacks.Create(t.Context(), "bms", w.callback); err != nil {
		t.Fatal(err)
	}
	return w
}

// open returns another handle on the same data. Its writes fail once the replica is shut.
func (w *world) open(of *replica) *store.Store {
	w.t.Helper()
	sealer, err := store.NewSealer(w.keys)
	if err != nil {
		w.t.Fatal(err)
	}
	gate := func(store.Write) error {
		if of != nil && of.shut.Load() {
			of.refused.Add(1)
			return errors.New("cut off by the test")
		}
		return nil
	}
	s, err := store.Open(context.Background(), store.Config{
		Conn: w.conn, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: 720 * time.Hour},
		Sealer: sealer, Log: slog.New(slog.DiscardHandler), Gate: store.Gate{Before: gate, After: gate},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// publish puts n events of some orders into the log.
func (w *world) publish(n, orders int) {
	w.t.Helper()
	last := map[string]uint64{}
	for i := range n {
		order := fmt.Sprintf("00000000-0000-4000-8000-%012d", i%orders)
		ev, err := relay.NewOrderEvent("", "leeds", order, relay.TypeOrderUpdated, uint64(1e15+i), time.Now(),
			relay.OrderData{Order: json.RawMessage(`{}`)})
		if err == nil {
			last[order], err = w.store.Events.Publish(w.t.Context(), ev, store.InboxRef{}, last[order])
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// replay stores a replay of the whole log.
func (w *world) replay(change func(*relay.Replay)) string {
	w.t.Helper()
	first, last, err := w.store.Events.Bounds(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	doc := relay.Replay{
		ID: relay.NewID(), Callback: "bms", CallbackGeneration: w.callback.Generation, Client: "shop", From: first,
		Through: last, State: relay.ReplayRunning, CreatedAt: time.Now().UTC(),
	}
	if change != nil {
		change(&doc)
	}
	if _, err := w.store.Replays.Create(w.t.Context(), store.ReplayKey("bms", doc.ID), doc); err != nil {
		w.t.Fatal(err)
	}
	return doc.ID
}

func (w *world) get(id string) relay.Replay {
	w.t.Helper()
	doc, _, err := w.store.Replays.Get(w.t.Context(), store.ReplayKey("bms", id))
	if err != nil {
		w.t.Fatal(err)
	}
	return doc
}

// ended waits until a replay has ended.
func (w *world) ended(id string) (doc relay.Replay) {
	w.t.Helper()
	w.until("the replay ends", func() bool { doc = w.get(id); return !doc.Running() })
	return doc
}

func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !holds(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("in vain: ", what)
		}
	}
}

// replica is one at work on the shard of the callback.
type replica struct {
	*replay.Replayer
	gone    chan string // callbacks whose receiver has responded with 410
	shut    atomic.Bool
	refused atomic.Int32 // writes, while it was shut
	stop    func()
}

// Gone implements replay.Callbacks.
func (r *replica) Gone(callback, _ string, _ int) { r.gone <- callback }

// own starts a replica, under a new epoch. Before it owns the shard, first is called.
func (w *world) own(first ...func(*replica)) *replica {
	w.t.Helper()
	w.epoch++
	r := &replica{gone: make(chan string, 100)}
	s, log := w.open(r), slog.New(slog.DiscardHandler)
	send := sender.New(sender.Config{AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		UserAgent: "test"})
	deliverer := delivery.New(delivery.Config{Store: s, Sender: send, Log: log})
	replayer := replay.New(replay.Config{
		Store: s, Deliverer: deliverer, Callbacks: r, Log: log, Grace: time.Second, SweepEvery: 20 * time.Millisecond,
		Schedule: []time.Duration{5 * time.Millisecond, 5 * time.Millisecond},
		Jitter: func(d time.Duration) time.Duration {
			return d
		},
	})
	if err := replayer.Prepare(context.Background(), nil); err != nil {
		w.t.Fatal(err)
	}
	r.Replayer = replayer
	for _, do := range first {
		do(r)
	}
	run, stopRun := context.WithCancel(context.Background())
	own, stopOwn := context.WithCancel(run)
	var parts, owning sync.WaitGroup
	parts.Go(func() { _ = deliverer.Run(run) })
	parts.Go(func() { _ = replayer.Run(run) })
	lease := shardtest.NewManual(relay.ShardOf("bms"), w.epoch)
	owning.Go(func() { _ = replayer.Own(own, lease.Lease) })
	r.stop = sync.OnceFunc(func() {
		stopOwn()
		owning.Wait()
		stopRun()
		parts.Wait()
		send.Close()
	})
	w.t.Cleanup(r.stop)
	return r
}

// A replay goes on at each next owner of its shard: where the one before has stopped, and where one
// has crashed. Every event ends once, and the counts are those of the events.
func TestAReplayMovesWithItsShard(t *testing.T) {
	t.Parallel()
	const events = 300
	w := newWorld(t, relaytest.Slow(2*time.Millisecond), nil)
	w.publish(events, 20)
	id := w.replay(nil)
	for _, n := range []int{60, 120, 180} {
		r := w.own()
		w.until("some events have come", func() bool { return w.receiver.AcceptedEvents() >= n })
		r.shut.Store(n == 120) // what it does from now on does not reach the store
		r.stop()
		if doc := w.get(id); !doc.Running() {
			t.Fatalf("it ended early: %+v", doc)
		}
	}
	w.own()
	doc := w.ended(id)
	if doc.State != relay.ReplayDone || doc.Progress.Delivered != events || doc.Progress.Ended() != events ||
		doc.Matched == nil || *doc.Matched != events {
		t.Errorf("it ended %+v, matched %v", doc, doc.Matched)
	}
	if n := w.receiver.AcceptedEvents(); n != events {
		t.Errorf("%d of %d events came", n, events)
	}
	for _, problem := range append(w.receiver.Problems(), w.receiver.Misordered()...) {
		t.Error(problem)
	}
	w.until("its cursor is removed", func() bool {
		_, _, err := w.store.Cursors.Get(t.Context(), store.ReplayCursors.Key(store.ReplayCursor("bms", id)))
		return errors.Is(err, store.ErrNotFound)
	})
}

// An order that is refused does not keep others back, ends as failed after the schedule, and leaves
// how the deliveries stood.
func TestARefusedOrderFails(t *testing.T) {
	t.Parallel()
	refused := "leeds-00000000-0000-4000-8000-000000000003-"
	w := newWorld(t, func(_ int, r *http.Request) int {
		if id := r.Header.Get("webhook-id"); len(id) > len(refused) && id[:len(refused)] == refused {
			return http.StatusInternalServerError
		}
		return http.StatusNoContent
	}, nil)
	w.publish(100, 10)
	id := w.replay(nil)
	w.own()
	if doc := w.ended(id); doc.State != relay.ReplayDone ||
		doc.Progress != (relay.Progress{Delivered: 90, Failed: 10}) {
		t.Errorf("it ended %+v", doc)
	}
	closed := map[relay.DeliveryStatus]int{}
	err := w.store.Attempts.Walk(t.Context(), "bms", w.callback.Generation, 0,
		func(_ uint64, _ time.Time, b relay.AttemptBatch) bool {
			for _, rec := range b.Records {
				if rec.Replay != id {
					t.Errorf("a record of replay %q", rec.Replay)
				}
				closed[rec.Closing]++
			}
			return true
		})
	if err != nil || closed[relay.DeliveryDelivered] != 90 || closed[relay.DeliveryFailed] != 0 {
		t.Errorf("deliveries were closed: %v, %v", closed, err)
	}
}

// A receiver that responds with 410 has the callback disabled, and the replay waits. It is removed with
// its callback.
func TestAReplayWaitsForItsCallback(t *testing.T) {
	t.Parallel()
	w := newWorld(t, relaytest.Always(http.StatusGone), nil)
	w.publish(10, 10)
	id := w.replay(nil)
	r := w.own()
	if of := <-r.gone; of != "bms" {
		t.Errorf("the receiver of %s was gone", of)
	}
	if doc := w.get(id); !doc.Running() || doc.Progress.Ended() != 0 {
		t.Errorf("it is %+v", doc)
	}
	if err := w.store.Callbacks.Delete(t.Context(), "bms", 0); err != nil {
		t.Fatal(err)
	}
	w.until("it is removed", func() bool {
		_, _, err := w.store.Replays.Get(t.Context(), store.ReplayKey("bms", id))
		return errors.Is(err, store.ErrNotFound)
	})
}

// Should the owner of its shard ever miss that a replay was made, it begins late, but it does.
func TestAReplayThatWasMissedBeginsAllTheSame(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, nil)
	w.publish(10, 10)
	r, shard := w.own(), relay.ShardOf("bms")
	w.until("the shard is owned", func() bool { return r.Owns(shard) })
	r.Overlook(shard)
	if doc := w.ended(w.replay(nil)); doc.State != relay.ReplayDone || doc.Progress.Delivered != 10 {
		t.Errorf("it ended %+v", doc)
	}
}

// A replay that is cancelled or removed while it waits to be loaded ends, and the replica goes on.
func TestAReplayEndsBeforeItIsLoaded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, nil)
	w.publish(10, 10)
	cancelled, removed, other := w.replay(nil), w.replay(nil), w.replay(nil)
	var release func()
	r := w.own(func(r *replica) { release = r.HoldLoads() })
	w.until("all wait to be loaded", func() bool { return r.Working() == 3 })
	key := store.ReplayKey("bms", cancelled)
	doc, revision, err := w.store.Replays.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	doc.End(relay.ReplayCancelled, "by the test", time.Now())
	if _, err := w.store.Replays.Update(t.Context(), key, doc, revision); err != nil {
		t.Fatal(err)
	}
	if err := w.store.Replays.Delete(t.Context(), store.ReplayKey("bms", removed), 0); err != nil {
		t.Fatal(err)
	}
	release()
	if doc := w.ended(other); doc.State != relay.ReplayDone || doc.Progress.Delivered != 10 {
		t.Errorf("the other one ended %+v", doc)
	}
	w.until("none is at work", func() bool { return r.Working() == 0 })
	if doc := w.get(cancelled); doc.State != relay.ReplayCancelled || doc.Reason != "by the test" ||
		doc.Progress.Ended() != 0 {
		t.Errorf("the cancelled one is %+v", doc)
	}
	if _, _, err := w.store.Replays.Get(t.Context(),
		store.ReplayKey("bms", removed)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the removed one: %v", err)
	}
	for _, id := range []string{cancelled, removed, other} {
		if _, _, err := w.store.Cursors.Get(t.Context(),
			store.ReplayCursors.Key(store.ReplayCursor("bms", id))); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the cursor of %s: %v", id, err)
		}
	}
	if n := w.receiver.AcceptedEvents(); n != 10 {
		t.Errorf("%d events came", n)
	}
}

// A store that takes nothing while a replay comes to its end makes it wait, and send nothing again.
func TestAReplayEndsInAnOutage(t *testing.T) {
	t.Parallel()
	const events = 30
	var r atomic.Pointer[replica]
	var requests atomic.Int32
	w := newWorld(t, func(int, *http.Request) int {
		requests.Add(1)
		r.Load().shut.Store(true)
		return http.StatusNoContent
	}, nil)
	w.publish(events, 10)
	id := w.replay(nil)
	w.own(r.Store)
	w.until("all events have come", func() bool { return requests.Load() == events })
	refused := r.Load().refused.Load()
	w.until("it has tried to store several times", func() bool { return r.Load().refused.Load() >= refused+5 })
	r.Load().shut.Store(false)
	if doc := w.ended(id); doc.State != relay.ReplayDone || doc.Progress != (relay.Progress{Delivered: events}) {
		t.Errorf("it ended %+v", doc)
	}
	if n := requests.Load(); n != events {
		t.Errorf("%d requests for %d events", n, events)
	}
}

// A replay waits until the client of its callback is known where it is worked: it may have been made a moment before.
func TestAReplayWaitsForItsClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, nil)
	w.publish(10, 10)
	id := w.replay(nil)
	client, _, err := w.store.Clients.Get(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Clients.Delete(t.Context(), "shop", 0); err != nil {
		t.Fatal(err)
	}
	r := w.own()
	w.until("it is looked at", func() bool { return r.Unready() > 0 || !w.get(id).Running() })
	if _, err := w.store.Clients.Create(t.Context(), "shop", client); err != nil {
		t.Fatal(err)
	}
	if doc := w.ended(id); doc.Progress.Delivered != 10 || doc.Matched == nil || *doc.Matched != 10 {
		t.Errorf("it ended %+v", doc)
	}
}

// What a replay has selected and its callback is no longer to get when its turn comes is skipped, also what was not
// read by then.
func TestANarrowedReplayCountsWhatItSkips(t *testing.T) {
	t.Parallel()
	const events = 200
	w := newWorld(t, relaytest.Slow(2*time.Millisecond), func(cb *relay.Callback) { cb.Concurrency = 4 })
	w.publish(events, 20)
	id := w.replay(nil)
	w.own()
	w.until("some events have come", func() bool { return w.receiver.AcceptedEvents() >= 10 })
	cb, revision, err := w.store.Callbacks.Get(t.Context(), "bms")
	if err != nil {
		t.Fatal(err)
	}
	cb.Filter.Sites = []string{"york"}
	if _, err := w.store.Callbacks.Update(t.Context(), "bms", cb, revision); err != nil {
		t.Fatal(err)
	}
	doc := w.ended(id)
	if doc.State != relay.ReplayDone || doc.Progress.Ended() != events ||
		doc.Progress.Delivered != w.receiver.AcceptedEvents() {
		t.Errorf("it ended %+v", doc)
	}
}

// A replay is not cancelled for time in which nothing was sent: its callback was paused, or nobody owned its shard.
func TestOnlyFailingCancelsAReplay(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		paused  bool
		failing time.Duration
	}{
		"paused":        {true, replay.GiveUpAfter - time.Second},
		"without owner": {false, replay.GiveUpAfter + time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests, failsUntil atomic.Int32
			failsUntil.Store(1e6)
			w := newWorld(t, func(int, *http.Request) int {
				if requests.Add(1) <= failsUntil.Load() {
					return http.StatusInternalServerError
				}
				return http.StatusNoContent
			}, nil)
			w.publish(20, 20)
			id := w.replay(nil)
			r, ctx := w.own(), t.Context()
			key := store.ReplayCursors.Key(store.ReplayCursor("bms", id))
			w.until("its receiver fails for several orders", func() bool {
				doc, _, err := w.store.Cursors.Get(ctx, key)
				return err == nil && doc.Health.Open
			})
			r.stop()
			doc, revision, err := w.store.Cursors.Get(ctx, key)
			if err != nil {
				t.Fatal(err)
			}
			doc.Health.FailingSince = time.Now().Add(-tc.failing).UTC()
			since := doc.Health.FailingSince
			if _, err := w.store.Cursors.Update(ctx, key, doc, revision); err != nil {
				t.Fatal(err)
			}
			change := func(change func(cb *relay.Callback)) {
				cb, revision, err := w.store.Callbacks.Get(ctx, "bms")
				if err == nil {
					change(&cb)
					_, err = w.store.Callbacks.Update(ctx, "bms", cb, revision)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			change(func(cb *relay.Callback) { cb.Paused = tc.paused })
			failsUntil.Store(requests.Load() + 1) // the next one fails as well
			r = w.own()
			if tc.paused {
				w.until("it is at work, and has failed for too long by the clock", func() bool {
					return r.Working() == 1 && time.Since(since) > replay.GiveUpAfter
				})
				change(func(cb *relay.Callback) { cb.Paused = false })
			}
			w.until("it has failed once more", func() bool {
				doc, _, err := w.store.Cursors.Get(ctx, key)
				return err == nil && time.Since(doc.Health.FailingSince) < time.Hour || !w.get(id).Running()
			})
			change(func(cb *relay.Callback) { cb.Resumed++ })
			if doc := w.ended(id); doc.State != relay.ReplayDone || doc.Progress.Ended() != 20 {
				t.Errorf("it ended %+v", doc)
			}
		})
	}
}
