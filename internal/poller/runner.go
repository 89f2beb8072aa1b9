package poller

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// maxBackoff bounds how far apart polls of a failing connection get, as a multiple of its interval.
	maxBackoff = 8
	// storeRetry is how long the runner waits between tries while the store does not answer.
	storeRetry = time.Second
)

// runner polls one connection. One goroutine owns everything in it but what mu guards.
type runner struct {
	p          *Poller
	generation string
	ctx        context.Context
	stop       context.CancelFunc
	done       chan struct{}
	now        chan struct{} // a poll is wanted at once
	log        *slog.Logger

	doc      relay.Poll // as stored, at revision
	revision uint64
	unsaved  bool // the document could not be stored when last tried

	mu         sync.Mutex
	connection relay.Connection
	seen       seen
}

// seen is what the metrics tell of a connection.
type seen struct {
	state       State
	polledAt    time.Time
	refreshedAt time.Time
}

func (p *Poller) newRunner(ctx context.Context, c relay.Connection) *runner {
	ctx, cancel := context.WithCancel(ctx)
	return &runner{
		p: p, generation: c.Generation, ctx: ctx, stop: cancel, done: make(chan struct{}), now: make(chan struct{}, 1),
		connection: c, seen: seen{state: StateNew}, log: p.Log.With("connection", c.ID),
	}
}

// change takes a new configuration of the same connection.
func (r *runner) change(c relay.Connection) {
	r.mu.Lock()
	r.connection = c
	r.mu.Unlock()
	r.wake()
}

func (r *runner) wake() {
	select {
	case r.now <- struct{}{}:
	default: // one is wanted already
	}
}

func (r *runner) config() relay.Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connection
}

// run polls until the runner is stopped; storing is the context under which what was read is stored.
func (r *runner) run(storing context.Context) {
	ctx := r.ctx
	defer close(r.done)
	defer r.stop()
	if !r.recover(ctx) {
		return
	}
	// A restart must not send every connection's poll at once.
	next := time.NewTimer(rand.N(r.interval()/10 + 1))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.now:
		case <-next.C:
		}
		if ctx.Err() != nil {
			return
		}
		if r.config().Paused {
			r.set(func(s *seen) { s.state = StatePaused })
			continue // until it is changed
		}
		wait := r.poll(ctx, storing)
		next.Reset(wait)
	}
}

func (r *runner) interval() time.Duration {
	if s := r.config().PollIntervalSeconds; s > 0 {
		return time.Duration(s * float64(time.Second))
	}
	return r.p.Interval
}

// pause is the jittered time to the next poll after this many failures in a row.
func (r *runner) pause(failures int) time.Duration {
	d := r.interval()
	for range failures {
		if d >= maxBackoff*r.interval() {
			break
		}
		d *= 2
	}
	return d*9/10 + rand.N(d/5+1)
}

// recover reads where the connection stands, and tells of a poll whose end nobody knows. It answers false when ctx ended first.
func (r *runner) recover(ctx context.Context) bool {
	for {
		err := r.load(ctx)
		if err == nil {
			return true
		}
		r.log.Warn("where the connection stands cannot be read; trying again", "error", err)
		if !sleep(ctx, storeRetry) {
			return false
		}
	}
}

func (r *runner) load(ctx context.Context) error {
	id := r.config().ID
	doc, revision, err := r.p.Store.Polls.Get(ctx, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if doc.Generation != r.generation { // none yet, or another connection's of the same name
		doc = relay.Poll{Generation: r.generation}
	}
	r.doc, r.revision = doc, revision
	if doc.Intent == nil {
		return nil
	}
	intent := *doc.Intent
	last, err := r.p.Store.Inbox.Last(ctx, id)
	switch {
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return err
	case err == nil && last.PollID == intent.PollID: // stored; only the outcome was not written any more
		r.doc.Intent = nil
		r.doc.Outcome = &relay.PollOutcome{PollID: intent.PollID, At: last.ReceivedAt, Result: "done", InboxSeq: last.Seq, CorrelationID: last.CorrelationID}
		return r.save(ctx)
	}
	r.log.Warn("a poll was under way when the relay stopped, and what it brought is not in the inbox", "poll_id", intent.PollID, "at", intent.At)
	if err := r.suspect(ctx, intent.At, "The relay ended between a poll of the vendor and storing its answer."); err != nil {
		return err
	}
	r.doc.Intent = nil
	return r.save(ctx)
}

// suspect tells of a suspected gap since at. The document is saved by the caller.
func (r *runner) suspect(ctx context.Context, at time.Time, why string) error {
	r.doc.GapSuspectedAt = &at
	r.p.Metrics.gap()
	c := r.config()
	return r.p.Operations.Operational(ctx, siteOf(c), relay.KindGapSuspected, c.ID,
		why+" Notifications may have been lost at "+relay.FormatTime(at)+"; orders of this connection that changed then should be compared with Inpart.",
		map[string]any{"connection": c.ID, "since": relay.FormatTime(at)})
}

// save writes the document over the revision that was read. On a conflict the one who wrote last is believed if it was this
// runner itself, whose answer got lost.
func (r *runner) save(ctx context.Context) error {
	id := r.config().ID
	r.doc.Epoch = r.p.Epoch
	var revision uint64
	var err error
	if r.revision == 0 {
		revision, err = r.p.Store.Polls.Create(ctx, id, r.doc)
	} else {
		revision, err = r.p.Store.Polls.Update(ctx, id, r.doc, r.revision)
	}
	if err == nil {
		r.revision = revision
		return nil
	}
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrUnclear) {
		stored, at, readErr := r.p.Store.Polls.Get(ctx, id)
		if readErr != nil {
			return errors.Join(err, readErr)
		}
		if stored.Epoch <= r.p.Epoch {
			r.revision = at // ours, or that of an owner before us: the next write goes over it
		}
	}
	return err
}

func (r *runner) set(f func(*seen)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.seen)
}

// siteOf answers the site an operational event about a connection belongs to.
func siteOf(c relay.Connection) string {
	if sites := c.SiteNames(); len(sites) == 1 {
		return sites[0]
	}
	return relay.NoSite
}

// sleep waits; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
