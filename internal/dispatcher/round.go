package dispatcher

import (
	"context"
	"errors"
	"reflect"
	"time"

	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// store makes a round: attempts, then lanes, documents and removals of those callbacks whose attempts are stored,
// then the watermark. The lease is asked for between them, as each may take long.
func (l *loop) store(ctx context.Context, r *round) {
	l.storeAttempts(ctx, r.works)
	var saves []cursorstore.Save
	var of []*work
	for _, w := range r.works {
		if w.failed = w.failed || !l.lease.Valid(); !w.failed && !w.changes.Empty() {
			saves, of = append(saves, cursorstore.Save{Handle: w.kept.cursor, Changes: w.changes}), append(of, w)
		}
	}
	if len(saves) > 0 {
		for i, result := range l.d.cursors.Flush(ctx, l.lease.Epoch(), saves) {
			switch result.Outcome {
			case store.Written:
			case store.Superseded:
				of[i].failed, of[i].fenced = true, result.Epoch
			case store.Changed: // the revision is known now
				of[i].failed = true
			case store.Unclear, store.NotStored:
				of[i].failed = true
				l.d.complain("the cursor of callback "+of[i].cb.id, result.Err)
			}
		}
	}
	if r.raise > 0 && l.lease.Valid() {
		l.storeWatermark(ctx, r)
	}
}

// storeAttempts stores the records of a round: the first thing of each callback, as a cursor must not count what is
// not recorded.
func (l *loop) storeAttempts(ctx context.Context, works []*work) {
	attempts := l.d.conf.Store.Attempts
	var batches []relay.AttemptBatch
	var of []*work
	for _, w := range works {
		if len(w.records) == 0 {
			continue
		}
		if k := w.kept; !k.known {
			last, err := attempts.Last(ctx, w.cb.id)
			if err != nil {
				w.failed = true
				l.d.complain("attempts", err)
				continue
			}
			k.previous, k.known = last, true
		}
		batches = append(batches, relay.AttemptBatch{Callback: w.cb.id, Generation: w.cb.gen, Previous: w.kept.previous, Records: w.records})
		of = append(of, w)
	}
	if len(batches) == 0 {
		return
	}
	for i, result := range attempts.AppendAll(ctx, batches) {
		w := of[i]
		switch {
		case result.Err == nil:
			w.kept.previous, w.recorded = result.Seq, len(w.records)
		case errors.Is(result.Err, store.ErrConflict):
			w.failed = true
			l.readBack(ctx, w)
		default:
			w.failed = true
			l.d.complain("attempts", result.Err)
		}
	}
}

// readBack looks at the last batch after a conflict. If it is an earlier try of ours that was answered unclearly, its
// records are stored; in any case the next batch goes after it.
func (l *loop) readBack(ctx context.Context, w *work) {
	attempts := l.d.conf.Store.Attempts
	var last uint64
	same := 0
	err := attempts.Walk(ctx, w.cb.id, w.cb.gen, 0, func(seq uint64, _ time.Time, b relay.AttemptBatch) bool {
		if last = seq; len(b.Records) <= len(w.records) && b.Previous == w.kept.previous {
			for same < len(b.Records) && sameRecord(b.Records[same], w.records[same]) {
				same++
			}
			if same < len(b.Records) {
				same = 0
			}
		}
		return false
	})
	if err == nil && last == 0 { // of another generation
		last, err = attempts.Last(ctx, w.cb.id)
	}
	if err != nil {
		l.d.complain("attempts", err)
		return
	}
	w.kept.previous, w.recorded = last, same
}

func sameRecord(a, b relay.AttemptRecord) bool {
	a.At, b.At = a.At.Round(0).UTC(), b.At.Round(0).UTC()
	if a.NextAttemptAt != nil && b.NextAttemptAt != nil && a.NextAttemptAt.Equal(*b.NextAttemptAt) {
		a.NextAttemptAt, b.NextAttemptAt = nil, nil
	}
	return reflect.DeepEqual(a, b)
}

// storeWatermark stores the watermark where it has moved to. The next round writes over what a former owner has put
// in its place.
func (l *loop) storeWatermark(ctx context.Context, r *round) {
	result := store.PutOwned(ctx, l.d.conf.Store.Watermarks, []store.Put[store.Watermark]{l.put(r.mark, r.raise)}, false)[0]
	switch result.Outcome {
	case store.Written:
		r.mark.revision, r.mark.stored = result.Entry.Revision, r.raise
	case store.Changed:
		r.mark.revision = result.Entry.Revision
		if w := result.Entry.Value; w.Epoch == l.lease.Epoch() {
			r.mark.stored = w.Position
		}
	case store.Superseded:
		r.found = result.Entry.Value.Epoch
	case store.Unclear, store.NotStored:
		l.d.complain("a watermark", result.Err)
	}
}

func (l *loop) put(m watermark, at uint64) store.Put[store.Watermark] {
	return store.Put[store.Watermark]{
		Key: store.WatermarkKey(l.shard, "events"), Value: store.Watermark{Epoch: l.lease.Epoch(), Position: at}, Revision: m.revision,
	}
}
