package delivery

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Recorder records the attempts of one reader of a callback. All readers of a callback append to the same chain, in
// which each batch has the position of the batch before it. A Recorder is used by one goroutine at a time.
type Recorder struct {
	callback, generation string
	// unclear is set if the last batch may be stored although an error was returned for it. It is above from then.
	unclear bool
	from    uint64
}

// Records are records to append by one Recorder.
type Records struct {
	Recorder *Recorder
	Records  []relay.AttemptRecord
}

// Appended is the result for Records. The first Stored of them are stored. If these are not all, the others must be
// appended again, in the same order.
type Appended struct {
	Stored int
	Err    error // nil, even if not all are stored, if another reader of the callback was merely faster
}

// chains has the end of each callback's chain of attempts, as far as it is known. It may be out of date: then a batch
// that is appended to it is refused.
type chains struct {
	mu   sync.Mutex
	last map[string]relay.AttemptsEnd
}

func (c *chains) get(callback string) (last relay.AttemptsEnd, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, known = c.last[callback]
	return last, known
}

func (c *chains) set(callback string, last relay.AttemptsEnd) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if there, known := c.last[callback]; !known || last.Position >= there.Position {
		c.last[callback] = last
	}
}

// Recorder returns a new Recorder of a callback of a generation.
func (d *Deliverer) Recorder(callback, generation string) *Recorder {
	return &Recorder{callback: callback, generation: generation}
}

// Forget drops the known end of a callback's chain.
func (d *Deliverer) Forget(callback string) {
	d.chains.mu.Lock()
	defer d.chains.mu.Unlock()
	delete(d.chains.last, callback)
}

// Append appends the records of several Recorders, each of another callback, in one go. No record is stored twice, even
// if the store's first response was unclear or another reader of the callback has recorded meanwhile.
func (d *Deliverer) Append(ctx context.Context, all []Records) []Appended {
	results := make([]Appended, len(all))
	batches := make([]relay.AttemptBatch, 0, len(all))
	of := make([]int, 0, len(all))
	for i, r := range all {
		var previous relay.AttemptsEnd
		if previous, results[i] = d.prepare(ctx, r); results[i].Err != nil || results[i].Stored > 0 {
			continue
		}
		batches = append(batches, previous.Batch(r.Recorder.callback, r.Recorder.generation, time.Now(), r.Records))
		of = append(of, i)
	}
	if len(batches) == 0 {
		return results
	}
	for n, stored := range d.store.Attempts.AppendAll(ctx, batches) {
		i, r := of[n], all[of[n]].Recorder
		switch {
		case stored.Err == nil:
			d.chains.set(r.callback, batches[n].End(stored.Seq))
			results[i].Stored, r.unclear = len(all[i].Records), false
		case errors.Is(stored.Err, store.ErrConflict): // with an earlier try of this batch, or another reader's batch
			r.markUnclear(batches[n].Previous)
			d.Forget(r.callback)
			_, results[i] = d.prepare(ctx, all[i])
		default:
			r.markUnclear(batches[n].Previous)
			results[i].Err = stored.Err
		}
	}
	return results
}

// markUnclear notes that a batch after previous may be stored.
func (r *Recorder) markUnclear(previous uint64) {
	if !r.unclear {
		r.unclear, r.from = true, previous
	}
}

// prepare returns the end of a callback's chain. If the last try was unclear and the chain has grown since, it finds
// out whether that try is stored; the result is not empty then.
func (d *Deliverer) prepare(ctx context.Context, all Records) (last relay.AttemptsEnd, result Appended) {
	r, attempts := all.Recorder, d.store.Attempts
	if last, known := d.chains.get(r.callback); known && (!r.unclear || last.Position == r.from) {
		return last, Appended{} // if it is out of date, the batch is refused
	}
	last, err := attempts.End(ctx, r.callback)
	if err != nil {
		return last, Appended{Err: err}
	}
	stored := 0
	if r.unclear && last.Position > r.from {
		err := attempts.Walk(ctx, r.callback, r.generation, last.Position,
			func(seq uint64, _ time.Time, b relay.AttemptBatch) bool {
				if seq > r.from {
					stored = sameRecords(b.Records, all.Records)
				}
				return seq > r.from && stored == 0
			})
		if err != nil {
			return last, Appended{Err: err}
		}
	}
	d.chains.set(r.callback, last)
	r.unclear = false
	return last, Appended{Stored: stored}
}

// sameRecords returns how many records are stored if they are the first of the given ones, else 0.
func sameRecords(there, records []relay.AttemptRecord) int {
	if len(there) > len(records) {
		return 0
	}
	for i := range there {
		a, b := there[i], records[i]
		a.At, b.At = a.At.Round(0).UTC(), b.At.Round(0).UTC()
		if a.NextAttemptAt != nil && b.NextAttemptAt != nil && a.NextAttemptAt.Equal(*b.NextAttemptAt) {
			a.NextAttemptAt, b.NextAttemptAt = nil, nil
		}
		if !reflect.DeepEqual(a, b) {
			return 0
		}
	}
	return len(there)
}

// maxBatch bounds the records of one batch, which is one message.
const maxBatch = 4096

// Batch returns how many of the records fit in one message of at most most bytes: at least one.
func Batch(records []relay.AttemptRecord, most int) int {
	const envelope, besides = 4 << 10, 640 // names, numbers and times of a batch, and of a record
	n, size := 0, envelope
	for ; n < min(len(records), maxBatch); n++ {
		r := &records[n]
		// escaped
		size += besides + 2*(len(r.Event)+len(r.Order)+len(r.Outcome)+len(r.Error)+len(r.Excerpt)+
			len(r.Reason)+len(r.Headers))
		if size > most && n > 0 {
			break
		}
	}
	return n
}
