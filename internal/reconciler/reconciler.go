// Package reconciler reads the open orders of a connection again where notifications may have been lost, and has the publisher tell what
// has changed. The vendor has no list of orders, so these are the orders that the relay has seen: relay_open lists them by connection,
// and is written before an order's first event (internal/publisher).
//
// A run is wanted because of a suspected gap, a new subscription, by whoever asks for it, and once a night. Which run is under way, and
// how far it is, is a document of the connection (relay.Reconciliation). It is written by the owner of the connection's shard under its
// epoch, at the revision that was read, and survives its writer: the next owner goes on from there. Nothing is kept, and no goroutine
// runs, for a connection of which nothing is wanted.
//
// A gap is the poller's to tell. Its document counts them, and ours says how many of them a run was wanted for; so a gap that was stored
// is never forgotten, whoever dies in between.
package reconciler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

// Orders reads an order from the vendor with a connection's consent. Its errors are judged by audatex.OutcomeOf. Ctx is of the wait for
// the vendor's turn, which may be long; begin is called when it has come, right before the order is asked for.
type Orders interface {
	Order(ctx context.Context, connection, order string, begin func() (context.Context, error)) (json.RawMessage, error)
}

// Publisher puts events into the log.
type Publisher interface {
	// Begin takes where the order is in the log; it comes before the order is read.
	Begin(ctx context.Context, site, order string, waiting []relay.Received) (relay.OrderPosition, error)
	Reconcile(ctx context.Context, pos relay.OrderPosition, reading relay.Snapshot) (changed bool, outcome relay.PublishOutcome, err error)
	// Once publishes an operational event, unless there is one since a time with equal details under the keys by.
	Once(ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any, since time.Time, by ...string) error
}

// Connections tells which connections there are.
type Connections interface {
	Connection(id string) (relay.Connection, bool)
	Connections(shard int) []relay.Connection
}

const (
	// openFor is how long after its last event an order is looked for.
	openFor = 60 * 24 * time.Hour
	// listedLately is how long an entry of relay_open is kept whatever its order's document says: the event that makes the order open may
	// be on its way.
	listedLately = 24 * time.Hour
)

// Defaults of a Config.
const (
	DefaultConcurrency = 4
	DefaultTotal       = 16
	DefaultRetryLeast  = 250 * time.Millisecond
	DefaultRetryMost   = 5 * time.Minute
	DefaultPatience    = time.Hour
)

// Config is what New needs. Night and Grace may be zero.
type Config struct {
	Store       *store.Store
	Orders      Orders
	Publisher   Publisher
	Connections Connections
	Night       Night // when each connection's orders are read once a night; the zero value: never

	Concurrency int           // orders of one connection read at once
	Total       int           // orders read at once in all
	Grace       time.Duration // how long readings under way may take to end after Own's context has
	// RetryLeast and RetryMost bound the waits between tries while the vendor cannot be asked.
	RetryLeast, RetryMost time.Duration
	// Patience is how long orders are asked for again while every answer makes no sense.
	Patience time.Duration

	Metrics *Metrics
	Log     *slog.Logger
	Now     func() time.Time
}

// Reconciler reconciles the connections of the shards that this replica holds.
type Reconciler struct {
	cfg   Config
	store *store.Store
	slots chan struct{} // one for each order that may be read at once
	whole chan struct{} // closed when relay_open is known to list every order

	mu     sync.Mutex
	shards map[int]*ownedShard
	gaps   map[int]map[string]relay.Poll // by shard and connection, documents that tell of gaps and are to be looked at
}

var (
	// ErrNotOwned says that the connection's shard is not held here, or that no such connection is known here yet.
	ErrNotOwned = errors.New("no such connection is reconciled by this replica")
	// errSuperseded says that another owner writes the document under a higher epoch.
	errSuperseded = errors.New("another replica has taken the connection over")
)

// New makes a Reconciler. Own starts it.
func New(c Config) *Reconciler {
	if c.Concurrency <= 0 {
		c.Concurrency = DefaultConcurrency
	}
	if c.Total <= 0 {
		c.Total = DefaultTotal
	}
	if c.RetryLeast <= 0 {
		c.RetryLeast = DefaultRetryLeast
	}
	if c.RetryMost <= 0 {
		c.RetryMost = DefaultRetryMost
	}
	if c.Patience <= 0 {
		c.Patience = DefaultPatience
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	r := &Reconciler{
		cfg: c, store: c.Store, slots: make(chan struct{}, c.Total), whole: make(chan struct{}), shards: map[int]*ownedShard{}, gaps: map[int]map[string]relay.Poll{},
	}
	c.Metrics.observe(r)
	return r
}

// Suspected tells of a connection's poll document, which counts a gap more, or was taken over with some.
func (r *Reconciler) Suspected(connection string, doc relay.Poll) {
	n := relay.ShardOf(connection)
	r.mu.Lock()
	if r.gaps[n] == nil {
		r.gaps[n] = map[string]relay.Poll{}
	}
	r.gaps[n][connection] = doc
	s := r.shards[n]
	r.mu.Unlock()
	if s != nil {
		s.wake()
	}
}

// Reconcile has a connection's open orders read again, also those that were delivered if delivered says so. It returns when that is
// stored, with the connection's document. ErrNotOwned: ask the owner.
func (r *Reconciler) Reconcile(ctx context.Context, connection string, delivered bool) (relay.Reconciliation, error) {
	r.mu.Lock()
	s := r.shards[relay.ShardOf(connection)]
	r.mu.Unlock()
	c, known := r.cfg.Connections.Connection(connection)
	if s == nil || !known || !s.loaded() || !s.lease.Valid() {
		return relay.Reconciliation{}, ErrNotOwned
	}
	now := r.cfg.Now().UTC()
	l := s.line(connection)
	doc, err := l.want(ctx, c.Generation, relay.ReconcileWant{Causes: []relay.ReconcileCause{relay.CauseAsked}, Since: now, Delivered: delivered}, 0, now)
	if errors.Is(err, errSuperseded) {
		return relay.Reconciliation{}, ErrNotOwned
	}
	if err != nil {
		return relay.Reconciliation{}, fmt.Errorf("have connection %s reconciled: %w", connection, err)
	}
	s.begin(l)
	return doc, nil
}

// gapsOf returns the documents of a shard's connections that tell of gaps and are to be looked at.
func (r *Reconciler) gapsOf(shard int) map[string]relay.Poll {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.gaps[shard])
}

// noted forgets a document that tells of gaps, unless there is a later one.
func (r *Reconciler) noted(connection string, doc relay.Poll) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.gaps[relay.ShardOf(connection)]
	if there, ok := of[connection]; ok && there.Gaps == doc.Gaps && there.Generation == doc.Generation {
		delete(of, connection)
	}
}

// Own reconciles the connections of a shard under its lease until ctx ends. It returns when what was under way has ended and is stored.
func (r *Reconciler) Own(ctx context.Context, lease *shard.Lease) error {
	s := newOwnedShard(r, lease)
	if !r.take(ctx, s) {
		return nil
	}
	defer close(s.done)
	defer r.release(s)
	if !s.load(ctx) {
		return nil
	}
	s.run(ctx)
	return nil
}

// take begins to hold a shard once whoever held it before in this process has ended; false if ctx ended first.
func (r *Reconciler) take(ctx context.Context, s *ownedShard) bool {
	for {
		r.mu.Lock()
		before := r.shards[s.lease.Shard()]
		if before == nil {
			r.shards[s.lease.Shard()] = s
			r.mu.Unlock()
			return true
		}
		r.mu.Unlock()
		select {
		case <-before.done:
		case <-ctx.Done():
			return false
		}
	}
}

func (r *Reconciler) release(s *ownedShard) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.shards, s.lease.Shard())
}
