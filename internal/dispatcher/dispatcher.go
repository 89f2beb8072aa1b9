package dispatcher

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
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
	DefaultMaxAttempts     = 4096
)

// Config is what a Dispatcher is made from. Store, Sender, Operational and Log are needed.
type Config struct {
	Store       *store.Store
	Sender      *sender.Sender
	Operational Operational
	Log         *slog.Logger
	Metrics     prometheus.Registerer // nil: metrics are kept and shown to nobody

	Schedule        []time.Duration                   // the waits after the first, second, … failed attempt
	ProbeSchedule   []time.Duration                   // the waits before probes, the last repeated; nil: Schedule's below DefaultProbeEvery, then that
	Jitter          func(time.Duration) time.Duration // of every wait; nil: up to a tenth more
	CircuitFailures int                               // failures in a row, over more than one order, that open the circuit
	MaxLanes        int                               // orders being retried at which a callback is congested; 0: the cursor's default
	DisableAfter    time.Duration                     // of failing without a success
	Grace           time.Duration                     // for attempts under way when a shard is to be given up
	// Lookback is how many positions are read at most for all the callbacks of shards that arrive; those further back read by themselves.
	Lookback uint64
	// MaxAttempts is how many attempts may be under way at once, of all callbacks together (0: DefaultMaxAttempts); see places.
	MaxAttempts int
	// HeldBytes bounds the bodies of events that callbacks keep at hand (0: DefaultHeldBytes), see memory; and once more those
	// that attempts have read for themselves, see bodies.
	HeldBytes int64
	// Ring and RingBytes are how many events, and bytes of them, the shared reader keeps at hand (0: 8,192 and 32 MiB).
	Ring, RingBytes int
}

func (c Config) withDefaults() Config {
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
	if c.MaxAttempts == 0 {
		c.MaxAttempts = DefaultMaxAttempts
	}
	if c.HeldBytes == 0 {
		c.HeldBytes = DefaultHeldBytes
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

// Dispatcher delivers events to callbacks. Make it with New; Run does what is done once, Own the work on a shard.
type Dispatcher struct {
	conf     Config
	metrics  *metrics
	feed     *feed
	places   *places
	memory   memory
	bodies   *bodies
	flush    *flusher
	settings settings
	arrivals arrivals
	started  chan struct{} // closed once Run is at work
	ready    chan struct{}
	run      context.Context // ends when Run is to end

	mu        sync.RWMutex
	callbacks map[string]*callback
	tenures   [relay.Shards]*tenure
	closed    bool // no shard is taken on any more
	owners    sync.WaitGroup
	chores    sync.WaitGroup

	complaints struct {
		sync.Mutex
		at time.Time
	}
}

// New makes a Dispatcher and registers its metrics.
func New(c Config) *Dispatcher {
	d := &Dispatcher{conf: c.withDefaults(), started: make(chan struct{}), ready: make(chan struct{}), callbacks: map[string]*callback{}}
	d.places, d.memory.bound, d.bodies = newPlaces(d.conf.MaxAttempts), d.conf.HeldBytes, newBodies(d.conf.HeldBytes)
	d.feed = newFeed(d.conf.Ring, d.conf.RingBytes, d.bodies.saw)
	d.flush = newFlusher(d)
	d.metrics = newMetrics(c.Metrics, d)
	d.settings.init()
	d.arrivals.init()
	return d
}

// Ready is closed once the log is being followed and the callbacks of the shards that this replica was given first have been
// loaded. A replica that is given none is ready as well.
func (d *Dispatcher) Ready() <-chan struct{} { return d.ready }

// Run follows the settings and the log, and stores what the work on shards comes to, until ctx ends and every Own has returned; those
// end with it. It answers nil, and can be called once.
func (d *Dispatcher) Run(ctx context.Context) error {
	run, stopRun := context.WithCancel(ctx)
	defer stopRun()
	d.run = run
	close(d.started)

	var parts, flushing sync.WaitGroup
	stopFlush := make(chan struct{})
	flushing.Go(func() { d.flush.run(context.WithoutCancel(ctx), stopFlush) })
	parts.Go(func() { d.watch(run) })
	parts.Go(func() {
		if d.begin(run) {
			parts.Go(func() { d.receive(run) })
			d.feed.run(run, d.conf.Store.Events, func(err error) {
				d.conf.Log.Log(run, store.Level(err, slog.LevelWarn), "the log of events cannot be followed; trying again", "error", err)
			})
		}
	})
	<-ctx.Done()

	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.owners.Wait()
	parts.Wait()
	d.chores.Wait()
	close(stopFlush)
	flushing.Wait()
	return nil
}

// begin waits until the settings are known and says from where the log is followed: its end. What callbacks have not read before that
// is read when they are loaded. False: ctx has ended.
func (d *Dispatcher) begin(ctx context.Context) bool {
	for _, complete := range d.settings.complete {
		select {
		case <-complete:
		case <-ctx.Done():
			return false
		}
	}
	for {
		_, last, err := d.conf.Store.Events.Bounds(ctx)
		if err == nil {
			d.feed.start(last)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		d.conf.Log.Log(ctx, store.Level(err, slog.LevelWarn), "deliveries cannot start yet; trying again", "error", err)
		wait(ctx, time.Second)
	}
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

// find answers a callback that this replica delivers to.
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
		d.conf.Log.Log(context.Background(), store.Level(err, slog.LevelWarn), "deliveries could not be stored; they are kept and tried again", "what", what, "error", err)
	}
}

// Test makes one attempt for a callback over the very path that deliveries take, and records nothing. Id is the webhook-id.
// It takes one of the places that attempts have, or returns ErrBusy.
func (d *Dispatcher) Test(ctx context.Context, cb relay.Callback, body []byte, id string) (sender.Attempt, error) {
	place := d.places.join(cb.Client, func() {})
	defer place.leave()
	if !place.take() {
		return sender.Attempt{}, ErrBusy
	}
	defer place.release()
	return d.conf.Sender.Send(ctx, newTarget(cb, relay.Client{}).request(id, body, time.Now())), nil
}

// ErrBusy says that the client has as many attempts under way as it may have.
var ErrBusy = errors.New("as many attempts are under way as there may be")

// ErrUnknown says that this replica does not deliver to the callback.
var ErrUnknown = errors.New("this replica does not deliver to the callback")

// ReadFrom answers the position from which the shared reader goes on: everything before has been offered.
func (d *Dispatcher) ReadFrom() uint64 { return d.feed.pos.Load() + 1 }
