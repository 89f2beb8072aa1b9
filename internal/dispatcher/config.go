package dispatcher

import (
	"cmp"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/store"
)

// Defaults of Config.
const (
	// DefaultProbeEvery is the wait before each probe of an open circuit, after the schedule's shorter waits.
	DefaultProbeEvery      = 5 * time.Minute
	DefaultCircuitFailures = 5
	DefaultDisableAfter    = 5 * 24 * time.Hour
	DefaultGrace           = 20 * time.Second
	DefaultLookback        = 100_000
)

// Config is what a Dispatcher is made from. Store, Deliverer, Operational, Schedule and Log are needed.
type Config struct {
	Store       *store.Store
	Deliverer   *delivery.Deliverer
	Operational cursorstore.Operational // id names what an event is about: a callback's id, here
	Log         *slog.Logger
	Metrics     prometheus.Registerer // nil: metrics are kept and shown to nobody

	Schedule        []time.Duration                   // the waits after the first, second, … failed attempt
	ProbeSchedule   []time.Duration                   // the waits before probes, the last repeated; nil: see cursor.Probes
	Jitter          func(time.Duration) time.Duration // of every wait; nil: up to a tenth more
	CircuitFailures int                               // failures in a row, over more than one order, that open the circuit
	MaxLanes        int                               // orders in retry at which a callback is congested; 0: the cursor's default
	DisableAfter    time.Duration                     // of failing without a success
	Grace           time.Duration                     // for attempts under way when a shard must be given up
	ExpireEvery     time.Duration                     // how often the log's first position is asked for; 0: a minute
	// Lookback is how far behind the end of the log a callback may be that is read for together with others when its
	// shard comes to this replica. One that is further behind reads by itself.
	Lookback uint64
	// Ring and RingBytes are how many events, and bytes of them, the shared reader keeps at hand (0: 8,192 and 32 MiB).
	Ring, RingBytes int
}

func (c Config) withDefaults() Config {
	if len(c.ProbeSchedule) == 0 {
		c.ProbeSchedule = cursor.Probes(c.Schedule, DefaultProbeEvery)
	}
	if c.Jitter == nil {
		c.Jitter = func(d time.Duration) time.Duration { return d + rand.N(d/10+1) }
	}
	c.CircuitFailures = cmp.Or(c.CircuitFailures, DefaultCircuitFailures)
	c.DisableAfter, c.Grace = cmp.Or(c.DisableAfter, DefaultDisableAfter), cmp.Or(c.Grace, DefaultGrace)
	c.Lookback, c.ExpireEvery = cmp.Or(c.Lookback, DefaultLookback), cmp.Or(c.ExpireEvery, time.Minute)
	return c
}
