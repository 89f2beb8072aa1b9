package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

// Callbacks is what the Replayer needs of the part that delivers to the same callbacks.
type Callbacks interface {
	// Gone disables a callback whose receiver has responded with 410, unless it has been resumed more often than that.
	Gone(callback, generation string, resumed int)
}

// DefaultSchedule is when a failed attempt of a replay is tried again: a replay is watched by
// somebody, and its receiver was reached lately.
var DefaultSchedule = []time.Duration{5 * time.Second, time.Minute, 10 * time.Minute}

const (
	// circuitFailures is after how many failures in a row, over more than one order, the receiver is only probed.
	circuitFailures = 5
	// giveUpAfter is the time of failing without a success after which the replay is cancelled.
	giveUpAfter = 5 * 24 * time.Hour
	// DefaultGrace is the default of Config.Grace.
	DefaultGrace = 20 * time.Second
)

// Config is what New needs. Store, Deliverer, Callbacks and Log are required.
type Config struct {
	Store     *store.Store
	Deliverer *delivery.Deliverer
	Callbacks Callbacks
	Log       *slog.Logger
	Metrics   prometheus.Registerer // nil: metrics are kept and shown to nobody

	Schedule   []time.Duration                   // the waits after the first, second, … failed attempt
	Jitter     func(time.Duration) time.Duration // of every wait; nil: up to a tenth more
	Grace      time.Duration                     // for attempts under way when a shard must be given up
	SweepEvery time.Duration                     // how often all replays of a shard are looked at again; 30 s if zero
}

// Replayer works the replays of the shards that this replica owns. Make it with New; Run follows
// the documents, Own is the work on a shard.
type Replayer struct {
	c       Config
	replays *store.Mirror[relay.Replay] // in groups by shard
	cursors *cursorstore.Store
	shares  *shares
	metrics *metrics
	loads   *loads
	owned   [relay.Shards]atomic.Pointer[owned]
	bodies  *capacity.Bodies
	memory  *capacity.Memory
	target  func(callback string) *delivery.Target                   // as it is configured now, nil: not registered
	make    func(context.Context, delivery.Lease, *delivery.Attempt) // an attempt

	complained atomic.Int64 // when something was last complained of, in nanoseconds

	mu      sync.Mutex
	working map[*runner]struct{}
}

// New makes a Replayer and registers its metrics.
func New(c Config) *Replayer {
	if len(c.Schedule) == 0 {
		c.Schedule = DefaultSchedule
	}
	if c.Jitter == nil {
		c.Jitter = func(d time.Duration) time.Duration { return d + rand.N(d/10+1) }
	}
	c.Grace, c.SweepEvery = cmp.Or(c.Grace, DefaultGrace), cmp.Or(c.SweepEvery, 30*time.Second)
	r := &Replayer{
		c: c, cursors: cursorstore.New(c.Store, store.ReplayCursors, c.Log), shares: newShares(c.Deliverer.Slots),
		loads: newLoads(), target: c.Deliverer.Targets.Of, make: c.Deliverer.Make,
		bodies: c.Deliverer.Bodies, memory: c.Deliverer.Memory, working: map[*runner]struct{}{},
	}
	r.follow(c.Store.Replays)
	c.Deliverer.Targets.OnChange(
		func(id string) { r.wake(func(w *runner) bool { return w.callback == id }) },
		func(id string) { r.wake(func(w *runner) bool { return w.client == id }) },
	)
	r.metrics = newMetrics(c.Metrics, r)
	return r
}

// follow makes the copy of all replays.
func (r *Replayer) follow(bucket store.Mirrored[relay.Replay]) {
	r.replays = store.NewMirror(store.MirrorConfig[relay.Replay]{
		Bucket: bucket, Log: r.c.Log, What: "replay", OnChange: r.onChange,
		Group: func(doc relay.Replay) string { return group(relay.ShardOf(doc.Callback)) },
	})
}

// group is the group of the mirror in which the replays of a shard are.
func group(shard int) string { return strconv.Itoa(shard) }

// policy returns the rules of the cursor of a replay that may have so many attempts under way.
func (r *Replayer) policy(concurrency int) cursor.Policy {
	return cursor.Policy{
		Concurrency: concurrency, Window: 4*concurrency + 32, Schedule: r.c.Schedule, Jitter: r.c.Jitter,
		CircuitFailures: circuitFailures,
	}
}

// Run follows the replays until ctx ends. It returns nil.
func (r *Replayer) Run(ctx context.Context) error {
	r.replays.Run(ctx)
	return nil
}

// Count returns how many events a replay would deliver to a callback of a client.
func (r *Replayer) Count(ctx context.Context, doc relay.Replay, cb relay.Callback, client relay.Client) (int, error) {
	only, err := selectedBy(ctx, r.c.Store.Attempts, &doc, r.c.Store.Events)
	if err != nil {
		return 0, fmt.Errorf("select by how deliveries ended: %w", err)
	}
	s := &selection{events: r.c.Store.Events, doc: &doc, only: only}
	return s.of(delivery.NewTarget(cb, client)).count(ctx)
}

// wake has those runners look whether something has changed that pass.
func (r *Replayer) wake(pass func(w *runner) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for w := range r.working {
		if pass(w) {
			w.wake()
		}
	}
}

// Answers makes everything due that the replays of a callback have waiting: a test has shown that its receiver
// responds.
func (r *Replayer) Answers(callback, generation string) {
	r.wake(func(w *runner) bool {
		mine := w.callback == callback && w.generation == generation
		if mine {
			w.answers.Store(true)
		}
		return mine
	})
}

// work runs a replay until it has ended or ctx has.
func (r *Replayer) work(ctx context.Context, w *runner) {
	r.mu.Lock()
	r.working[w] = struct{}{}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.working, w)
		r.mu.Unlock()
	}()
	w.run(ctx)
}

// owned is a shard of this replica.
type owned struct {
	changed chan struct{}

	mu   sync.Mutex
	keys map[string]struct{} // of the replays that have changed
}

// hold begins to own a shard. Changes are noted first, and then all replays there are: one that is made meanwhile may
// be noted twice, but none is missed.
func (r *Replayer) hold(shard int) *owned {
	o := &owned{changed: make(chan struct{}, 1), keys: map[string]struct{}{}}
	r.owned[shard].Store(o)
	o.add(r.replays.Keys(group(shard))...)
	return o
}

// onChange has the owner of a replay look at it.
func (r *Replayer) onChange(before, now *store.Entry[relay.Replay]) {
	if now == nil {
		now = before
	}
	if o := r.owned[relay.ShardOf(now.Value.Callback)].Load(); o != nil {
		o.add(now.Key)
	}
}

// add has the owner look at replays.
func (o *owned) add(keys ...string) {
	o.mu.Lock()
	for _, key := range keys {
		o.keys[key] = struct{}{}
	}
	o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

func (o *owned) take() map[string]struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	keys := o.keys
	o.keys = map[string]struct{}{}
	return keys
}

// Own works the running replays of a shard under its lease until ctx ends. Then nothing is started
// any more, attempts under way end (at most Config.Grace), what has ended is stored, and Own returns
// nil.
func (r *Replayer) Own(ctx context.Context, lease *shard.Lease) error {
	select {
	case <-r.replays.Ready():
	case <-ctx.Done():
		return nil
	}
	if !r.c.Deliverer.Targets.Ready(ctx) {
		return nil
	}
	o := r.hold(lease.Shard())
	defer r.owned[lease.Shard()].Store(nil)
	working, ended := map[string]*runner{}, make(chan string)
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { r.eraseStrays(ctx, lease) })
	sweep := time.NewTicker(r.c.SweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-o.changed:
			for key := range o.take() {
				entry, there := r.replays.Get(key)
				switch w := working[key]; {
				case w != nil:
					w.wake()
				case there && entry.Value.Running():
					w = newRunner(r, lease, entry)
					working[key] = w
					all.Go(func() {
						r.work(ctx, w)
						select {
						case ended <- key:
						case <-ctx.Done():
						}
					})
				}
			}
		case key := <-ended:
			delete(working, key)
		case <-sweep.C:
			for _, key := range r.replays.Keys(group(lease.Shard())) {
				if working[key] == nil { // should it ever be missed, it begins late
					o.add(key)
				}
			}
			all.Go(func() { r.sweep(ctx, lease) })
		case <-ctx.Done():
			return nil
		}
	}
}

// sweep removes the replays of callbacks that are not registered any more.
func (r *Replayer) sweep(ctx context.Context, lease *shard.Lease) {
	for _, key := range r.replays.Keys(group(lease.Shard())) {
		entry, there := r.replays.Get(key)
		doc := entry.Value
		if !there || r.registered(doc) {
			continue
		}
		// What is known here may be older than the replay.
		if _, err := r.c.Deliverer.Targets.Confirm(ctx, doc.Callback, doc.CallbackGeneration); err != nil ||
			r.registered(doc) || !lease.Valid() {
			continue
		}
		err := r.c.Store.Replays.Delete(ctx, key, entry.Revision)
		switch {
		case err == nil:
			r.replays.Removed(key, entry.Revision)
		case !errors.Is(err, store.ErrConflict):
			r.complain(err)
		}
	}
}

// registered reports whether the callback of a replay is known here.
func (r *Replayer) registered(doc relay.Replay) bool {
	target := r.c.Deliverer.Targets.Of(doc.Callback)
	return target != nil && target.Callback.Generation == doc.CallbackGeneration
}

// eraseStrays removes the cursors of the shard whose replays have ended or are gone.
func (r *Replayer) eraseStrays(ctx context.Context, lease *shard.Lease) {
	found, err := r.cursors.Load(ctx, lease.Shard(), nil)
	if err != nil {
		r.complain(err)
		return
	}
	for id := range found {
		callback, replay, ok := store.ParseReplayCursor(id)
		if !ok {
			continue
		}
		entry, there, err := r.replays.Read(ctx, store.ReplayKey(callback, replay))
		if err == nil && (!there || !entry.Value.Running()) {
			r.erase(ctx, lease, id)
		}
	}
}

// erase removes what is stored of a replay's cursor. What cannot be removed now is when the shard
// is next taken on.
func (r *Replayer) erase(ctx context.Context, lease *shard.Lease, id string) {
	if !lease.Valid() {
		return
	}
	stored, err := r.cursors.LoadSome(ctx, []string{id})
	if err == nil {
		err = r.cursors.Erase(ctx, lease.Epoch(), stored[id], "")
	}
	if err != nil && ctx.Err() == nil {
		r.complain(err)
	}
}

// complain logs that something could not be stored, at most once every ten seconds.
func (r *Replayer) complain(err error) {
	now, last := time.Now(), r.complained.Load()
	if now.Sub(time.Unix(0, last)) >= 10*time.Second && r.complained.CompareAndSwap(last, now.UnixNano()) {
		r.c.Log.Log(context.Background(), store.Level(err, slog.LevelWarn),
			"what a replay has come to could not be stored; it is tried again", "error", err)
	}
}
