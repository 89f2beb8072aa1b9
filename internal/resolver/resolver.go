// Package resolver makes readings of orders out of notifications: the second step of a notification's way. It reads the inbox by
// a cursor per connection, takes from each notification which order it is about and nothing else, reads that order from the
// vendor, and has the publisher make the events. A notification is settled only when its event is in the log or the
// notification itself lies in relay_unresolved.
//
// Notifications of one order wait for one another: all that wait share one reading, which begins after the last of them has arrived.
// Trouble with the vendor holds them for as long as it lasts; an order that the vendor keeps refusing is set aside after an
// hour, and anything that has waited ten days.
package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Orders reads an order from the vendor with a connection's consent. Its errors are judged by audatex.OutcomeOf.
type Orders interface {
	Order(ctx context.Context, connection, order string) (json.RawMessage, error)
}

// Publisher puts events into the log.
type Publisher interface {
	// Begin takes where the order stands in the log; it comes before the order is read.
	Begin(ctx context.Context, site, order string, waiting []relay.Received) (relay.Standing, error)
	Publish(ctx context.Context, standing relay.Standing, reading relay.Snapshot) (relay.PublishOutcome, error)
	Operational(ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any) error
}

// Defaults of a Config.
const (
	DefaultConcurrency = 4
	DefaultTotal       = 64
	DefaultFlush       = 200 * time.Millisecond
	DefaultGiveUp      = time.Hour
	DefaultHold        = 10 * 24 * time.Hour
	DefaultGrace       = 10 * time.Second
)

// DefaultSchedule holds the waits between tries while the vendor cannot be asked; the last is repeated for ever.
var DefaultSchedule = []time.Duration{5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute}

// Config is what a Resolver needs. Store, Orders and Publisher are required, everything else has a default.
type Config struct {
	Store     *store.Store
	Orders    Orders
	Publisher Publisher

	// Epoch is of the leases under which cursors are written; Owns says which shards are held (nil: all).
	Epoch uint64
	Owns  func(shard int) bool

	Concurrency int             // orders of one connection read at once
	Total       int             // orders read at once in all
	Schedule    []time.Duration // waits between tries
	Flush       time.Duration   // how often a busy cursor is stored
	GiveUp      time.Duration   // how long an order may be refused before its notifications are set aside
	Hold        time.Duration   // how long a notification may wait at all
	Grace       time.Duration   // how long readings under way may take to end after Run's context has

	Metrics *Metrics
	Log     *slog.Logger
	Now     func() time.Time
}

// Resolver resolves the notifications of every connection.
type Resolver struct {
	cfg   Config
	store *store.Store
	log   *slog.Logger
	slots chan struct{} // one for each order that may be read at once

	prepared bool

	mu      sync.Mutex
	runners map[string]*runner
	wg      sync.WaitGroup
}

// New makes a Resolver. Nothing is read yet.
func New(c Config) *Resolver {
	defaultInt(&c.Concurrency, DefaultConcurrency)
	defaultInt(&c.Total, DefaultTotal)
	defaultTime(&c.Flush, DefaultFlush)
	defaultTime(&c.GiveUp, DefaultGiveUp)
	defaultTime(&c.Hold, DefaultHold)
	defaultTime(&c.Grace, DefaultGrace)
	if len(c.Schedule) == 0 {
		c.Schedule = DefaultSchedule
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Resolver{
		cfg: c, store: c.Store, log: c.Log, slots: make(chan struct{}, c.Total), runners: map[string]*runner{},
	}
}

// Run resolves until ctx ends: then nothing new is taken, what is under way ends or is given up after the grace time, and every
// cursor is stored a last time. It calls Prepare unless that was done.
func (r *Resolver) Run(ctx context.Context) error {
	wait := backoff{least: 100 * time.Millisecond, most: 5 * time.Second}
	var from uint64
	for {
		err := r.Prepare(ctx)
		if err == nil {
			_, from, err = r.store.Inbox.Bounds(ctx)
		}
		if err == nil {
			break
		}
		r.log.ErrorContext(ctx, "resolver cannot start yet", "error", err)
		if stopped := wait.sleep(ctx); stopped != nil {
			return nil //nolint:nilerr // it was told to stop, and nothing had begun
		}
	}
	r.wg.Go(func() { r.follow(ctx, from+1) })
	r.watch(ctx)
	r.wg.Wait()
	return nil
}

// follow wakes the runner of each connection that a page comes in for.
func (r *Resolver) follow(ctx context.Context, from uint64) {
	wait := backoff{least: 100 * time.Millisecond, most: 5 * time.Second}
	for ctx.Err() == nil {
		err := func() error {
			tail, err := r.store.Inbox.Tail(ctx, from)
			if err != nil {
				return err
			}
			defer tail.Stop()
			for {
				m, err := tail.Next(ctx)
				if err != nil {
					return err
				}
				from = m.Seq + 1
				wait.reset()
				r.wake(r.store.Inbox.ConnectionOf(m), m.Seq)
			}
		}()
		if ctx.Err() != nil {
			return
		}
		r.log.WarnContext(ctx, "lost the inbox's tail; following it again", "error", err)
		_ = wait.sleep(ctx)
	}
}

func (r *Resolver) wake(connection string, seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if run := r.runners[connection]; run != nil {
		run.wake(seq)
	}
}

// watch keeps a runner for each connection until ctx ends.
func (r *Resolver) watch(ctx context.Context) {
	wait := backoff{least: 100 * time.Millisecond, most: 5 * time.Second}
	for ctx.Err() == nil {
		seen := map[string]bool{}
		err := r.store.Connections.Watch(ctx, func(e store.Entry[relay.Connection]) {
			if seen != nil {
				seen[e.Key] = true
			}
			if e.Deleted {
				r.stop(e.Key)
				return
			}
			r.start(ctx, e.Key, e.Value)
		}, func() {
			// What was deleted while nobody watched is not told.
			for _, id := range r.connections() {
				if !seen[id] {
					r.stop(id)
				}
			}
			seen = nil
			wait.reset()
		}, func(key string, err error) {
			r.log.ErrorContext(ctx, "cannot read a connection's document", "connection", key, "error", err)
		})
		if ctx.Err() != nil {
			return
		}
		r.log.WarnContext(ctx, "lost the watch of connections; watching again", "error", err)
		_ = wait.sleep(ctx)
	}
}

func (r *Resolver) connections() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := make([]string, 0, len(r.runners))
	for id := range r.runners {
		ids = append(ids, id)
	}
	return ids
}

// start has a runner for the connection as it is now. A connection made anew under an old id gets a new one, which begins
// when the old one has ended.
func (r *Resolver) start(ctx context.Context, id string, c relay.Connection) {
	if r.cfg.Owns != nil && !r.cfg.Owns(relay.ShardOf(id)) {
		r.stop(id)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.runners[id]
	if old != nil && !old.stopped && old.generation == c.Generation {
		old.changed() // perhaps it has a new consent: what is held may be tried at once
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	run := newRunner(r, id, c.Generation, cancel)
	if old != nil {
		old.cancel()
	}
	r.runners[id] = run
	r.wg.Go(func() {
		defer close(run.done)
		defer cancel()
		if old != nil {
			<-old.done
		}
		if err := run.run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			run.log.ErrorContext(ctx, "resolving of the connection has ended", "error", err)
		}
	})
}

func (r *Resolver) stop(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if run := r.runners[id]; run != nil {
		run.cancel()
		run.stopped = true // it stays known: a successor waits for its end
	}
}

func defaultInt(v *int, d int) {
	if *v <= 0 {
		*v = d
	}
}

func defaultTime(v *time.Duration, d time.Duration) {
	if *v <= 0 {
		*v = d
	}
}
