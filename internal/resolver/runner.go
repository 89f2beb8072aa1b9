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
	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/trouble"
)

const (
	// window is how many notifications of a connection are held at once.
	window = 512
	// circuitFailures is how many readings fail in a row, over more than one order, before the
	// vendor is only probed.
	circuitFailures = 3
	// lastFlush bounds the storing of a cursor when the runner ends.
	lastFlush = 5 * time.Second
	// idle is the wait when nothing is known to be due.
	idle = time.Hour
	// leaseAgain is how long a runner whose lease is not valid waits before it looks again.
	leaseAgain = 500 * time.Millisecond
)

// runner resolves the notifications of one connection under one lease. Its turns own selfRetry, and
// the fields from arrival on.
type runner struct {
	*Resolver
	lease      *shard.Lease
	connection string
	generation string
	log        *slog.Logger

	wake      func()        // asks for another turn
	announced announced     // pages known to be in the inbox
	retryNow  atomic.Bool   // what waits for the vendor may be tried at once
	ended     chan struct{} // closed when the runner has ended

	progressRequests chan chan progress // answered once the cursor is loaded

	asides   asides
	self     selfRetry
	unlisted unlistedCount
	shown    shown

	arrival  *arrival      // nil unless the cursor is being loaded
	cursor   *storedCursor // nil until it is loaded
	inbox    reader
	underWay underWay
	flushed  time.Time // when the cursor was stored last
	trouble  troubles
}

// underWay is what a runner has begun and not ended.
type underWay struct {
	ctx     context.Context // outlives the runner's by the grace time; nil until something is begun
	giveUp  context.CancelFunc
	workers sync.WaitGroup
	results chan *result // made when the first batch begins
}

// troubles are what keeps a runner from working: the store and the vendor.
type troubles struct {
	storeTrouble
	vendor trouble.Times // when the vendor held up what waits
}

// storeTrouble makes a runner wait longer and longer while the store is in trouble.
type storeTrouble struct {
	backoff.Backoff
	until  time.Time // nothing is taken or stored before
	logged bool
}

func (r *Resolver) newRunner(lease *shard.Lease, c relay.Connection, _ bool, wake func()) *runner {
	return &runner{
		Resolver: r, lease: lease, connection: c.ID, generation: c.Generation,
		log: r.log.With("connection", c.ID, "shard", lease.Shard()), wake: wake,
		progressRequests: make(chan chan progress, 1), ended: make(chan struct{}),
		trouble: troubles{
			storeTrouble: storeTrouble{Backoff: backoff.Backoff{Least: 100 * time.Millisecond, Most: 5 * time.Second}}},
	}
}

// stored records that a page is there. It may be called from any goroutine.
func (r *runner) stored(seq uint64) {
	r.announced.add(seq, r.cfg.Now())
	r.wake()
}

// Change is called when the connection was changed, perhaps by a new consent. What waits for the vendor, or
// was set aside for lack of a consent, is tried at once. Change may be called from any goroutine.
func (r *runner) Change(relay.Connection) {
	r.retryNow.Store(true)
	r.wake()
}

// Turn does what can be done, and returns how long until there is something else. It returns false when ctx
// has ended, or another owner has taken over.
func (r *runner) Turn(ctx context.Context) (time.Duration, bool) {
	if r.cursor == nil {
		wait, err := r.load(ctx)
		if err != nil {
			r.logEnd(ctx, err)
			return 0, false
		}
		if r.cursor == nil {
			return wait, true
		}
	}
	r.takeEvents(ctx)
	wait, err := r.step(ctx)
	if err == nil {
		return min(wait, r.show(ctx)), true
	}
	r.logEnd(ctx, r.end(ctx, err))
	return 0, false
}

// takeEvents handles what has happened since the last turn, all of it before anything is stored.
func (r *runner) takeEvents(ctx context.Context) {
	if r.retryNow.Swap(false) {
		r.cursor.ResumeAll(r.cfg.Now())
		r.self.want(r.cfg.Now())
	}
	for {
		select {
		case res := <-r.underWay.results:
			r.finish(ctx, res)
		case answer := <-r.progressRequests:
			answer <- r.progress()
		case done := <-r.self.done:
			r.retried(ctx, done)
		default:
			return
		}
	}
}

// end waits for what is under way until the grace time is over, and stores the cursor a last time. If the connection
// was deleted, it removes the cursor instead. err is the reason for which the runner ends.
func (r *runner) end(ctx context.Context, err error) error {
	if r.underWay.giveUp != nil {
		defer r.underWay.giveUp()
		t := time.AfterFunc(r.cfg.Grace, r.underWay.giveUp)
		defer t.Stop()
		r.drain()
	}
	if errors.Is(err, errSuperseded) {
		return err
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
	defer cancel()
	if c, there := r.roster.Connection(r.connection); !there || c.Generation != r.generation {
		stored, err := r.cursors.LoadSome(last, []string{r.connection})
		if err == nil {
			r.erase(last, r.lease, stored[r.connection], c.Generation)
		}
		return err
	}
	return r.cursor.flush(last)
}

func (r *runner) logEnd(ctx context.Context, err error) {
	close(r.ended)
	switch {
	case errors.Is(err, errSuperseded):
		r.log.InfoContext(ctx, "another replica has taken the connection over; stepping back", "epoch", r.lease.Epoch())
	case err != nil && !errors.Is(err, context.Canceled):
		r.log.ErrorContext(ctx,
			"resolving of the connection has ended with its cursor not stored; what was resolved since is recognised "+
				"by the log",
			"error", err)
	}
}

// load takes the connection's cursor, once it is loaded. Until then it returns how long until it
// must be called again.
func (r *runner) load(ctx context.Context) (time.Duration, error) {
	switch {
	case ctx.Err() != nil: // if its cursor is adopted nevertheless, the next owner adopts it again
		return 0, ctx.Err()
	case !r.lease.Valid():
		return leaseAgain, nil
	case r.arrival == nil:
		r.arrival = r.loader.arrive(ctx, r)
	}
	if !r.arrival.ready() {
		return idle, nil
	}
	found, err := r.arrival.loaded, r.arrival.err
	r.arrival = nil
	switch {
	case errors.Is(err, errSuperseded):
		return 0, err
	case err != nil:
		if !errors.Is(err, errContested) { // contested: the owner before still writes, so it is loaded again
			r.log.Log(ctx, store.Level(err, slog.LevelError),
				"cannot load where the connection's inbox was read to", "error", err)
		}
		return r.trouble.Next(), nil
	}
	r.trouble.Reset()
	r.cursor = found.cursor
	r.noteVendor(r.cfg.Now())
	r.inbox = reader{store: r.store, connection: r.connection, generation: r.generation, cursor: r.cursor,
		head: found.head, asides: &r.asides}
	for _, a := range found.asides {
		r.asides.put(a)
	}
	if !r.asides.empty() {
		r.self.want(r.cfg.Now())
	}
	return 0, nil
}

// step does what can be done, and returns how long until there is something else.
func (r *runner) step(ctx context.Context) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	now := r.cfg.Now()
	if !r.lease.Valid() { // nothing is begun or stored: a renewal may be under way, or there is another owner
		return leaseAgain, nil
	}
	if !r.trouble.until.After(now) {
		if err := r.work(ctx, now); err != nil {
			if ctx.Err() != nil || errors.Is(err, errSuperseded) {
				return 0, err
			}
			r.pause(ctx, now, err)
		}
	}
	return r.next(now), nil
}

// work reads what has arrived, begins what may begin, and stores what is due. If one of these fails,
// it still does the others.
func (r *runner) work(ctx context.Context, now time.Time) error {
	read := r.inbox.fill(ctx, &r.announced, now)
	if read == nil {
		read = r.inbox.refill(ctx)
	}
	for {
		b, ok := r.cursor.Take(now, cursor.LaneEntries)
		if !ok {
			break
		}
		items, held := r.inbox.atHandOf(b), r.heldBack(b, now)
		if r.underWay.results == nil {
			r.underWay.results = make(chan *result, concurrency)
		}
		r.start(ctx, func() {
			res := r.resolveBatch(ctx, b, items, held)
			r.underWay.results <- &res
		})
	}
	r.retryAsides(ctx, now)
	if r.cursor.Dirty() && (r.cursor.InFlight() == 0 || !now.Before(r.flushed.Add(r.cfg.Flush))) {
		r.flushed = now
		if err := r.cursor.flush(ctx); err != nil {
			return errors.Join(read, err)
		}
		r.recovered(ctx)
	}
	return read
}

// start calls do in a goroutine, and asks for another turn when that has returned.
func (r *runner) start(ctx context.Context, do func()) {
	if r.underWay.ctx == nil {
		r.underWay.ctx, r.underWay.giveUp = context.WithCancel(context.WithoutCancel(ctx))
	}
	r.underWay.workers.Go(func() {
		do()
		r.wake()
	})
}

// next returns how long the runner has nothing to do unless a result or a page comes.
func (r *runner) next(now time.Time) time.Duration {
	wait := idle
	consider := func(at time.Time) {
		wait = min(wait, max(at.Sub(now), 0))
	}
	if r.trouble.until.After(now) {
		consider(r.trouble.until)
		return wait
	}
	if at, ok := r.cursor.NextDue(now); ok {
		consider(at)
	}
	if r.cursor.Dirty() {
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

// finish applies a worker's result to the cursor. Every result is handled here and nowhere else.
func (r *runner) finish(ctx context.Context, res *result) {
	now := r.cfg.Now()
	b := res.batch
	switch res.outcome {
	case batchResolved:
		r.cursor.Succeed(b, now)
		r.recovered(ctx)
		r.inbox.forget(b.Order, b.Seqs)
	case batchHandled:
		r.cursor.Settle(b.Order, b.Seqs...)
		r.recovered(ctx)
		r.inbox.forget(b.Order, b.Seqs)
		if !r.asides.empty() {
			r.self.soon(now)
		}
	case batchWaits:
		r.cursor.Fail(b, now, res.failure)
		if r.cursor.Settle(b.Order, res.aside...); len(res.aside) > 0 {
			r.self.soon(now)
		}
		r.inbox.forgetOrder(b.Order) // it may wait for long, and is read again then
		if b.Attempt == 1 || b.Probe {
			site, order := cutLane(b.Order)
			r.log.Log(ctx, store.Level(res.err, slog.LevelWarn), "order cannot be read yet; its notifications are held",
				"site", site, "order", order, "notifications", len(b.Seqs)-len(res.aside), "reason", res.failure.Reason,
				"error", res.err,
				"correlation_id", audatex.CorrelationIDOf(res.err))
		}
	case batchStoreFailed:
		r.cursor.Release(b)
		r.pause(ctx, now, res.err)
	case batchStopped:
		r.cursor.Release(b)
	}
	r.noteVendor(now)
}

// pause has the runner wait, as the store is in trouble.
func (r *runner) pause(ctx context.Context, now time.Time, err error) {
	if !r.trouble.logged {
		r.log.Log(ctx, store.Level(err, slog.LevelError), "resolving has failed; it is tried again", "error", err)
	}
	r.trouble.logged = true
	if !r.trouble.until.After(now) { // several results may have failed by the same trouble
		r.trouble.until = now.Add(r.trouble.Next())
	}
}

// recovered records that the store has taken a write.
func (r *runner) recovered(ctx context.Context) {
	if r.trouble.logged {
		r.trouble.logged = false
		r.trouble.Reset()
		r.log.DebugContext(ctx, "resolving works again")
	}
}

// drain waits for everything under way.
func (r *runner) drain() {
	if r.underWay.results == nil { // no batch was ever begun
		r.underWay.workers.Wait()
		return
	}
	go func() {
		r.underWay.workers.Wait()
		close(r.underWay.results)
	}()
	for res := range r.underWay.results {
		r.finish(context.Background(), res)
	}
}

// laneOf returns the key of a lane. It contains the site, as a connection may have several.
func laneOf(site, order string) string { return site + "." + order }

// cutLane is the inverse of laneOf.
func cutLane(lane string) (site, order string) {
	site, order, _ = strings.Cut(lane, ".")
	return site, order
}

// received returns the notification in the form that the publisher takes, without the time that it was held up.
func (i *item) received() relay.Received {
	return relay.Received{Connection: i.connection, Seq: i.page, Index: i.index, Info: i.info}
}
