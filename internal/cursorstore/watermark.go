package cursorstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/store"
)

// Watermark is the position up to which the quiet cursors of a shard need no document of their own: a cursor whose
// document is not marked behind is loaded at the higher of document and watermark. A new owner writes it under its own
// epoch before it writes any document: from then on a former owner cannot move it, whatever it has stopped knowing of
// its cursors.
type Watermark struct {
	Adopted bool   // it is written under this owner's epoch
	Base    uint64 // where it was then; what is loaded later goes by this, not by how it has moved since
	Stored  uint64
	Highest uint64 // the highest position that may have been stored

	shard    int
	epoch    uint64
	revision uint64
}

// adoptTries is how often a watermark that a former owner is still writing is written again at once.
const adoptTries = 5

// AdoptWatermark writes the watermark of a shard under a new owner's epoch. It is for after the documents have been
// read: one that has not been written since is covered by what is read here. End returns the end of the log, beyond
// which the watermark is taken back; at is where it stands. Later is 0, or the epoch of a later owner who has written
// it.
func (s *Store) AdoptWatermark(
	ctx context.Context, shard int, epoch uint64, end func(ctx context.Context, at uint64) (uint64, error),
) (w Watermark, later uint64, err error) {
	w = Watermark{shard: shard, epoch: epoch}
	key := store.WatermarkKey(shard, eventLog)
	for try := range adoptTries {
		backoff.Sleep(ctx, time.Duration(try)*10*time.Millisecond) // a read may reach a node of the store that lags
		there, revision, err := s.store.Watermarks.Get(ctx, key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return w, 0, fmt.Errorf("read %s: %w", key, err)
		}
		if there.Epoch > epoch {
			return w, there.Epoch, fmt.Errorf("%w: %s is of a later owner", store.ErrUnavailable, key)
		}
		last, err := end(ctx, there.Position)
		if err != nil {
			return w, 0, err
		}
		w.revision, w.Base = revision, min(there.Position, last)
		switch r := s.putWatermark(ctx, &w, w.Base, true); r.Outcome {
		case store.Written:
			w.Highest, w.Adopted = w.Base, true
			return w, 0, nil
		case store.NotStored:
			return w, 0, r.Err
		case store.Changed, store.Superseded, store.Unclear:
		}
	}
	return w, 0, fmt.Errorf("%w: %s could not be written under the epoch of its shard", store.ErrUnavailable, key)
}

// StoreWatermark stores a watermark where it has moved to. If a former owner has put something in its place, the next
// call writes over that. Later is 0, or the epoch of a later owner who has written it.
func (s *Store) StoreWatermark(ctx context.Context, w *Watermark, at uint64) (later uint64, err error) {
	switch r := s.putWatermark(ctx, w, at, false); r.Outcome {
	case store.Superseded:
		return r.Entry.Value.Epoch, nil
	case store.Unclear, store.NotStored:
		return 0, r.Err
	case store.Written, store.Changed:
	}
	return 0, nil
}

// putWatermark writes a watermark and notes what is stored now, if that is known.
func (s *Store) putWatermark(
	ctx context.Context, w *Watermark, at uint64, readUnclear bool,
) store.OwnedResult[store.Watermark] {
	r := store.PutOwned(ctx, s.store.Watermarks, []store.Put[store.Watermark]{{
		Key: store.WatermarkKey(w.shard, eventLog), Value: store.Watermark{Epoch: w.epoch, Position: at},
		Revision: w.revision,
	}}, readUnclear)[0]
	switch r.Outcome {
	case store.Written: // the entry may be the revision alone
		w.revision, w.Stored = r.Entry.Revision, at
	case store.Changed:
		if w.revision = r.Entry.Revision; r.Entry.Value.Epoch == w.epoch {
			w.Stored = r.Entry.Value.Position
		}
	case store.Superseded, store.Unclear, store.NotStored:
	}
	return r
}
