package dispatcher

import (
	"context"

	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/store"
)

// storeRound stores a round: the records of attempts, then the cursors of those callbacks whose records are all stored,
// then the watermark. The lease must be valid before each of these, as each may take long.
func (l *loop) storeRound(ctx context.Context, r *round) {
	l.storeAttempts(ctx, r.writes)
	var saves []cursorstore.Save
	var of []*callbackWrite
	for _, w := range r.writes {
		if w.failed = w.failed || !l.lease.Valid(); !w.failed && !w.changes.Empty() {
			saves, of = append(saves, cursorstore.Save{Handle: w.stored.cursor, Changes: w.changes}), append(of, w)
		}
	}
	if len(saves) > 0 {
		for i, result := range l.d.cursors.Flush(ctx, l.lease.Epoch(), saves) {
			of[i].failed = result.Outcome != store.Written
			switch result.Outcome {
			case store.Superseded:
				of[i].fenced = result.Epoch
			case store.Written, store.Changed: // the revision is known now, so the next round can succeed
			case store.Unclear, store.NotStored:
				l.d.complain("the cursor of callback "+of[i].cb.id, result.Err)
			}
		}
	}
	if r.raiseTo > 0 && l.lease.Valid() {
		var err error
		if r.laterEpoch, err = l.d.cursors.StoreWatermark(ctx, &r.mark, r.raiseTo); err != nil {
			l.d.complain("a watermark", err)
		}
	}
}

// storeAttempts stores the records of a round.
func (l *loop) storeAttempts(ctx context.Context, writes []*callbackWrite) {
	var records []delivery.Records
	var of []*callbackWrite
	valid := l.lease.Valid()
	for _, w := range writes {
		if w.failed = !valid; valid && len(w.records) > 0 {
			records, of = append(records, delivery.Records{Recorder: w.stored.recorder, Records: w.records}), append(of, w)
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
