// Package resolver is the second step of a notification's way: it reads the inbox by a cursor per connection, takes
// from each notification which order it is about and nothing else, reads that order from the vendor, and has the
// publisher make the events. A notification is settled only when its event is in the log, or the notification itself is
// in relay_unresolved. Begin reading at runner.go, where Turn is what a connection's runner does again and again; the
// files, in the order in which a notification goes through them:
//
//	load.go       adopts the cursors of connections when a shard comes; cursor.go stores them
//	runner.go     the turns of a connection's runner; announced.go has the pages that have arrived
//	read.go       reads pages of the inbox and offers their notifications to the cursor
//	work.go       resolves the notifications of one order; held.go has for how long the vendor held them up
//	aside.go      sets aside what cannot be resolved; foreign.go what is no notification
//	asides.go     what a runner knows of its notifications that were set aside
//	selfretry.go  retries these when there is a reason to; retry.go on request
//	waiting.go    how many notifications wait; shown.go the same for the metrics
//	prepare.go    before a replica takes any shard: cursors that are beyond the end of the inbox
package resolver

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/gather"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/roster"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

// Orders reads an order from the vendor with a connection's consent. audatex.OutcomeOf classifies
// its errors. ctx bounds the wait for the vendor's turn, which may be long. begin is called when
// the turn has come, right before the request; it returns the context of the request, or an error
// that prevents it.
type Orders interface {
	Order(ctx context.Context, connection, order string, begin func() (context.Context, error)) (json.RawMessage, error)
}

// Publisher puts events into the log.
type Publisher interface {
	// Begin returns the order's position in the log. It is called before the order is read.
	Begin(ctx context.Context, site, order string, waiting []relay.Received) (relay.OrderPosition, error)
	Publish(ctx context.Context, pos relay.OrderPosition, reading relay.Snapshot) (relay.PublishOutcome, error)
	Operational(ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any) error
	// Once is Operational for what must be published only once: an event since a time with equal details
	// under the keys by is the same.
	Once(ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any,
		since time.Time, by ...string) error
}

const (
	concurrency = 4                   // orders of one connection read at once
	giveUpAfter = time.Hour           // how long an order may be refused before its notifications are set aside
	holdFor     = 10 * 24 * time.Hour // how long a notification may wait at all
)

// Defaults of a Config.
const (
	DefaultTotal = 64
	DefaultFlush = 200 * time.Millisecond
	DefaultGrace = 10 * time.Second
)

// DefaultSchedule holds the waits between tries while the vendor cannot be asked; the last is
// repeated for ever. Each is about as long as all before it together. So when the vendor is back, what waits
// is resolved after at most about as long again as it was away, and never after more than five minutes.
var DefaultSchedule = []time.Duration{5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute}

// Config is what a Resolver needs. Store, Orders and Publisher are required, everything else has a default.
type Config struct {
	Store     *store.Store
	Orders    Orders
	Publisher Publisher

	Total    int             // orders read at once in all
	Schedule []time.Duration // waits between tries
	Flush    time.Duration   // how often a busy cursor is stored
	Grace    time.Duration   // how long readings under way may take to end after Own's context has

	Metrics *Metrics
	Log     *slog.Logger
	Now     func() time.Time
}

// Resolver resolves the notifications of the connections of the shards that this replica holds.
//
// Notifications of one order that wait together share one reading, which begins after the last of them
// has arrived. While the vendor is in trouble they wait. An order that the vendor keeps refusing is set
// aside after an hour, and anything after ten days.
//
// The goroutines:
//
//   - Run follows the inbox and the connections. Own waits for the end of a shard's work.
//   - A runner has one during its turns only, which roster gives it. The first of many runners that need
//     their cursors loads all of them within its turn.
//   - Each batch, look and retry under way has one (runner.start). The runner's next turn takes the result.
type Resolver struct {
	cfg     Config
	store   *store.Store
	cursors *cursorstore.Store
	kept    *gather.Reader[int, []string] // of shards: whose cursors are stored
	log     *slog.Logger
	slots   chan struct{} // one for each order that may be read at once
	roster  *roster.Roster[*runner]
	loader  loader

	prepared bool
}

// New makes a Resolver. Nothing is read yet.
func New(c Config) *Resolver {
	c.Total = cmp.Or(max(c.Total, 0), DefaultTotal)
	c.Flush = cmp.Or(max(c.Flush, 0), DefaultFlush)
	c.Grace = cmp.Or(max(c.Grace, 0), DefaultGrace)
	c.Log = cmp.Or(c.Log, slog.Default())
	c.Metrics = cmp.Or(c.Metrics, NewMetrics(nil))
	if len(c.Schedule) == 0 {
		c.Schedule = DefaultSchedule
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	r := &Resolver{cfg: c, store: c.Store, log: c.Log, slots: make(chan struct{}, c.Total)}
	r.cursors = cursorstore.New(c.Store, store.InboxCursors, c.Log)
	r.kept = gather.NewReader(r.keptOf)
	r.loader.r = r
	r.loader.arrivals = gather.New(r.loader.batch)
	r.roster = roster.New(roster.Config[*runner]{Connections: c.Store.Connections, Make: r.newRunner, Log: c.Log})
	c.Metrics.resolver.Store(r)
	return r
}

// Run follows the inbox and the list of connections until ctx ends. It calls Prepare unless that was done.
// Resolving itself is Own's part.
func (r *Resolver) Run(ctx context.Context) error {
	wait := backoff.Backoff{Least: 100 * time.Millisecond, Most: 5 * time.Second}
	var from uint64
	for {
		err := r.Prepare(ctx, nil)
		if err == nil {
			_, from, err = r.store.Inbox.Bounds(ctx)
		}
		if err == nil {
			break
		}
		r.log.Log(ctx, store.Level(err, slog.LevelError), "resolver cannot start yet", "error", err)
		if !wait.Sleep(ctx, 0) {
			return nil // it must stop, and nothing had begun
		}
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { r.roster.Run(ctx) })
	r.follow(ctx, from+1)
	return nil
}

// Own resolves the notifications of a shard's connections under its lease until ctx ends. Then it begins
// nothing new, waits for what is under way until the grace time is over, and returns when every cursor is
// stored a last time. Nothing begins before Run has.
func (r *Resolver) Own(ctx context.Context, lease *shard.Lease) error {
	var erasing sync.WaitGroup
	defer erasing.Wait()
	erasing.Go(func() { r.eraseDeleted(ctx, lease) })
	return r.roster.Own(ctx, lease)
}

// follow wakes the runner of each connection for which a page arrives.
func (r *Resolver) follow(ctx context.Context, from uint64) {
	wait := backoff.Backoff{Least: 100 * time.Millisecond, Most: 5 * time.Second}
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
				wait.Reset()
				r.wake(r.store.Inbox.ConnectionOf(m), m.Seq)
			}
		}()
		if ctx.Err() != nil {
			return
		}
		r.log.Log(ctx, store.Level(err, slog.LevelWarn), "lost the inbox's tail; following it again", "error", err)
		wait.Sleep(ctx, 0)
	}
}

// Behind reports whether as many orders are being read as may be at once: others have to wait.
func (r *Resolver) Behind() bool { return len(r.slots) == cap(r.slots) }

func (r *Resolver) wake(connection string, seq uint64) {
	if run, ok := r.roster.Runner(connection); ok {
		run.stored(seq)
	}
}
