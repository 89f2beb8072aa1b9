package dispatcher

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
)

// Defaults of Config.
var (
	// DefaultSchedule is RELAY_RETRY_SCHEDULE's: about three days in all.
	DefaultSchedule = []time.Duration{
		5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}
)

// The other defaults of Config.
const (
	// DefaultProbeEvery is the wait before each probe of a receiver whose circuit is open, once the schedule's shorter waits are through.
	DefaultProbeEvery      = 5 * time.Minute
	DefaultCircuitFailures = 5
	DefaultDisableAfter    = 5 * 24 * time.Hour
	DefaultGrace           = 20 * time.Second
	DefaultLookback        = 100_000
)

// lastFlush bounds the final writes of a stop.
const lastFlush = 10 * time.Second

// Config is what a Dispatcher is made from. Store, Sender, Operational and Log are needed.
type Config struct {
	Store       *store.Store
	Sender      *sender.Sender
	Operational Operational
	Log         *slog.Logger
	Metrics     prometheus.Registerer // nil: metrics are kept and shown to nobody

	// Owns says which shards this replica delivers for; nil: all. Epoch is that of its lease: every document carries it.
	Owns  func(shard int) bool
	Epoch uint64

	Schedule        []time.Duration                   // the waits after the first, second, … failed attempt
	ProbeSchedule   []time.Duration                   // the waits before probes, the last repeated; nil: Schedule's below DefaultProbeEvery, then that
	Jitter          func(time.Duration) time.Duration // of every wait; nil: up to a tenth more
	CircuitFailures int                               // failures in a row, over more than one order, that open the circuit
	MaxLanes        int                               // orders being retried at which a callback is congested; 0: the cursor's default
	DisableAfter    time.Duration                     // of failing without a success
	Grace           time.Duration                     // for attempts under way when Run is to end
	// Lookback is how many positions the shared reader goes back at most at start; callbacks further back begin as behind.
	Lookback uint64
	// Ring is how many events the shared reader keeps at hand (0: 8,192).
	Ring int
}

func (c Config) withDefaults() Config {
	if c.Owns == nil {
		c.Owns = func(int) bool { return true }
	}
	if len(c.Schedule) == 0 {
		c.Schedule = DefaultSchedule
	}
	if len(c.ProbeSchedule) == 0 {
		c.ProbeSchedule = probeSchedule(c.Schedule)
	}
	if c.Jitter == nil {
		c.Jitter = func(d time.Duration) time.Duration { return d + rand.N(d/10+1) }
	}
	if c.CircuitFailures == 0 {
		c.CircuitFailures = DefaultCircuitFailures
	}
	if c.DisableAfter == 0 {
		c.DisableAfter = DefaultDisableAfter
	}
	if c.Grace == 0 {
		c.Grace = DefaultGrace
	}
	if c.Lookback == 0 {
		c.Lookback = DefaultLookback
	}
	return c
}

// probeSchedule are the waits before probes: the first steps of the schedule of retries, then DefaultProbeEvery.
func probeSchedule(retries []time.Duration) []time.Duration {
	var waits []time.Duration
	for _, d := range retries {
		if d >= DefaultProbeEvery {
			break
		}
		waits = append(waits, d)
	}
	return append(waits, DefaultProbeEvery)
}

// Dispatcher delivers events to callbacks. Make it with New; Run does the work.
type Dispatcher struct {
	conf    Config
	metrics *metrics
	feed    *feed
	flush   *flusher
	marks   *watermarks
	ready   chan struct{}

	run      context.Context // ends when Run is to end
	life     context.Context // of attempts, reads and facts: ends with the grace
	stopping atomic.Bool
	chores   sync.WaitGroup

	settings settings

	mu        sync.RWMutex
	callbacks map[string]*callback

	complaints struct {
		sync.Mutex
		at time.Time
	}
}

// New makes a Dispatcher and registers its metrics.
func New(c Config) *Dispatcher {
	d := &Dispatcher{conf: c.withDefaults(), ready: make(chan struct{}), callbacks: map[string]*callback{}}
	d.feed = newFeed(c.Ring)
	d.flush = newFlusher(d)
	d.marks = &watermarks{d: d}
	d.metrics = newMetrics(c.Metrics, d)
	d.settings.init()
	return d
}

// Ready is closed once every callback has been loaded and the log is being followed.
func (d *Dispatcher) Ready() <-chan struct{} { return d.ready }

// Run delivers until ctx ends, then lets attempts under way end (at most Config.Grace), stores where everything stands and
// answers nil. It can be called once.
func (d *Dispatcher) Run(ctx context.Context) error {
	run, stopRun := context.WithCancel(ctx)
	life, stopLife := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLife()
	d.run, d.life = run, life

	var parts, flushing sync.WaitGroup
	stopFlush := make(chan struct{})
	flushing.Go(func() { d.flush.run(life, stopFlush) })
	watched := make(chan error, 1)
	parts.Go(func() { watched <- d.watch(run) })
	err := d.startUntil(run)
	if err == nil {
		parts.Go(func() {
			d.feed.run(run, d.conf.Store.Events, func(err error) { d.conf.Log.Warn("the log of events cannot be followed; trying again", "error", err) })
		})
		close(d.ready)
		<-ctx.Done()
	}

	d.stopping.Store(true)
	stopRun()
	parts.Wait()
	grace := time.AfterFunc(d.conf.Grace, stopLife)
	for _, c := range d.list() {
		c.stop(false)
	}
	grace.Stop()
	d.chores.Wait()
	close(stopFlush)
	flushing.Wait()
	d.finalFlush(context.WithoutCancel(ctx))
	if err != nil && ctx.Err() != nil {
		return nil
	}
	return err
}

// finalFlush stores what the last attempts came to, and the watermarks, so that the next start finds nothing to repeat.
func (d *Dispatcher) finalFlush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastFlush)
	defer cancel()
	for range 3 {
		list := d.flush.list(false)
		if len(list) == 0 {
			break
		}
		d.flush.round(ctx, list)
	}
	d.marks.write(ctx)
}

// list answers the callbacks that there are.
func (d *Dispatcher) list() []*callback {
	d.mu.RLock()
	defer d.mu.RUnlock()
	list := make([]*callback, 0, len(d.callbacks))
	for _, c := range d.callbacks {
		list = append(list, c)
	}
	return list
}

func (d *Dispatcher) find(id string) *callback {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.callbacks[id]
}

// complain logs that something could not be stored, at most once every ten seconds: while the store is away nothing can be.
func (d *Dispatcher) complain(what string, err error) {
	d.complaints.Lock()
	defer d.complaints.Unlock()
	if now := time.Now(); now.Sub(d.complaints.at) >= 10*time.Second {
		d.complaints.at = now
		d.conf.Log.Warn("deliveries could not be stored; they are kept and tried again", "what", what, "error", err)
	}
}

// Test makes one attempt for a callback over the very path that deliveries take, and records nothing. Id is the webhook-id.
func (d *Dispatcher) Test(ctx context.Context, cb relay.Callback, body []byte, id string) sender.Attempt {
	return d.conf.Sender.Send(ctx, newTarget(cb, relay.Client{}).request(id, body, time.Now()))
}

// ErrUnknown says that this replica does not deliver to the callback.
var ErrUnknown = errors.New("this replica does not deliver to the callback")

func shardOf(id string) int { return relay.ShardOf(id) }

// ReadFrom answers the position from which the shared reader goes on: everything before has been offered.
func (d *Dispatcher) ReadFrom() uint64 { return d.feed.pos.Load() + 1 }
