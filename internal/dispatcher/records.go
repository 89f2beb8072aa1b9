package dispatcher

import (
	"context"
	"errors"
	"reflect"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// attempts stores the records of a round: the first thing of each callback, as a cursor must not count what is not recorded.
func (f *flusher) attempts(ctx context.Context, works []*work) {
	var batches []relay.AttemptBatch
	var of []*work
	for _, w := range works {
		if len(w.records) == 0 {
			continue
		}
		if !w.c.known {
			last, err := f.d.conf.Store.Attempts.Last(ctx, w.c.id)
			if err != nil {
				w.failed = true
				f.d.complain("attempts", err)
				continue
			}
			w.c.previous, w.c.known = last, true
		}
		batches = append(batches, relay.AttemptBatch{Callback: w.c.id, Generation: w.c.gen, Previous: w.c.previous, Records: w.records})
		of = append(of, w)
	}
	if len(batches) == 0 {
		return
	}
	for i, r := range f.d.conf.Store.Attempts.AppendAll(ctx, batches) {
		w := of[i]
		switch {
		case r.Err == nil:
			w.c.appended(r.Seq, len(w.records))
		case errors.Is(r.Err, store.ErrConflict):
			w.failed = true
			f.readBack(ctx, w)
		default:
			w.failed = true
			f.d.complain("attempts", r.Err)
		}
	}
}

// appended drops records that are stored.
func (c *callback) appended(seq uint64, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.previous = seq
	if c.records = c.records[n:]; len(c.records) == 0 {
		c.records = nil
	}
}

// readBack looks at the last batch after a conflict. If it is an earlier try of ours that was answered unclearly, its
// records are stored; in any case the next batch goes after it.
func (f *flusher) readBack(ctx context.Context, w *work) {
	var last uint64
	same := 0
	err := f.d.conf.Store.Attempts.Walk(ctx, w.c.id, w.c.gen, 0, func(seq uint64, _ time.Time, b relay.AttemptBatch) bool {
		if last = seq; len(b.Records) <= len(w.records) && b.Previous == w.c.previous {
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
		last, err = f.d.conf.Store.Attempts.Last(ctx, w.c.id)
	}
	if err != nil {
		f.d.complain("attempts", err)
		return
	}
	w.c.appended(last, same)
}

func sameRecord(a, b relay.AttemptRecord) bool {
	a.At, b.At = a.At.Round(0).UTC(), b.At.Round(0).UTC()
	if a.NextAttemptAt != nil && b.NextAttemptAt != nil && a.NextAttemptAt.Equal(*b.NextAttemptAt) {
		a.NextAttemptAt, b.NextAttemptAt = nil, nil
	}
	return reflect.DeepEqual(a, b)
}
