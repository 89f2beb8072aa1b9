// Package poller is the first stage: it empties the vendor's queue of every connection into the inbox.
//
// A vendor poll is destructive: what an answer carried is gone there the moment it was sent. So each poll is
//
//	intent (relay_polls) → call → page (relay_inbox) → outcome (relay_polls)
//
// The intent also proves that the store takes writes before anything is taken out of the vendor's queue. An intent that has no
// outcome, and whose poll id is not in the inbox either, is a suspected gap: the answer may have carried notifications that
// nobody stored. It is told as an operational event.
package poller

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Topic is what the relay subscribes to: orders created and updated.
const Topic = "PARTS.ORDER"

// Operations tells operators and subscribers of what happened to the relay itself.
type Operations interface {
	Operational(ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any) error
}

// Config is what New needs.
type Config struct {
	Store      *store.Store
	Session    func(relay.Connection) *audatex.Session
	Operations Operations
	Interval   time.Duration // of connections that name none
	PollBound  time.Duration // a poll has ended for certain this long after its intent
	// Owns says which shards are this replica's; Epoch is the lease's, written into every document.
	Owns  func(shard int) bool
	Epoch uint64
	// Grace is how long a page that was read is tried to be stored after the relay was told to stop.
	Grace   time.Duration
	Log     *slog.Logger
	Metrics *Metrics
}

// Poller polls the vendor for every connection of this replica's shards.
type Poller struct {
	Config
	mu      sync.Mutex
	runners map[string]*runner
}

// ErrNotOwned says that no connection of this id is polled here.
var ErrNotOwned = errors.New("no such connection is polled by this replica")

// New makes a poller; Run starts it.
func New(c Config) *Poller {
	p := &Poller{Config: c, runners: map[string]*runner{}}
	c.Metrics.observe(p)
	return p
}

// Run polls until ctx ends. Calls under way then run to their end and what they brought is stored.
func (p *Poller) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	// What was read from the vendor outlives ctx by the grace time.
	storing, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, func() { time.AfterFunc(p.Grace, giveUp) })()

	for ctx.Err() == nil {
		err := p.watch(ctx, storing, &running)
		if ctx.Err() == nil {
			p.Log.Warn("the watch on connections ended; it is started again", "error", err)
			sleep(ctx, storeRetry)
		}
	}
	return ctx.Err()
}

// watch starts, changes and stops runners as connections come, change and go.
func (p *Poller) watch(ctx, storing context.Context, running *sync.WaitGroup) error {
	listed := false
	return p.Store.Connections.Watch(ctx, func(e store.Entry[relay.Connection]) {
		p.mu.Lock()
		defer p.mu.Unlock()
		old := p.runners[e.Key]
		if old != nil && (e.Deleted || old.generation != e.Value.Generation) {
			old.stop()
			delete(p.runners, e.Key)
		}
		switch {
		case e.Deleted || !p.Owns(relay.ShardOf(e.Key)):
		case p.runners[e.Key] != nil:
			p.runners[e.Key].change(e.Value)
		default:
			r := p.newRunner(ctx, e.Value)
			if listed {
				r.wake() // who has just made it wants to see it work
			}
			p.runners[e.Key] = r
			running.Go(func() {
				if old != nil {
					<-old.done // its last writes come before this one's first read
				}
				r.run(storing)
			})
		}
	}, func() { listed = true }, func(key string, err error) {
		p.Log.Error("a connection cannot be read and is not polled; put it again", "connection", key, "error", err)
	})
}

// PollNow asks for a poll at once. It does not wait for it.
func (p *Poller) PollNow(_ context.Context, connection string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.runners[connection]
	if r == nil {
		return ErrNotOwned
	}
	r.wake()
	return nil
}
