// Package delivery makes and records every attempt at a callback, whoever reads the log for it: the dispatcher, a
// replay, a test. It makes attempts within what the replica and the callback may have under way, and records them in
// the chain of records that each callback has; it decides nothing about an outcome, as an event is sent again when its
// reader decides so. Begin reading at Deliverer.
package delivery

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
)

// Defaults of Config.
const (
	DefaultMaxAttempts = 4096
	DefaultHeldBytes   = 256 << 20
)

// Config is what a Deliverer is made from. Store, Sender and Log are needed.
type Config struct {
	Store   *store.Store
	Sender  *sender.Sender
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: metrics are kept and shown to nobody
	// MaxAttempts is how many attempts may be under way at once, of all callbacks together (0: DefaultMaxAttempts).
	MaxAttempts int
	// HeldBytes bounds the bodies of events that callbacks keep at hand (0: DefaultHeldBytes), and once more those that
	// attempts have read for themselves.
	HeldBytes int64
}

// Deliverer is shared by all readers of this replica's callbacks. It is safe for concurrent use.
//
// A reader takes a slot, makes an attempt, records it, and gives the slot back:
//
//	allowance := deliverer.Slots.Join(target.Callback.Client, target.Key, wake)
//	allowance.SetLimits(concurrency, most, target.Callback.RatePerSecond) // again when the target changes; most is
//	                                                                      // for this reader, 0: as the callback
//	if allowance.Wait(now) == 0 && allowance.Take() {                     // the rate, and what the receiver asks for;
//		                                                              // else wake is called once there is a slot
//		if !allowance.UseRate(now) { allowance.Release(); return }    // another reader was faster
//		a := delivery.Attempt{Target: target, Seqs: []uint64{seq}, Events: make([]*delivery.Event, 1)}
//		deliverer.Make(ctx, lease, &a)
//		allowance.Release()
//		if a.Err == nil && a.Chosen >= 0 {
//			records = append(records, a.Record(number, probe))
//			if !a.Outdated(present) { a.AdjustRate(allowance, now, probe) }
//		}
//	}
//	recorder := deliverer.Recorder(id, generation)                      // one for each reader of a callback
//	results := deliverer.Append(ctx, []delivery.Records{{Recorder: recorder, Records: records}})
type Deliverer struct {
	Targets *Targets
	Slots   *capacity.Slots
	Bodies  *capacity.Bodies
	Memory  *capacity.Memory
	Metrics *Metrics

	store  *store.Store
	sender *sender.Sender
	chains chains
}

// New makes a Deliverer and registers its metrics.
func New(c Config) *Deliverer {
	if c.MaxAttempts == 0 {
		c.MaxAttempts = DefaultMaxAttempts
	}
	if c.HeldBytes == 0 {
		c.HeldBytes = DefaultHeldBytes
	}
	d := &Deliverer{
		Targets: newTargets(c.Store, c.Log), Slots: capacity.NewSlots(c.MaxAttempts),
		Bodies: capacity.NewBodies(c.HeldBytes), Memory: capacity.NewMemory(c.HeldBytes),
		Metrics: NewMetrics(c.Metrics), store: c.Store, sender: c.Sender,
		chains: chains{last: map[string]relay.AttemptsEnd{}},
	}
	d.register(c.Metrics, c.MaxAttempts)
	return d
}

// Run keeps the targets up to date until ctx ends. It returns nil.
func (d *Deliverer) Run(ctx context.Context) error {
	d.Targets.Run(ctx)
	return nil
}

// Test makes one attempt for a callback exactly as deliveries are made, and records nothing. Id is the webhook-id;
// inspect is filled in. It takes one of the replica's slots, or returns ErrBusy if there is none.
func (d *Deliverer) Test(
	ctx context.Context, cb relay.Callback, body []byte, id string, inspect *sender.Inspection,
) (sender.Attempt, error) {
	allowance := d.Slots.Join(cb.Client, "", func() {}) // the callback's owner has counted it against the concurrency
	defer allowance.Leave()
	if !allowance.TryTake() {
		return sender.Attempt{}, ErrBusy
	}
	defer allowance.Release()
	request := NewTarget(cb, relay.Client{}).Request(id, body, time.Now())
	request.Inspect = inspect
	return d.sender.Send(ctx, request), nil
}

// CertificateEnds returns when the certificate of a callback's receiver ends, if that is soon or over.
func (d *Deliverer) CertificateEnds(t *Target) (time.Time, bool) {
	return d.sender.CertificateEnds(t.Key, time.Now())
}

// Release drops what is known of a callback to which this replica sends nothing more.
func (d *Deliverer) Release(t *Target) {
	d.Forget(t.Callback.ID)
	d.sender.Forget(t.Key)
}

// ErrBusy reports that the client has as many attempts under way as it may have.
var ErrBusy = errors.New("as many attempts are under way as there may be")
