package dispatcher

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/audatex-relay/relay/internal/backlog"
	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/logreader"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

// Dispatcher delivers events to callbacks. Make it with New. Run does the replica's work, Own the work on one shard.
type Dispatcher struct {
	conf     Config
	shared   environment // of all cores
	cursors  *cursorstore.Store
	feed     *logreader.Shared
	recent   uint64 // how many of the events that are there at a start the feed reads
	pages    logreader.Pages
	catchUps chan catchUpRead

	started         chan struct{}   // closed when Run has begun
	run             context.Context // ends when Run must end
	following       chan struct{}   // closed once the settings are known and the shared reader has a position
	ready           chan struct{}
	shards          [relay.Shards]chan struct{} // full while an Own of the shard runs
	loops           [relay.Shards]atomic.Pointer[loop]
	adopting        chan struct{} // has one entry for each shard whose callbacks are being adopted
	anyShard        atomic.Bool   // this replica has been given a shard
	loading         atomic.Int64  // shards of this replica that are not loaded yet
	pendingCatchUps atomic.Int64  // callbacks that are being sent to catchUps
	complaint       atomic.Int64  // when complain last logged, in nanoseconds
}

// New makes a Dispatcher and registers its metrics.
func New(c Config) *Dispatcher {
	d := &Dispatcher{
		conf: c.withDefaults(), recent: recent, started: make(chan struct{}), following: make(chan struct{}), ready: make(chan struct{}),
		catchUps: make(chan catchUpRead), adopting: make(chan struct{}, adoptAtOnce),
	}
	d.feed = logreader.NewShared(d.conf.Ring, d.conf.RingBytes, c.Deliverer.Bodies.NoteSize)
	d.pages = logreader.Pages{Events: c.Store.Events, Deliverer: c.Deliverer}
	d.cursors = cursorstore.New(d.conf.Store, store.CallbackCursors, d.conf.Log)
	c.Deliverer.Targets.OnChange(d.callbackChanged, func(client string) { d.sendAll(clientChanged{client}) })
	if c.Metrics != nil {
		c.Metrics.MustRegister(backlog.Gauges{Each: d.eachCallback})
	}
	d.shared = environment{
		conf: &d.conf, metrics: c.Deliverer.Metrics, memory: c.Deliverer.Memory, slots: c.Deliverer.Slots,
		pacer: &cursorstore.Pacer{}, maxBatch: d.conf.Store.MaxDocument(),
	}
	for i := range d.shards {
		d.shards[i] = make(chan struct{}, 1)
	}
	return d
}

// Ready is closed once the log is followed and the callbacks of this replica's first shards, if it has any, are loaded.
func (d *Dispatcher) Ready() <-chan struct{} { return d.ready }

// Prepare sets every cursor and every watermark that is beyond the end of the log back to that end. After a power cut
// or a restore the log may end before their position, and the positions above its end will be given to other events.
// Prepare is called before this replica takes any shard, and if NATS has lost events; see cursorstore.Store.Clamp.
func (d *Dispatcher) Prepare(ctx context.Context, lost *store.LostError) error {
	err := d.cursors.Clamp(ctx, time.Now(), lost.InEvents(), func(ctx context.Context, highest uint64) (uint64, error) {
		_, last, err := d.pages.Bounds(ctx, highest)
		return last, err
	}, func(ctx context.Context, taken []cursorstore.Taken, last uint64) error {
		keys := each.Of(taken, func(c cursorstore.Taken) string { return c.Key })
		d.cursors.ReportClamped(ctx, d.conf.Operational, keys, last)
		return nil
	})
	if err != nil {
		return fmt.Errorf("prepare the callbacks' cursors: %w", err)
	}
	return nil
}

// Run follows the log until ctx ends, and with it every Own; it returns nil once they have returned. It is called once.
func (d *Dispatcher) Run(ctx context.Context) error {
	run, stop := context.WithCancel(ctx)
	defer stop()
	d.run = run
	var parts sync.WaitGroup
	close(d.started)
	parts.Go(func() {
		if d.begin(run) {
			parts.Go(func() { d.awaitReady(run) })
			parts.Go(func() { d.runCatchUps(run) })
			parts.Go(func() { d.followBeginning(run) })
			d.feed.Run(run, d.conf.Store.Events, func(err error) {
				d.conf.Log.Log(run, store.Level(err, slog.LevelWarn), "the log of events cannot be followed; trying again", "error", err)
			})
		}
	})
	<-ctx.Done()
	for _, owned := range d.shards { // waits until every Own has returned, and keeps others from beginning
		owned <- struct{}{}
	}
	parts.Wait()
	return nil
}

// followBeginning sends the loops the log's first position, so that also halted callbacks settle what has left the log.
func (d *Dispatcher) followBeginning(ctx context.Context) {
	for backoff.Sleep(ctx, d.conf.ExpireEvery) {
		if first, _, err := d.conf.Store.Events.Bounds(ctx); err == nil {
			d.sendAll(logBegins{first})
		}
	}
}

// The log is followed from so many events, and bytes, before its end. So the ring has what callbacks with a backlog need
// next, as if the replica had run for long, and they need not each read the log.
const recent, recentBytes uint64 = 1024, 8 << 20

// begin waits until the settings are known, and has the log followed from a little before its end. Callbacks that have
// not read so far read the rest when they are loaded. It returns false if ctx has ended.
func (d *Dispatcher) begin(ctx context.Context) bool {
	if !d.conf.Deliverer.Targets.Ready(ctx) {
		return false
	}
	for {
		after, err := d.conf.Store.Events.BeforeEnd(ctx, d.recent, recentBytes)
		if err == nil {
			d.feed.Start(after)
			close(d.following)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		d.conf.Log.Log(ctx, store.Level(err, slog.LevelWarn), "deliveries cannot start yet; trying again", "error", err)
		backoff.Sleep(ctx, time.Second)
	}
}

// firstShards is how long a replica waits for its first shard before it is ready without any.
const firstShards = time.Second

// awaitReady waits until the first shards have been loaded.
func (d *Dispatcher) awaitReady(ctx context.Context) {
	for began := time.Now(); ctx.Err() == nil; {
		if d.loading.Load() == 0 && (d.anyShard.Load() || time.Since(began) >= firstShards) {
			close(d.ready)
			return
		}
		backoff.Sleep(ctx, gatherFor)
	}
}

// Own loads the callbacks of a shard and delivers to them under its lease until ctx, or that of Run, ends. Then it
// starts nothing more, waits for attempts under way (at most Config.Grace), stores the cursors, and returns nil. While
// the lease is not valid, nothing is started or stored; what is unstored when ctx ends then, the next owner repeats.
func (d *Dispatcher) Own(ctx context.Context, lease *shard.Lease) error {
	select {
	case <-d.started:
	case <-ctx.Done():
		return nil
	}
	run, stopRun := context.WithCancel(ctx)
	defer stopRun()
	defer context.AfterFunc(d.run, stopRun)()
	owned := d.shards[lease.Shard()]
	select {
	case owned <- struct{}{}: // an earlier Own of the shard has returned
	case <-run.Done():
		return nil
	}
	defer func() { <-owned }()
	d.loading.Add(1)
	d.anyShard.Store(true)
	select {
	case <-d.following:
	case <-run.Done():
		d.loading.Add(-1)
		return nil
	}
	life, stopLife := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLife()
	l := newLoop(run, life, d, lease)
	d.loops[l.shard].Store(l)
	defer d.loops[l.shard].Store(nil)
	l.work(stopLife)
	return nil
}

// levelOf is store.Level for the core, which must not import store.
func levelOf(err error, level slog.Level) slog.Level { return store.Level(err, level) }

// complain logs that something could not be stored, at most once in ten seconds: in an outage every write fails.
func (d *Dispatcher) complain(what string, err error) {
	now := time.Now()
	last := d.complaint.Load()
	if now.Sub(time.Unix(0, last)) >= 10*time.Second && d.complaint.CompareAndSwap(last, now.UnixNano()) {
		d.conf.Log.Log(context.Background(), store.Level(err, slog.LevelWarn), "deliveries could not be stored; they are kept and tried again",
			"what", what, "error", err)
	}
}

// sendAll sends a message to every loop of this replica.
func (d *Dispatcher) sendAll(m message) {
	for i := range d.loops {
		if l := d.loops[i].Load(); l != nil {
			l.send(m)
		}
	}
}

// callbackChanged sends a changed callback's loop word of it: the callback must be configured again.
func (d *Dispatcher) callbackChanged(id string) {
	if l := d.loops[relay.ShardOf(id)].Load(); l != nil {
		l.send(callbackChanged{id})
	}
}
