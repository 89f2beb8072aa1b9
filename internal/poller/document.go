package poller

import (
	"context"
	"errors"
	"fmt"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// How saving the document ends when it does not succeed and the store is well.
var (
	errSuperseded = errors.New("another replica has taken the connection over")
	errContested  = errors.New("an earlier owner has written the document meanwhile")
	errDeleted    = errors.New("the connection was deleted meanwhile")
)

// load reads the document; one of another connection of the same name counts as none.
func (r *runner) load(ctx context.Context) (relay.Poll, error) {
	doc, revision, err := r.p.Store.Polls.Get(ctx, r.config().ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return doc, err
	}
	if r.superseded(doc.Epoch) {
		return doc, errSuperseded
	}
	r.revision = revision
	if doc.Generation != r.generation {
		doc = relay.Poll{Generation: r.generation}
	}
	return doc, nil
}

// saveAtOnce is how often the document is written in a row while what is there is an older one of
// our own, or none.
const saveAtOnce = 3

// save writes the document over the revision that was read. An earlier owner's document in its
// place is errContested and must be looked at, as that owner's poll may be under way; a later
// owner's ends this runner.
func (r *runner) save(ctx context.Context) error {
	r.doc.Epoch = r.lease.Epoch()
	var result store.OwnedResult[relay.Poll]
	for range saveAtOnce {
		put := store.Put[relay.Poll]{Key: r.config().ID, Value: r.doc, Revision: r.revision}
		result = store.PutOwned(ctx, r.p.Store.Polls, []store.Put[relay.Poll]{put}, true)[0]
		switch there := result.Entry; result.Outcome {
		case store.Written:
			r.revision, r.storeFailures = there.Revision, 0
			if r.doc.Gaps != r.reportedGaps {
				r.reportedGaps = r.doc.Gaps
				r.p.Reconciler.Suspected(r.config().ID, r.doc)
			}
			return nil
		case store.Superseded:
			r.superseded(there.Value.Epoch)
			return errSuperseded
		case store.Unclear, store.NotStored:
			return result.Err
		case store.Changed:
			if there.Deleted && r.deleted(ctx) {
				r.lost = true
				return errDeleted
			}
			if r.revision = there.Revision; !there.Deleted && there.Value.Epoch < r.doc.Epoch {
				r.adopted = false
				return fmt.Errorf("%w: %w", errContested, result.Err)
			}
			r.doc.TakeGaps(there.Value) // another replica has found that pages are lost, see Prepare
		}
	}
	return result.Err
}

// deleted reports whether the connection is registered no more: whoever deletes one removes its document after it.
func (r *runner) deleted(ctx context.Context) bool {
	c := r.p.Store.Connections.Current(ctx, []string{r.config().ID})[0]
	return c.Err == nil && (c.Deleted || c.Value.Generation != r.generation)
}

// superseded reports whether an epoch found in the document is a later owner's, and passes it to the lease.
func (r *runner) superseded(epoch uint64) bool {
	if epoch <= r.lease.Epoch() {
		return false
	}
	if !r.lost {
		r.log.Info("another replica has taken the connection over; stepping back", "epoch",
			r.lease.Epoch(), "found", epoch)
	}
	r.lost = true
	r.lease.Superseded(epoch)
	return true
}

// write saves the document; what cannot be saved now stands in the next one, as each holds all there is.
func (r *runner) write(ctx context.Context) {
	if err := r.saveLate(ctx); err != nil && !r.lost {
		// the store itself is complained of elsewhere
		r.log.Debug("the outcome of a poll could not be stored yet", "error", err)
	}
}

// saveLate is save for what is saved before the next poll if it cannot be now.
func (r *runner) saveLate(ctx context.Context) error {
	err := r.save(ctx)
	if err == nil && r.unsaved { // an intent that was not stored by now never is
		r.p.unsentPolls.Delete(r.config().ID)
	}
	r.unsaved = err != nil
	return err
}
