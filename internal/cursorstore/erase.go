package cursorstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/audatex-relay/relay/internal/store"
)

// Erase removes what is stored of a cursor, except what belongs to the generation keep ("" keeps none) or to a later
// owner. What was written since the cursor was read stays: the next owner of the shard looks at it.
func (s *Store) Erase(ctx context.Context, epoch uint64, f *Stored, keep string) error {
	goes := func(of uint64, generation string) bool { return of <= epoch && (keep == "" || generation != keep) }
	var lanes, documents []store.OwnedRemoval
	for _, l := range f.Lanes {
		if goes(l.Epoch, l.Generation) {
			lanes = append(lanes, f.Handle.removal(l.Order, epoch))
		}
	}
	if d := f.Document; d != nil && goes(d.Epoch, d.Generation) {
		documents = append(documents, removal(f.Handle.key, f.Handle.revision, epoch))
	}
	var err error
	for _, r := range store.RemoveOwned(ctx, s.store.Lanes, lanes) {
		err = errors.Join(err, failed(r.Outcome, r.Err))
	}
	for _, r := range store.RemoveOwned(ctx, s.store.Cursors, documents) {
		err = errors.Join(err, failed(r.Outcome, r.Err))
	}
	if f.Unreadable != nil { // whatever it is: no condition, as nobody knows its revision
		err = errors.Join(err, s.store.Cursors.Delete(ctx, f.Handle.key, 0))
	}
	if err != nil {
		return fmt.Errorf("erase cursor %s: %w", f.Handle.key, err)
	}
	return nil
}

// failed passes the error of a removal that must be made again.
func failed(o store.Outcome, err error) error {
	if o == store.Unclear || o == store.NotStored {
		return err
	}
	return nil
}
