package reconciler

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// maxContests bounds how often in a row a document is written in competition with another writer.
const maxContests = 4

// line holds a connection's document.
type line struct {
	s          *ownedShard
	connection string

	writing  sync.Mutex // held while the document is being changed and stored
	revision uint64     // of the document; guarded by writing

	mu    sync.Mutex           // held only for a moment
	doc   relay.Reconciliation // as stored
	begun string               // the last key whose reading has begun since the run's position was stored
}

// read returns the document as stored.
func (l *line) read() relay.Reconciliation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.doc.Clone()
}

// want requests that the connection's orders are read again. Gaps, if not 0, is how many gaps there
// have been; a gap for which a run was already requested is ignored. It returns the document as it
// was stored.
func (l *line) want(
	ctx context.Context, generation string, w relay.ReconcileWant, gaps uint64, now time.Time,
) (noted relay.Reconciliation, err error) {
	err = l.change(ctx, func(d *relay.Reconciliation) bool {
		begun := l.beginning()
		if d.Generation != generation { // it belongs to an earlier connection with the same id
			*d, begun = relay.Reconciliation{Generation: generation}, ""
		}
		switch {
		case gaps > 0 && gaps <= d.Gaps,
			d.Run != nil && slices.Equal(w.Causes, []relay.ReconcileCause{relay.CauseNightly}):
			return false
		case gaps > 0:
			d.Gaps = gaps
		}
		d.Want(w, begun, now)
		noted = d.Clone()
		return true
	})
	return noted, err
}

// adopt writes the document of a run under our epoch, so that nothing a former owner writes to it
// counts from then on.
func (l *line) adopt(ctx context.Context) error {
	return l.change(ctx, func(d *relay.Reconciliation) bool { return d.Run != nil && d.Epoch != l.s.lease.Epoch() })
}

// next records that the run begins to read orders up to a key. It returns false if the run is
// another one by now, or has more to do than before: while nothing has been read, further requests
// become part of the run. No request is stored during next, so every request knows what has been
// read.
func (l *line) next(run relay.ReconcileRun, last string) bool {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.doc.Run
	if now == nil || !now.StartedAt.Equal(run.StartedAt) || now.Delivered != run.Delivered || now.Until != run.Until {
		return false
	}
	l.begun = last
	return true
}

// beginning returns the last key whose reading has begun since the run's position was stored, or
// "".
func (l *line) beginning() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.begun
}

// update changes the run that began at a time. If another run is under way by now, it does nothing.
func (l *line) update(ctx context.Context, startedAt time.Time, f func(*relay.Reconciliation)) error {
	return l.change(ctx, func(d *relay.Reconciliation) bool {
		if d.Run == nil || !d.Run.StartedAt.Equal(startedAt) {
			return false
		}
		f(d)
		return true
	})
}

// change applies f to the document, perhaps more than once, and stores the result unless f returns
// false.
func (l *line) change(ctx context.Context, f func(*relay.Reconciliation) bool) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	bucket, key := l.s.r.store.Reconciliations, store.ReconcileKey(l.connection)
	for tries := 1; ; tries++ {
		doc := l.read()
		if !f(&doc) {
			return nil
		}
		doc.Epoch = l.s.lease.Epoch()
		put := store.Put[relay.Reconciliation]{Key: key, Value: doc, Revision: l.revision}
		result := store.PutOwned(ctx, bucket, []store.Put[relay.Reconciliation]{put}, true)[0]
		switch there := result.Entry; result.Outcome {
		case store.Written:
			l.stored(doc, there.Revision)
			return nil
		case store.Superseded:
			l.s.superseded(there.Value.Epoch)
			return errSuperseded
		case store.NotStored:
			return result.Err
		case store.Changed: // a former owner has written late, or our own write without a response was stored
			l.stored(there.Value, there.Revision)
		case store.Unclear: // the next try finds out
		}
		if tries == maxContests {
			return fmt.Errorf("store how far connection %s is reconciled: %w", l.connection, result.Err)
		}
	}
}

// stored records what is stored. The caller must hold writing.
func (l *line) stored(doc relay.Reconciliation, revision uint64) {
	l.revision = revision
	l.mu.Lock()
	defer l.mu.Unlock()
	if doc.Run == nil || l.doc.Run == nil || !doc.Run.StartedAt.Equal(l.doc.Run.StartedAt) ||
		doc.Run.Position == l.begun {
		l.begun = ""
	}
	l.doc = doc
}
