package reconciler

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/signal"
	"github.com/audatex-relay/relay/internal/store"
)

// The waits between attempts while the store does not respond.
const (
	storeLeast = 200 * time.Millisecond
	storeMost  = 5 * time.Second
)

// ownedShard is a shard that this replica owns under one lease.
type ownedShard struct {
	r     *Reconciler
	lease *shard.Lease
	log   *slog.Logger
	woken signal.Signal

	mu       sync.Mutex
	lines    map[string]*line // nil until they are loaded
	working  map[*line]bool   // those with a worker
	lost     bool             // a later owner was found: nothing more is begun
	starting context.Context  // ends what has not begun yet; nil before run and after loop
	ending   context.Context  // ends what has begun; it outlives starting by the grace time
	workers  sync.WaitGroup
}

func newOwnedShard(r *Reconciler, lease *shard.Lease) *ownedShard {
	return &ownedShard{
		r: r, lease: lease, log: r.cfg.Log.With("shard", lease.Shard()), woken: signal.New(),
		working: map[*line]bool{},
	}
}

// load reads the documents of the shard's connections. It returns false if ctx ended before, or
// another owner was found.
func (s *ownedShard) load(ctx context.Context) bool {
	for wait := (backoff.Backoff{Least: storeLeast, Most: storeMost}); s.lease.Await(ctx); wait.Sleep(ctx, 0) {
		docs, err := s.r.documents.Read(ctx, s.lease.Shard())
		if err != nil {
			if ctx.Err() == nil {
				s.log.Log(ctx, store.Level(err, slog.LevelError),
					"how far the connections are reconciled cannot be read; trying again", "error", err)
			}
			continue
		}
		lines := make(map[string]*line, len(docs))
		for _, e := range docs {
			if e.Value.Epoch > s.lease.Epoch() {
				s.superseded(e.Value.Epoch)
				<-ctx.Done() // the lease knows; it ends, or is acquired again under a higher epoch
				return false
			}
			id := store.ReconciledConnection(e.Key)
			lines[id] = &line{s: s, connection: id, doc: e.Value, revision: e.Revision}
		}
		s.mu.Lock()
		s.lines = lines
		s.mu.Unlock()
		return true
	}
	return false
}

// readDocuments reads the documents of the connections of some shards.
func (r *Reconciler) readDocuments(ctx context.Context, shards []int) (map[int][]store.Entry[relay.Reconciliation], error) {
	prefixes := store.ShardPrefixes(shards, store.FewPrefixes, store.ReconcileShard, store.ReconcileEverywhere)
	docs, err := r.store.Reconciliations.AllOf(ctx, prefixes, func(key string, err error) {
		r.cfg.Log.ErrorContext(ctx, "how far a connection is reconciled cannot be read; it begins again", "key", key,
			"error", err)
	})
	by := map[int][]store.Entry[relay.Reconciliation]{}
	for _, e := range docs {
		n := relay.ShardOf(store.ReconciledConnection(e.Key))
		by[n] = append(by[n], e)
	}
	return by, err
}

// run begins what was requested until ctx ends, and waits for what is under way.
func (s *ownedShard) run(ctx context.Context) {
	ending, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	s.mu.Lock()
	s.starting, s.ending = ctx, ending
	unfinished := slices.Collect(maps.Values(s.lines))
	s.mu.Unlock()
	for _, l := range unfinished {
		s.begin(l)
	}
	s.loop(ctx)
	s.mu.Lock()
	s.starting = nil
	s.mu.Unlock()
	t := time.AfterFunc(s.r.cfg.Grace, giveUp)
	defer t.Stop()
	s.workers.Wait()
}

// loop handles gaps when they are reported, and begins nightly runs when they are due.
func (s *ownedShard) loop(ctx context.Context) {
	again := backoff.Backoff{Least: storeLeast, Most: storeMost}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for s.lease.Await(ctx) {
		next := s.night(ctx)
		if s.noteGaps(ctx) {
			again.Reset()
		} else {
			next = min(next, again.Next())
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-s.woken:
		case <-timer.C:
		}
	}
}

// noteGaps requests runs for the reported gaps. It returns false if it must be called again.
func (s *ownedShard) noteGaps(ctx context.Context) bool {
	all := true
	for id, poll := range s.r.gapsOf(s.lease.Shard()) {
		c, known := s.r.cfg.Connections.Connection(id)
		if !known || c.Generation != poll.Generation || poll.GapSince == nil {
			continue // it is reported again when the connection is taken over
		}
		l, now := s.line(id), s.r.cfg.now().UTC()
		w := relay.ReconcileWant{Causes: []relay.ReconcileCause{poll.GapCause}, Since: *poll.GapSince, Delivered: true}
		switch _, err := l.want(ctx, c.Generation, w, poll.Gaps, now); {
		case err == nil:
			s.r.noted(id, poll)
			s.begin(l)
		case errors.Is(err, errSuperseded):
		default:
			s.log.Log(ctx, store.Level(err, slog.LevelError), "a gap cannot be noted yet",
				"connection", id, "error", err)
			all = false
		}
	}
	return all
}

// line returns a connection's line, a new one if there is none.
func (s *ownedShard) line(connection string) *line {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lines[connection]
	if l == nil {
		l = &line{s: s, connection: connection}
		if s.lines != nil {
			s.lines[connection] = l
		}
	}
	return l
}

// loaded reports whether the lines are the stored ones.
func (s *ownedShard) loaded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.starting != nil
}

// begin starts a worker for a line if there is something to do and the line has none.
func (s *ownedShard) begin(l *line) {
	if l.read().Run == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.starting == nil || s.starting.Err() != nil || s.lost || s.working[l] {
		return
	}
	s.working[l] = true
	w := &worker{line: l, log: s.log.With("connection", l.connection)}
	starting, ending := s.starting, s.ending
	s.workers.Go(func() {
		w.work(starting, ending)
		s.end(l)
	})
}

// superseded records that a later owner has written a document.
func (s *ownedShard) superseded(epoch uint64) {
	s.mu.Lock()
	s.lost = true
	s.mu.Unlock()
	s.lease.Superseded(epoch)
}

// end removes a line's worker. If a run was requested at the last moment, it begins now.
func (s *ownedShard) end(l *line) {
	s.mu.Lock()
	delete(s.working, l)
	s.mu.Unlock()
	s.begin(l)
}
