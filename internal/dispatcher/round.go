package dispatcher

import (
	"context"

	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/delivery"
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
	var records []delivery.Records
	var of []*work
	for _, w := range works {
		if len(w.records) > 0 {
			records, of = append(records, delivery.Records{Recorder: w.kept.recorder, Records: w.records}), append(of, w)
		}
	}
	for i, r := range l.d.conf.Deliverer.Append(ctx, records) {
		w := of[i]
		w.recorded, w.failed = r.Stored, r.Stored < len(w.records)
		if r.Err != nil {
			l.d.complain("attempts", r.Err)
		}
	}
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
