package resolver

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// window is how many notifications of a connection are held at once.
	window = 512
	// circuitFailures is how many readings fail in a row, over more than one order, before the vendor is only probed.
	circuitFailures = 3
	// lastFlush bounds the storing of a cursor when the runner ends.
	lastFlush = 5 * time.Second
	// leaseAgain is how long a runner whose lease is not valid waits before it looks again.
	leaseAgain = 500 * time.Millisecond
)

// runner resolves the notifications of one connection under one lease. Its turns own its fields from stand on.
type runner struct {
	*Resolver
	lease      *shard.Lease
	connection string
	generation string
	log        *slog.Logger

	wake      func()             // for another turn
	announced announced          // pages known to be there
	again     atomic.Bool        // what is held may go now
	asked     chan chan progress // how far it is; answered once the cursor is loaded
	ended     chan struct{}      // closed when nothing is resolved any more

	asides  asides
	telling sync.Mutex // of tellUnknownSite
	self    selfRetry

	counting  sync.Mutex // of countUnlisted
	counted   int
	countedAt time.Time

	work     context.Context // of what is under way: it outlives the runner's by the grace time; nil until something is
	giveUp   context.CancelFunc
	stand    *stand // nil until it is loaded
	inbox    reader
	results  chan *result // made when the first batch begins
	workers  sync.WaitGroup
	flushed  time.Time
	paused   time.Time // nothing is taken or stored before
	trouble  backoff
	troubled bool
}

func (r *Resolver) newRunner(lease *shard.Lease, c relay.Connection, _ bool, wake func()) *runner {
	return &runner{
		Resolver: r, lease: lease, connection: c.ID, generation: c.Generation, log: r.log.With("connection", c.ID, "shard", lease.Shard()),
		wake: wake, asked: make(chan chan progress, 1), ended: make(chan struct{}),
		trouble: backoff{least: 100 * time.Millisecond, most: 5 * time.Second},
	}
}

// stored tells that a page is there. It may be called from any goroutine.
func (r *runner) stored(seq uint64) {
	r.announced.add(seq)
	r.wake()
}

// Change tells that the connection was changed, perhaps by a new consent. It may be called from any goroutine.
func (r *runner) Change(relay.Connection) { r.tryAgain() }

// tryAgain has what is held tried at once. It may be called from any goroutine.
func (r *runner) tryAgain() {
	r.again.Store(true)
	r.wake()
}

// Turn does what can be done, and returns how long there is nothing else; false when ctx has ended, or another owner takes over.
func (r *runner) Turn(ctx context.Context) (time.Duration, bool) {
	if r.stand == nil {
		if loaded, err := r.load(ctx); !loaded {
			r.tellEnd(ctx, err)
			return 0, false
		}
		r.trouble.reset()
	}
	r.hear(ctx)
	wait, err := r.step(ctx)
	if err == nil {
		return wait, true
	}
	r.tellEnd(ctx, r.end(ctx, err))
	return 0, false
}

// hear takes what has happened since the last turn: what has ended together is stored together.
func (r *runner) hear(ctx context.Context) {
	if r.again.Swap(false) {
		r.stand.ResumeAll(r.cfg.Now())
		r.self.want(r.cfg.Now())
	}
	for {
		select {
		case res := <-r.results:
			r.finish(ctx, res)
		case answer := <-r.asked:
			answer <- r.progress()
		case done := <-r.self.done:
			r.retried(ctx, done)
		default:
			return
		}
	}
}

// end waits for what is under way, as far as the grace time goes, and stores the cursor a last time. The error is what has ended it.
func (r *runner) end(ctx context.Context, err error) error {
	if r.giveUp != nil {
		defer r.giveUp()
		t := time.AfterFunc(r.cfg.Grace, r.giveUp)
		defer t.Stop()
		r.drain()
	}
	if errors.Is(err, errSuperseded) {
		return err
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
	defer cancel()
	return r.stand.flush(last)
}

func (r *runner) tellEnd(ctx context.Context, err error) {
	close(r.ended)
	switch {
	case errors.Is(err, errSuperseded):
		r.log.InfoContext(ctx, "another replica has taken the connection over; stepping back", "epoch", r.lease.Epoch())
	case err != nil && !errors.Is(err, context.Canceled):
		r.log.ErrorContext(ctx, "resolving of the connection has ended with its cursor not stored; what was resolved since is recognised by the log", "error", err)
	}
}

// load reads where the connection's inbox was read to; false if there is nothing to go on with, with the reason unless ctx has ended.
func (r *runner) load(ctx context.Context) (bool, error) {
	for {
		if !r.lease.Await(ctx) {
			return false, nil
		}
		found, err := r.loader.load(ctx, r)
		if err == nil {
			r.stand = found.stand
			r.inbox = reader{store: r.store, connection: r.connection, generation: r.generation, stand: r.stand, head: found.head, asides: &r.asides}
			for _, a := range found.asides {
				r.asides.put(a)
			}
			if !r.asides.empty() {
				r.self.want(r.cfg.Now())
			}
			return true, nil
		}
		if errors.Is(err, errSuperseded) {
			return false, err
		}
		if ctx.Err() == nil && !errors.Is(err, errContested) { // contested: the owner before still writes, so it is loaded again
			r.log.Log(ctx, store.Level(err, slog.LevelError), "cannot load where the connection's inbox was read to", "error", err)
		}
		if stopped := r.trouble.sleep(ctx); stopped != nil {
			return false, nil //nolint:nilerr // it was told to stop, and nothing had begun
		}
	}
}

// step does what can be done, and returns how long there is nothing else.
func (r *runner) step(ctx context.Context) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	now := r.cfg.Now()
	if !r.lease.Valid() { // nothing is begun and nothing stored: a renewal may be under way, or we are not the owner any more
		return leaseAgain, nil
	}
	if !r.paused.After(now) {
		if err := r.turn(ctx, now); err != nil {
			if ctx.Err() != nil || errors.Is(err, errSuperseded) {
				return 0, err
			}
			r.pause(ctx, now, err)
		}
	}
	return r.next(now), nil
}

// turn reads what is there, begins what may begin and stores what is due. Trouble with one of these does not keep it from the others.
func (r *runner) turn(ctx context.Context, now time.Time) error {
	read := r.inbox.fill(ctx, &r.announced, now)
	if read == nil {
		read = r.inbox.refill(ctx)
	}
	for {
		b, ok := r.stand.Take(now, cursor.LaneEntries)
		if !ok {
			break
		}
		items := r.inbox.hold(b)
		if r.results == nil {
			r.results = make(chan *result, r.cfg.Concurrency)
		}
		r.start(ctx, func() {
			res := r.resolveBatch(ctx, b, items)
			r.results <- &res
		})
	}
	r.retryAsides(ctx, now)
	if r.stand.Dirty() && (r.stand.InFlight() == 0 || !now.Before(r.flushed.Add(r.cfg.Flush))) {
		r.flushed = now
		if err := r.stand.flush(ctx); err != nil {
			return errors.Join(read, err)
		}
		r.recovered(ctx)
	}
	return read
}

// start has something done beside the turns, the next of which comes when it is done.
func (r *runner) start(ctx context.Context, do func()) {
	if r.work == nil {
		r.work, r.giveUp = context.WithCancel(context.WithoutCancel(ctx))
	}
	r.workers.Go(func() {
		do()
		r.wake()
	})
}

// next answers how long there is nothing to do but to wait for a result or a page.
func (r *runner) next(now time.Time) time.Duration {
	const idle = time.Hour
	wait := idle
	consider := func(at time.Time) {
		wait = min(wait, max(at.Sub(now), 0))
	}
	if r.paused.After(now) {
		consider(r.paused)
		return wait
	}
	if at, ok := r.stand.NextDue(now); ok {
		consider(at)
	}
	if r.stand.Dirty() {
		consider(r.flushed.Add(r.cfg.Flush))
	}
	if at, ok := r.inbox.due(); ok {
		consider(at)
	}
	if at, ok := r.self.next(); ok {
		consider(at)
	}
	return wait
}

// finish settles what a worker has ended with. Every result is dealt with here and nowhere else.
func (r *runner) finish(ctx context.Context, res *result) {
	now := r.cfg.Now()
	b := res.batch
	switch res.verdict {
	case resolved:
		r.stand.Succeed(b, now)
		r.recovered(ctx)
		r.inbox.forget(b.Order, b.Seqs)
	case handled:
		r.stand.Settle(b.Order, b.Seqs...)
		r.recovered(ctx)
		r.inbox.forget(b.Order, b.Seqs)
		if !r.asides.empty() {
			r.self.soon(now)
		}
	case held:
		r.stand.Fail(b, now, res.failure)
		if r.stand.Settle(b.Order, res.aside...); len(res.aside) > 0 {
			r.self.soon(now)
		}
		r.inbox.forgetOrder(b.Order) // read again when its time has come; that may be long
		if b.Attempt == 1 || b.Probe {
			site, order := cutLane(b.Order)
			r.log.Log(ctx, store.Level(res.err, slog.LevelWarn), "order cannot be read yet; its notifications are held", "site", site, "order", order,
				"notifications", len(b.Seqs)-len(res.aside), "reason", res.failure.Reason, "error", res.err,
				"correlation_id", audatex.CorrelationIDOf(res.err))
		}
	case stuck:
		r.stand.Release(b)
		r.pause(ctx, now, res.err)
	case stopped:
		r.stand.Release(b)
	}
}

// pause keeps the runner from hammering a store in trouble.
func (r *runner) pause(ctx context.Context, now time.Time, err error) {
	if !r.troubled {
		r.log.Log(ctx, store.Level(err, slog.LevelError), "resolving has failed; it is tried again", "error", err)
	}
	r.troubled = true
	if !r.paused.After(now) { // several results may tell of the same trouble
		r.paused = now.Add(r.trouble.wait())
	}
}

// recovered notes that the store has taken a write.
func (r *runner) recovered(ctx context.Context) {
	if r.troubled {
		r.troubled = false
		r.trouble.reset()
		r.log.DebugContext(ctx, "resolving works again")
	}
}

// drain waits for everything under way.
func (r *runner) drain() {
	if r.results == nil { // no batch was ever begun
		r.workers.Wait()
		return
	}
	go func() {
		r.workers.Wait()
		close(r.results)
	}()
	for res := range r.results {
		r.finish(context.Background(), res)
	}
}

// laneOf names a lane: orders are told apart by site, as one connection may carry several.
func laneOf(site, order string) string { return site + "." + order }

// cutLane is the way back from laneOf.
func cutLane(lane string) (site, order string) {
	site, order, _ = strings.Cut(lane, ".")
	return site, order
}

// received is a notification as the publisher takes it.
func (i *item) received() relay.Received {
	return relay.Received{Connection: i.connection, Seq: i.page, Index: i.index, Info: i.info}
}
