package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// storeAgain is how long a replay waits after the store could not be read or written.
	storeAgain = time.Second
	// unknownMost is how long a replay waits at most before it looks again for its callback or its client, of which one
	// is not known. It looks at once when one of them changes.
	unknownMost = time.Minute
	// lastRounds is how often what has ended is stored at most when a shard is given up.
	lastRounds = 3
	// lastFlush bounds these writes.
	lastFlush = 10 * time.Second
)

// errFenced reports that a later owner of the shard has taken the replay on.
var errFenced = errors.New("a later owner of the shard goes on with the replay")

// runner works one replay for as long as this replica owns its shard. Its goroutine owns everything
// here; attempts are made by goroutines that hand back what came of them.
type runner struct {
	r     *Replayer
	lease *shard.Lease
	key   string
	log   *slog.Logger

	callback, generation, client string // whose replay it is; others may read these

	doc      relay.Replay
	revision uint64
	sel      *selection
	target   current // the callback as it is configured now, for attempts that have waited
	cur      *cursor.Cursor
	handle   *cursorstore.Handle
	// recorded are events that have ended, as an earlier owner has recorded without having come to
	// store it in the cursor.
	recorded map[uint64]relay.DeliveryStatus

	share    *share
	page     page // read and not offered yet
	atHand   delivery.AtHand
	sparse   bool // little of what was read last is selected
	bodySize int  // the average of the last page that was read whole; 0: there was none
	results  chan *attempt
	flying   int
	changed  chan struct{} // the document may have changed
	answers  atomic.Bool   // a test has shown that the receiver responds
	retryAt  time.Time     // nothing is read or taken before

	recorder *delivery.Recorder
	storing  storing
}

// newRunner makes a runner for a replay of the shard.
func newRunner(r *Replayer, lease *shard.Lease, entry store.Entry[relay.Replay]) *runner {
	doc := entry.Value
	return &runner{
		r: r, lease: lease, key: entry.Key, callback: doc.Callback, generation: doc.CallbackGeneration,
		client: doc.Client, doc: doc, revision: entry.Revision,
		log:     r.c.Log.With("callback", doc.Callback, "replay", doc.ID),
		results: make(chan *attempt), changed: make(chan struct{}, 1),
		recorder: r.c.Deliverer.Recorder(doc.Callback, doc.CallbackGeneration),
	}
}

// wake has the runner look whether its document or its callback has changed.
func (w *runner) wake() {
	w.target.changes.Add(1)
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// run works the replay until it has ended or ctx has.
func (w *runner) run(ctx context.Context) {
	unknown := backoff.Backoff{Least: storeAgain, Most: unknownMost}
	for logged := false; ctx.Err() == nil; {
		ready, err := w.load(ctx)
		switch {
		case err == nil && ready:
			err = w.work(ctx)
		case err == nil: // it ended before it was loaded
			err = w.end(ctx)
		}
		switch {
		case err == nil, ctx.Err() != nil, errors.Is(err, errFenced):
			return
		case errors.Is(err, errUnknown): // it is not known here yet, or the replay is about to be removed
			wait := unknown.Next()
			if wait > unknownMost/2 && !logged {
				w.log.Warn("a replay waits: its callback or the client of that is not known")
				logged = true
			}
			w.wait(ctx, wait)
		default:
			w.log.Log(ctx, store.Level(err, slog.LevelWarn),
				"a replay cannot go on now; it is tried again", "error", err)
			unknown.Reset()
			backoff.Sleep(ctx, storeAgain)
		}
		if !w.refresh(ctx) {
			return
		}
	}
}

// wait waits until something may have changed, at most for a time.
func (w *runner) wait(ctx context.Context, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-w.changed:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// refresh reads the document again; false if there is none.
func (w *runner) refresh(ctx context.Context) bool {
	entry, there, err := w.r.replays.Read(ctx, w.key)
	if there && err == nil {
		w.doc, w.revision = entry.Value, entry.Revision
	}
	return there || err != nil
}

// work delivers what the replay selects. It returns nil once the replay has ended or ctx has, and
// everything that must be stored of it is. It fails while ctx lasts only with errFenced: nothing
// that has ended is forgotten.
func (w *runner) work(ctx context.Context) error {
	turns, stopTurns := context.WithCancel(ctx)
	defer stopTurns()
	life, stopLife := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLife()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(w.r.c.Grace, stopLife) })()
	w.share = w.r.shares.join(w.sel.callback)
	defer w.share.leave()
	w.atHand.Join(w.r.memory)
	defer func() { w.atHand.DropAll(); w.r.memory.Join(-1) }()
	err := w.loop(ctx, turns, life, w.look, w.store)
	stopTurns()
	for w.flying > 0 {
		w.judge(<-w.results)
	}
	if err != nil {
		return err
	}
	return w.finish(ctx)
}

// loop reads, sends, judges and stores until everything that the replay selects has ended, the replay or
// ctx has ended, or look or write fails. Attempts wait for their turn until turns ends, and are cut off
// when life ends. Look is called when something has changed, write when it is time to store.
func (w *runner) loop(ctx, turns, life context.Context, look, write func(context.Context) error) (err error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil && w.doc.Running() && err == nil {
		w.proceed(ctx, turns, life)
		if w.complete() {
			return nil
		}
		timer.Reset(max(time.Until(w.nextLook()), time.Millisecond))
		select {
		case a := <-w.results:
			w.judge(a)
		case <-timer.C:
		case <-w.changed:
			w.hurry()
			err = look(ctx)
		case <-ctx.Done():
		}
		if err == nil {
			err = w.storeIfDue(ctx, write)
		}
	}
	return err
}

// proceed reads on and begins every attempt that may be made now.
func (w *runner) proceed(ctx, turns, life context.Context) {
	now := time.Now()
	if now.Before(w.retryAt) || w.sel.callback.Orphaned { // without its client nobody knows what is selected
		return
	}
	if err := errors.Join(w.read(ctx), w.refill(ctx)); err != nil && ctx.Err() == nil {
		w.log.Log(ctx, store.Level(err, slog.LevelWarn), "the log could not be read for a replay", "error", err)
		w.retryAt = now.Add(storeAgain)
		return
	}
	w.begin(turns, life, now)
}

// nextLook is when the runner must act although nothing else happens.
func (w *runner) nextLook() time.Time {
	now := time.Now()
	at := now.Add(time.Hour)
	if w.mayTake() {
		if next, ok := w.cur.NextDue(now); ok && next.Before(at) {
			at = next
		}
	}
	if !w.lease.Valid() && at.Before(now.Add(leaseAgain)) {
		at = now.Add(leaseAgain)
	}
	if w.retryAt.After(now) {
		at = w.retryAt
	}
	if due := w.storing.due; !due.IsZero() && due.Before(at) {
		at = due
	}
	return at
}

// complete reports whether everything that the replay selects has ended.
func (w *runner) complete() bool {
	return w.cur.ReadFrom() > w.doc.Through && w.page.through == 0 && w.flying == 0 &&
		w.cur.Unsettled() == 0 && w.cur.Lanes() == 0
}

// hurry makes everything due if a test has shown that the receiver responds.
func (w *runner) hurry() {
	if w.answers.Swap(false) {
		w.cur.Answers(time.Now())
	}
}

// look takes in what others have written in the document, and a change of the callback.
func (w *runner) look(ctx context.Context) error {
	if !w.retarget() { // its replays are removed with it
		w.doc.End(relay.ReplayCancelled, "", time.Now())
		return nil
	}
	entry, there := w.r.replays.Get(w.key)
	switch {
	case !there:
		if !w.refresh(ctx) {
			w.doc.End(relay.ReplayCancelled, "", time.Now())
			w.revision = 0
		}
	case entry.Revision <= w.revision:
	case entry.Value.Epoch > w.lease.Epoch():
		w.lease.Superseded(entry.Value.Epoch)
		return errFenced
	default:
		w.take(entry.Value, entry.Revision)
	}
	return nil
}

// take takes a document that others have written. What the owner writes stays the owner's.
func (w *runner) take(there relay.Replay, revision uint64) {
	w.revision = revision
	if !there.Running() { // else it is an earlier write of an owner
		w.doc.State, w.doc.Reason, w.doc.EndedAt = there.State, there.Reason, there.EndedAt
	}
}

// finish stores what must be stored once nothing is under way. While ctx lasts, it tries again until
// that succeeds or a later owner is found; when the shard is given up, some times more.
func (w *runner) finish(ctx context.Context) error {
	for ctx.Err() == nil {
		err := w.conclude(ctx)
		if err == nil || errors.Is(err, errFenced) {
			return err
		}
		if ctx.Err() == nil {
			w.r.complain(err)
		}
		backoff.Sleep(ctx, storeAgain)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
	defer cancel()
	var err error
	for try := range lastRounds {
		backoff.Sleep(last, time.Duration(try)*50*time.Millisecond)
		if err = w.conclude(last); err == nil || errors.Is(err, errFenced) {
			break
		}
	}
	return err
}

// conclude stores what has ended, and the end of the replay if that has come.
func (w *runner) conclude(ctx context.Context) error {
	if err := w.store(ctx); err != nil {
		return err
	}
	if w.complete() && w.doc.Running() {
		w.countUnread()
		w.doc.End(relay.ReplayDone, "", time.Now())
	}
	if w.doc.Running() {
		return nil // the next owner goes on
	}
	return w.end(ctx)
}

// countUnread counts as skipped what was selected when the replay began and was no longer when its turn to be read
// came: the callback has become narrower meanwhile, or the events have left the log. There are no records of these.
func (w *runner) countUnread() {
	if w.doc.Matched == nil {
		return
	}
	for range *w.doc.Matched - w.doc.Progress.Ended() {
		w.doc.Progress.Add(relay.DeliverySkipped)
		w.r.metrics.ended(relay.DeliverySkipped)
	}
}

// end stores that the replay has ended, and removes its cursor.
func (w *runner) end(ctx context.Context) error {
	if !w.lease.Valid() {
		return fmt.Errorf("%w: the lease is not valid", store.ErrUnavailable)
	}
	if err := w.storeDocument(ctx); err != nil {
		return err
	}
	w.log.Info("a replay has ended", "state", w.doc.State, "delivered", w.doc.Progress.Delivered,
		"failed", w.doc.Progress.Failed, "skipped", w.doc.Progress.Skipped)
	w.r.erase(ctx, w.lease, store.ReplayCursor(w.doc.Callback, w.doc.ID))
	return nil
}
