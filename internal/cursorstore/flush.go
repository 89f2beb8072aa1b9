package cursorstore

import (
	"context"
	"fmt"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/store"
)

// Save is what must be stored of one cursor.
type Save struct {
	Handle  *Handle
	Changes cursor.Changes
}

// Result is how the storing of one Save ended.
type Result struct {
	// Outcome is Written if all of it is stored: Cursor.Stored must be called. Else it is how the first
	// write that failed has ended; Superseded if any was.
	Outcome store.Outcome
	Epoch   uint64 // if superseded: the later owner's
	Err     error  // why the outcome is not Written
	// Fenced: the lanes and the document are stored, so nothing that a former owner writes succeeds any
	// more. What failed was a removal.
	Fenced bool
}

// Flush stores what has changed of many cursors in one go, under their owner's epoch: all lanes, then the
// documents of those cursors whose lanes are stored, then the removals of those whose documents are. What
// fails of one cursor keeps no other from being stored. After a failure the next Flush of the cursor's then
// present Changes is the remedy for every outcome but Superseded.
func (s *Store) Flush(ctx context.Context, epoch uint64, saves []Save) []Result {
	return s.save(ctx, epoch, saves, false)
}

// Adopt is Flush for cursors that were loaded and then adopted under a new epoch. Here Changed means that a
// former owner has written since they were loaded, unless the Result is Fenced: they must be loaded again.
func (s *Store) Adopt(ctx context.Context, epoch uint64, saves []Save) []Result {
	return s.save(ctx, epoch, saves, true)
}

func (s *Store) save(ctx context.Context, epoch uint64, saves []Save, readUnclear bool) []Result {
	results := make([]Result, len(saves))
	var lanes puts[cursor.Lane]
	for i, save := range saves {
		for _, l := range save.Changes.Lanes {
			lanes.add(i, store.LaneKey(save.Handle.key, l.Order), l, save.Handle.lanes[l.Order])
		}
	}
	lanes.send(ctx, s.store.Lanes, readUnclear, results, func(i int, l cursor.Lane, revision uint64) {
		saves[i].Handle.lanes[l.Order] = revision
	})
	var documents puts[cursor.Document]
	for i, save := range saves {
		if d := save.Changes.Document; d != nil && results[i].Outcome == store.Written {
			documents.add(i, save.Handle.key, *d, save.Handle.revision)
		}
	}
	documents.send(ctx, s.store.Cursors, readUnclear, results, func(i int, _ cursor.Document, revision uint64) {
		saves[i].Handle.revision = revision
	})
	s.remove(ctx, epoch, saves, results)
	return results
}

// puts are writes of one bucket, and of which Save each is.
type puts[T store.Owned] struct {
	puts []store.Put[T]
	of   []int
}

func (p *puts[T]) add(i int, key string, v T, revision uint64) {
	p.puts, p.of = append(p.puts, store.Put[T]{Key: key, Value: v, Revision: revision}), append(p.of, i)
}

// send stores them, notes what failed, and calls at with the revision of each that is known now.
func (p *puts[T]) send(
	ctx context.Context, b *store.Bucket[T], readUnclear bool, results []Result, at func(i int, v T, revision uint64),
) {
	for n, r := range store.PutOwned(ctx, b, p.puts, readUnclear) {
		i, put := p.of[n], p.puts[n]
		if r.Outcome == store.Written || r.Outcome == store.Changed {
			at(i, put.Value, r.Entry.Revision)
		}
		results[i].note(r.Outcome, r.Entry.Value.OwnerEpoch(), put.Key, r.Err)
	}
}

// remove removes the lanes that are through, each at the revision that is known.
func (s *Store) remove(ctx context.Context, epoch uint64, saves []Save, results []Result) {
	var removals []store.OwnedRemoval
	var of []int
	var orders []string
	for i, save := range saves {
		if results[i].Fenced = results[i].Outcome == store.Written; !results[i].Fenced {
			continue
		}
		for _, order := range save.Changes.Remove {
			removals = append(removals, save.Handle.removal(order, epoch))
			of, orders = append(of, i), append(orders, order)
		}
	}
	for n, r := range store.RemoveOwned(ctx, s.store.Lanes, removals) {
		i, revisions := of[n], saves[of[n]].Handle.lanes
		switch r.Outcome {
		case store.Written:
			delete(revisions, orders[n])
		case store.Changed:
			revisions[orders[n]] = r.Entry.Revision
		case store.Superseded, store.Unclear, store.NotStored:
		}
		results[i].note(r.Outcome, r.Entry.Value.OwnerEpoch(), removals[n].Key, r.Err)
	}
}

func (h *Handle) removal(order string, epoch uint64) store.OwnedRemoval {
	return removal(store.LaneKey(h.key, order), h.lanes[order], epoch)
}

func removal(key string, revision, epoch uint64) store.OwnedRemoval {
	return store.OwnedRemoval{Removal: store.Removal{Key: key, Revision: revision}, Epoch: epoch}
}

// note takes the outcome of one write of a Save.
func (r *Result) note(o store.Outcome, epoch uint64, key string, err error) {
	if o == store.Written || r.Outcome != store.Written && o != store.Superseded {
		return
	}
	if err == nil { // it was only looked at, and is a later owner's
		err = store.ErrConflict
	}
	r.Outcome, r.Err = o, fmt.Errorf("store %s: %w", key, err)
	if o == store.Superseded {
		r.Epoch, r.Fenced = epoch, false
	}
}
