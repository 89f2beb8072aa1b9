// Package reconciler reads a connection's open orders again when notifications may have been lost, and publishes what
// has changed. A gap that was stored is never forgotten, whichever process dies, and nothing is published twice. Begin
// with Reconciler and Own; work.go does the runs.
package reconciler

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/gather"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

// Orders reads an order from the vendor with a connection's consent. Its errors are classified by
// audatex.OutcomeOf. Ctx limits the wait for the vendor's turn, which may be long; begin is called
// when the turn has come, right before the order is read.
type Orders interface {
	Order(ctx context.Context, connection, order string, begin func() (context.Context, error)) (json.RawMessage, error)
}

// Publisher puts events into the log.
type Publisher interface {
	// Begin returns the order's position in the log. It must be called before the order is read.
	Begin(ctx context.Context, site, order string, waiting []relay.Received) (relay.OrderPosition, error)
	Reconcile(
		ctx context.Context, pos relay.OrderPosition, reading relay.Snapshot,
	) (changed bool, outcome relay.PublishOutcome, err error)
	// Once publishes an operational event, unless there is one since a time with the same details
	// under the keys by.
	Once(ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any, since time.Time,
		by ...string) error
}

// Connections knows the configured connections.
type Connections interface {
	Connection(id string) (relay.Connection, bool)
	Connections(shard int) []relay.Connection
}

const (
	// openFor is how long after its last event an order is read again.
	openFor = 60 * 24 * time.Hour
	// listedLately is how long an entry of relay_open is kept regardless of its order's document:
	// the event that makes the order open may not be published yet.
	listedLately = 24 * time.Hour

	concurrency = 4  // orders of one connection read at the same time
	atOnce      = 16 // orders read at the same time in total
)

// Config is what New needs. Night and Grace may be zero.
type Config struct {
	Store       *store.Store
	Orders      Orders
	Publisher   Publisher
	Connections Connections
	Night       Night // when the orders of all connections are read again; the zero value means never

	Grace time.Duration // how long readings under way may go on after Own's context has ended

	Metrics *Metrics
	Log     *slog.Logger

	// Set by tests alone.
	now        func() time.Time
	retryLeast time.Duration // the shortest wait between attempts while the vendor cannot be reached; 250 ms if zero
	retryMost  time.Duration // the longest; 5 minutes if zero
	patience   time.Duration // how long orders are read again while no response makes sense; an hour if zero
}

// Reconciler reconciles the connections of the shards that this replica owns.
//
// The vendor has no list of orders, so these are the orders that the relay has seen: relay_open
// lists them by connection, and is written before an order's first event (internal/publisher).
//
// A run is requested by a suspected gap, a new subscription, an operator, and once a night. A
// document of the connection (relay.Reconciliation) has the run under way and its position. The
// owner of the connection's shard writes it under its epoch, at the revision that was read; the
// next owner continues from there. A connection without a request costs no memory and no goroutine.
//
// The poller detects gaps. Its document counts them, and ours has the number of gaps for which a
// run was requested.
type Reconciler struct {
	cfg   Config
	store *store.Store
	slots chan struct{} // one for each order that may be read at once
	whole chan struct{} // closed when relay_open is known to list every order
	// documents reads those of the connections of a shard.
	documents *gather.Reader[int, []store.Entry[relay.Reconciliation]]

	owning [relay.Shards]sync.Mutex // held while Own works on a shard

	mu     sync.Mutex
	shards [relay.Shards]*ownedShard
	gaps   map[int]map[string]relay.Poll // by shard and connection: documents with gaps that must be handled
}

var (
	// ErrNotOwned means that this replica does not own the connection's shard, or does not know the
	// connection yet.
	ErrNotOwned = errors.New("no such connection is reconciled by this replica")
	// errSuperseded means that another owner writes the document under a higher epoch.
	errSuperseded = errors.New("another replica has taken the connection over")
)

// New returns a Reconciler. Own starts it.
func New(c Config) *Reconciler {
	c.retryLeast, c.retryMost = cmp.Or(c.retryLeast, 250*time.Millisecond), cmp.Or(c.retryMost, 5*time.Minute)
	c.patience = cmp.Or(c.patience, time.Hour)
	c.Log = cmp.Or(c.Log, slog.Default())
	c.Metrics = cmp.Or(c.Metrics, NewMetrics(nil))
	if c.now == nil {
		c.now = time.Now
	}
	r := &Reconciler{
		cfg: c, store: c.Store, slots: make(chan struct{}, atOnce), whole: make(chan struct{}),
		gaps: map[int]map[string]relay.Poll{},
	}
	r.documents = gather.NewReader(r.readDocuments)
	c.Metrics.reconciler.Store(r)
	return r
}

// Suspected takes a connection's poll document that has a new gap, or had gaps when it was taken
// over.
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
		s.woken.Set()
	}
}

// Reconcile requests that a connection's open orders are read again, including delivered ones if
// delivered is set. It returns the connection's document once that is stored. If it returns
// ErrNotOwned, the caller must ask the owner.
func (r *Reconciler) Reconcile(ctx context.Context, connection string, delivered bool) (relay.Reconciliation, error) {
	r.mu.Lock()
	s := r.shards[relay.ShardOf(connection)]
	r.mu.Unlock()
	c, known := r.cfg.Connections.Connection(connection)
	if s == nil || !known || !s.loaded() || !s.lease.Valid() {
		return relay.Reconciliation{}, ErrNotOwned
	}
	now := r.cfg.now().UTC()
	l := s.line(connection)
	doc, err := l.want(ctx, c.Generation,
		relay.ReconcileWant{Causes: []relay.ReconcileCause{relay.CauseAsked}, Since: now, Delivered: delivered}, 0, now)
	if errors.Is(err, errSuperseded) {
		return relay.Reconciliation{}, ErrNotOwned
	}
	if err != nil {
		return relay.Reconciliation{}, fmt.Errorf("have connection %s reconciled: %w", connection, err)
	}
	s.begin(l)
	return doc, nil
}

// gapsOf returns the documents with gaps of a shard's connections that must be handled.
func (r *Reconciler) gapsOf(shard int) map[string]relay.Poll {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.gaps[shard])
}

// noted removes a document with gaps that was handled, unless there is a later one.
func (r *Reconciler) noted(connection string, doc relay.Poll) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.gaps[relay.ShardOf(connection)]
	if there, ok := of[connection]; ok && there.Gaps == doc.Gaps && there.Generation == doc.Generation {
		delete(of, connection)
	}
}

// Own reconciles the connections of a shard under its lease until ctx ends. It returns when
// everything that was under way has ended and is stored.
func (r *Reconciler) Own(ctx context.Context, lease *shard.Lease) error {
	n := lease.Shard()
	r.owning[n].Lock() // whoever held the shard before in this process has ended
	defer r.owning[n].Unlock()
	s := newOwnedShard(r, lease)
	r.hold(n, s)
	defer r.hold(n, nil)
	if s.load(ctx) {
		s.run(ctx)
	}
	return nil
}

func (r *Reconciler) hold(n int, s *ownedShard) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shards[n] = s
}
