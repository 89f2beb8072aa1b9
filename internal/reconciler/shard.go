package reconciler

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

// The waits between tries while the store gives no answer.
const (
	storeLeast = 200 * time.Millisecond
	storeMost  = 5 * time.Second
)

// ownedShard is a shard as held by this replica under one lease.
type ownedShard struct {
	r     *Reconciler
	lease *shard.Lease
	log   *slog.Logger
	woken chan struct{}
	done  chan struct{} // closed when nothing is under way any more

	mu       sync.Mutex
	lines    map[string]*line // nil until they are loaded
	working  map[*line]bool   // those that somebody works on
	lost     bool             // a later owner was found: nothing is begun any more
	starting context.Context  // of what is begun; nil before and after
	ending   context.Context  // of what has begun: it outlives starting by the grace time
	workers  sync.WaitGroup
}

func newOwnedShard(r *Reconciler, lease *shard.Lease) *ownedShard {
	return &ownedShard{
		r: r, lease: lease, log: r.cfg.Log.With("shard", lease.Shard()), woken: make(chan struct{}, 1), done: make(chan struct{}),
		working: map[*line]bool{},
	}
}

func (s *ownedShard) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// load reads the documents of the shard's connections; false if ctx ended first, or another owner was found.
func (s *ownedShard) load(ctx context.Context) bool {
	for wait := (backoff{least: storeLeast, most: storeMost}); s.lease.Await(ctx); wait.sleep(ctx, 0) {
		docs, err := s.r.store.Reconciliations.All(ctx, store.ReconcileShard(s.lease.Shard()), func(key string, err error) {
			s.log.ErrorContext(ctx, "how far a connection is reconciled cannot be read; it begins again", "key", key, "error", err)
		})
		if err != nil {
			s.log.Log(ctx, store.Level(err, slog.LevelError), "how far the connections are reconciled cannot be read; trying again", "error", err)
			continue
		}
		lines := make(map[string]*line, len(docs))
		for _, e := range docs {
			if e.Value.Epoch > s.lease.Epoch() {
				s.superseded(e.Value.Epoch)
				<-ctx.Done() // the lease is told; it ends, or comes again under a higher epoch
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

// run begins what is wanted until ctx ends, and waits for what is under way.
func (s *ownedShard) run(ctx context.Context) {
	ending, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	s.mu.Lock()
	s.starting, s.ending = ctx, ending
	unfinished := make([]*line, 0, len(s.lines))
	for _, l := range s.lines {
		unfinished = append(unfinished, l)
	}
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

// loop notes gaps as they come and what is due at night.
func (s *ownedShard) loop(ctx context.Context) {
	again := backoff{least: storeLeast, most: storeMost}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for s.lease.Await(ctx) {
		next := s.night(ctx)
		if s.noteGaps(ctx) {
			again.reset()
		} else {
			next = min(next, again.next())
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

// noteGaps has runs follow the gaps that were told of; false if it must be tried again.
func (s *ownedShard) noteGaps(ctx context.Context) bool {
	all := true
	for id, poll := range s.r.gapsOf(s.lease.Shard()) {
		c, known := s.r.cfg.Connections.Connection(id)
		if !known || c.Generation != poll.Generation || poll.GapSince == nil {
			continue // it is told again when the connection is taken over
		}
		l, now := s.line(id), s.r.cfg.Now().UTC()
		w := relay.ReconcileWant{Causes: []relay.ReconcileCause{poll.GapCause}, Since: *poll.GapSince, Delivered: true}
		switch _, err := l.want(ctx, c.Generation, w, poll.Gaps, now); {
		case err == nil:
			s.r.noted(id, poll)
			s.begin(l)
		case errors.Is(err, errSuperseded):
		default:
			s.log.Log(ctx, store.Level(err, slog.LevelError), "a gap cannot be noted yet", "connection", id, "error", err)
			all = false
		}
	}
	return all
}

// line returns a connection's line.
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

// loaded reports whether the lines are those that are stored.
func (s *ownedShard) loaded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.starting != nil
}

// begin has somebody work on a line if there is something to do and nobody does.
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

// superseded notes that a later owner has written a document.
func (s *ownedShard) superseded(epoch uint64) {
	s.mu.Lock()
	s.lost = true
	s.mu.Unlock()
	s.lease.Superseded(epoch)
}

// end notes that nobody works on a line any more. What was wanted at the last moment begins now.
func (s *ownedShard) end(l *line) {
	s.mu.Lock()
	delete(s.working, l)
	s.mu.Unlock()
	s.begin(l)
}

// backoff waits longer each time, until it is reset.
type backoff struct {
	least, most time.Duration
	last        time.Duration
}

// next returns how long to wait now, with jitter: many must not come back together.
func (b *backoff) next() time.Duration {
	b.last = min(max(b.last*2, b.least), b.most)
	return b.last/2 + rand.N(b.last/2+1)
}

func (b *backoff) reset() { b.last = 0 }

// sleep waits, at least for a time; false if ctx ended first.
func (b *backoff) sleep(ctx context.Context, atLeast time.Duration) bool {
	t := time.NewTimer(max(b.next(), atLeast))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
