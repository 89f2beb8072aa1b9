package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// errUnknown reports that the callback of a replay, or its client, is not registered, as far as is known here.
var errUnknown = errors.New("its callback or its client is not known")

const (
	// storeEvery is how often what has ended is stored.
	storeEvery = 200 * time.Millisecond
	// progressEvery is how often the counts in the document are.
	progressEvery = time.Second
)

// storing is what of a replay has to be stored, and when.
type storing struct {
	records  []relay.AttemptRecord
	due      time.Time // zero: nothing has to be stored
	progress relay.Progress
	shown    time.Time // when progress was stored
}

// soon has what has changed be stored with the next round.
func (s *storing) soon(now time.Time) {
	if s.due.IsZero() {
		s.due = now.Add(storeEvery)
	}
}

// storeIfDue calls write if it is time to store. What fails is tried again.
func (w *runner) storeIfDue(ctx context.Context, write func(context.Context) error) error {
	if w.cur.Dirty() {
		w.storing.soon(time.Now())
	}
	if due := w.storing.due; due.IsZero() || time.Now().Before(due) {
		return nil
	}
	err := write(ctx)
	if err != nil && !errors.Is(err, errFenced) {
		w.r.complain(err)
		w.storing.due = time.Now().Add(storeAgain)
		return nil
	}
	return err
}

// store makes a round: records, then the cursor that counts them, then the counts in the document.
func (w *runner) store(ctx context.Context) error {
	if !w.lease.Valid() {
		return fmt.Errorf("%w: the lease is not valid", store.ErrUnavailable)
	}
	s := &w.storing
	if err := w.storeRecords(ctx); err != nil {
		return err
	}
	s.due = time.Time{}
	if changes := w.cur.Changes(); !changes.Empty() {
		if err := w.storeCursor(ctx, changes); err != nil {
			return err
		}
	}
	if now := time.Now(); s.progress != w.doc.Progress {
		if now.Sub(s.shown) < progressEvery {
			s.due = s.shown.Add(progressEvery)
			return nil
		}
		return w.storeDocument(ctx)
	}
	return nil
}

// storeRecords stores all records, in as many batches as it takes.
func (w *runner) storeRecords(ctx context.Context) error {
	s := &w.storing
	for tries := 0; len(s.records) > 0; tries++ {
		n := delivery.Batch(s.records, w.r.c.Store.MaxDocument())
		result := w.r.c.Deliverer.Append(ctx, []delivery.Records{{Recorder: w.recorder, Records: s.records[:n:n]}})[0]
		switch {
		case result.Err != nil:
			return fmt.Errorf("store attempts: %w", result.Err)
		case result.Stored > 0:
			tries = 0
		case tries >= appendTries:
			return fmt.Errorf("store attempts: %w", store.ErrConflict)
		}
		s.records = s.records[result.Stored:]
	}
	s.records = nil
	return nil
}

// appendTries is how often records are appended again at once while others record for the callback.
const appendTries = 5

func (w *runner) storeCursor(ctx context.Context, changes cursor.Changes) error {
	result := w.r.cursors.Flush(ctx, w.lease.Epoch(), []cursorstore.Save{{Handle: w.handle, Changes: changes}})[0]
	switch result.Outcome {
	case store.Written:
		w.cur.Stored(changes)
		return nil
	case store.Superseded:
		w.lease.Superseded(result.Epoch)
		return errFenced
	default: // of a Changed the revision is known now
		return fmt.Errorf("store the cursor: %w", result.Err)
	}
}

// storeDocument stores the replay's document, unless that was removed. Where a caller has cancelled
// the replay meanwhile, that stands.
func (w *runner) storeDocument(ctx context.Context) error {
	if w.revision == 0 {
		return nil
	}
	for range 3 {
		put := store.Put[relay.Replay]{Key: w.key, Value: w.doc, Revision: w.revision}
		put.Value.Epoch = w.lease.Epoch()
		if !w.doc.Running() {
			put.TTL = w.r.c.Store.Topology().Retention
		}
		switch result := store.PutOwned(ctx, w.r.c.Store.Replays,
			[]store.Put[relay.Replay]{put}, true)[0]; result.Outcome {
		case store.Written:
			w.revision, w.storing.progress, w.storing.shown = result.Entry.Revision, w.doc.Progress, time.Now()
			w.r.replays.Put(w.key, put.Value, w.revision)
			return nil
		case store.Superseded:
			w.lease.Superseded(result.Entry.Value.Epoch)
			return errFenced
		case store.Changed:
			if result.Entry.Deleted || result.Entry.Value.ID == "" { // it was removed
				w.doc.End(relay.ReplayCancelled, "", time.Now())
				w.revision = 0
				return nil
			}
			w.take(result.Entry.Value, result.Entry.Revision)
		default:
			return fmt.Errorf("store the replay: %w", result.Err)
		}
	}
	return fmt.Errorf("store the replay: %w", store.ErrConflict)
}

// load takes the replay on: whoever else may still be writing for it is fenced off by writing its
// cursor and its document under the lease's epoch. It is not ready if it has ended meanwhile: then
// only that must be stored.
func (w *runner) load(ctx context.Context) (ready bool, err error) {
	if w.doc.Running() && !w.clientKnown() {
		return false, errUnknown
	}
	loaded, err := w.r.loads.take(ctx, w.client)
	if err != nil {
		return false, err
	}
	defer loaded()
	if err := w.adopt(ctx); err != nil {
		return false, err
	}
	w.storing, w.page = storing{}, page{}
	if err := w.storeDocument(ctx); err != nil || !w.doc.Running() {
		return false, err
	}
	only, err := selectedBy(ctx, w.r.c.Store.Attempts, &w.doc, w.r.c.Store.Events)
	if err != nil {
		return false, fmt.Errorf("select by how deliveries ended: %w", err)
	}
	w.sel = &selection{events: w.r.c.Store.Events.Gently(), doc: &w.doc, only: only}
	if !w.retarget() || w.sel.callback.Orphaned {
		return false, errUnknown
	}
	if err := w.recount(ctx); err != nil {
		return false, fmt.Errorf("count what has ended: %w", err)
	}
	return true, w.countMatched(ctx)
}

// clientKnown reports whether the callback and its client are registered, as far as is known here.
func (w *runner) clientKnown() bool {
	target := w.present()
	return target != nil && !target.Orphaned
}

// adopt loads the cursor and writes it under the lease's epoch.
func (w *runner) adopt(ctx context.Context) error {
	id := store.ReplayCursor(w.doc.Callback, w.doc.ID)
	loaded, err := w.r.cursors.LoadSome(ctx, []string{id})
	if err != nil {
		return err
	}
	stored := loaded[id]
	if found := stored.Epoch(); found > w.lease.Epoch() {
		w.lease.Superseded(found)
		return errFenced
	}
	policy, now := w.r.policy(1), time.Now()
	cur, err := stored.Restore(policy, w.doc.ID, now)
	if err != nil { // the records of its attempts keep most of it from being sent again
		w.log.Error("the cursor of a replay cannot be used; it starts again", "error", err)
	}
	if cur == nil {
		cur = stored.Begin(policy, w.doc.ID, w.doc.From-1, now)
		if target := w.r.c.Deliverer.Targets.Of(w.doc.Callback); target != nil {
			carried := cur.Carried()
			carried.Resumed = target.Callback.Resumed
			cur.SetCarried(carried)
		}
	}
	if since := cur.Health().FailingSince; !since.IsZero() && now.Sub(since) >= giveUpAfter {
		cur.ForgetFailingSince() // nobody delivered for days: it gets its chance
	}
	cur.Adopt(w.lease.Epoch())
	if !w.lease.Valid() {
		return fmt.Errorf("%w: the lease is not valid", store.ErrUnavailable)
	}
	changes := cur.Changes()
	switch result := w.r.cursors.Adopt(ctx, w.lease.Epoch(),
		[]cursorstore.Save{{Handle: stored.Handle, Changes: changes}})[0]; {
	case result.Outcome == store.Written:
		cur.Stored(changes)
	case result.Outcome == store.Superseded:
		w.lease.Superseded(result.Epoch)
		return errFenced
	case !result.Fenced: // a former owner has written meanwhile, or the store is in trouble
		return fmt.Errorf("take the cursor on: %w", result.Err)
	}
	w.cur, w.handle = cur, stored.Handle
	return nil
}

// recount counts what has ended by the records of the replay's attempts, as the cursor may not know
// the last of them.
func (w *runner) recount(ctx context.Context) error {
	last, err := w.r.c.Store.Attempts.Last(ctx, w.doc.Callback)
	if err != nil {
		return err
	}
	before, counted := w.doc.Progress, newPositions()
	w.doc.Progress, w.recorded = relay.Progress{}, map[uint64]relay.DeliveryStatus{}
	since := w.doc.CreatedAt.Add(-clockSlack)
	err = w.r.c.Store.Attempts.Scan(ctx, w.doc.Callback, w.doc.CallbackGeneration, since, last,
		func(b relay.AttemptBatch) bool {
			w.count(counted, b.Records)
			return ctx.Err() == nil
		})
	if err = errors.Join(err, ctx.Err()); err != nil {
		w.doc.Progress = before
	}
	return err
}

// count counts what has ended by records, each event once.
func (w *runner) count(counted *positions, records []relay.AttemptRecord) {
	for i := range records {
		rec := &records[i]
		if rec.Replay != w.doc.ID || rec.Replayed == "" || counted.has(rec.Seq) {
			continue
		}
		counted.set(rec.Seq, true)
		w.doc.Progress.Add(rec.Replayed)
		if w.cur.Where(cursor.Entry{Seq: rec.Seq, Order: rec.Order}) != cursor.Settled {
			w.recorded[rec.Seq] = rec.Replayed
		}
	}
}

// clockSlack is how far the clocks of two servers may be apart.
const clockSlack = time.Minute

// countMatched counts what the replay selects, unless that is known.
func (w *runner) countMatched(ctx context.Context) error {
	if w.doc.Matched != nil {
		return nil
	}
	n, err := w.sel.count(ctx)
	if err != nil {
		return fmt.Errorf("count what is selected: %w", err)
	}
	w.doc.Matched = &n
	return w.storeDocument(ctx)
}
