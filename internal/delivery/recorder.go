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

// Recorder records the attempts of one reader of a callback. All readers of a callback append to one chain, in which each
// batch names the one before it. A Recorder is used by one goroutine at a time.
type Recorder struct {
	callback, generation string
	// unclear: the last batch may have been stored although it was answered by an error: it would be above from.
	unclear bool
	from    uint64
}

// Records are what has to be recorded by one Recorder.
type Records struct {
	Recorder *Recorder
	Records  []relay.AttemptRecord
}

// Appended is what came of Records: how many of them are stored, the first ones. Unless it is all of them the others must
// be appended again, with the same ones first; Err is nil if there is nothing to complain of.
type Appended struct {
	Stored int
	Err    error
}

// chains has where each callback's attempts end, as far as it is known. It may be out of date: every batch is stored under
// the condition that it is not.
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

// Forget forgets where the chain of a callback ends, as nobody here records for it any more.
func (d *Deliverer) Forget(callback string) {
	d.chains.mu.Lock()
	defer d.chains.mu.Unlock()
	delete(d.chains.last, callback)
}

// Append appends the records of several Recorders, each of another callback, in one go. A record that is stored is stored
// once, also where the store's first answer was unclear or another reader of the callback has recorded meanwhile.
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
		case errors.Is(stored.Err, store.ErrConflict): // it may be an earlier try that was answered unclearly, or another reader's batch
			r.doubt(batches[n].Previous)
			d.Forget(r.callback)
			_, results[i] = d.prepare(ctx, all[i])
		default:
			r.doubt(batches[n].Previous)
			results[i].Err = stored.Err
		}
	}
	return results
}

func (r *Recorder) doubt(previous uint64) {
	if !r.unclear {
		r.unclear, r.from = true, previous
	}
}

// prepare returns where the chain ends, which another reader's conflict may have forgotten a moment later. If the last
// try was unclear and the chain has grown since it looks whether that try is stored.
func (d *Deliverer) prepare(ctx context.Context, all Records) (last relay.AttemptsEnd, result Appended) {
	r, attempts := all.Recorder, d.store.Attempts
	if last, known := d.chains.get(r.callback); known && (!r.unclear || last.Position == r.from) { // else its condition shows it
		return last, Appended{}
	}
	last, err := attempts.End(ctx, r.callback)
	if err != nil {
		return last, Appended{Err: err}
	}
	stored := 0
	if r.unclear && last.Position > r.from {
		err := attempts.Walk(ctx, r.callback, r.generation, last.Position, func(seq uint64, _ time.Time, b relay.AttemptBatch) bool {
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

// sameRecords returns how many records there are, if they are the first of those to be stored; else 0.
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

// Batch returns how many of the records go into one message of at most most bytes: at least one.
func Batch(records []relay.AttemptRecord, most int) int {
	const envelope, besides = 4 << 10, 640 // of a batch, and of a record: names, numbers and times
	n, size := 0, envelope
	for ; n < min(len(records), maxBatch); n++ {
		r := &records[n]
		size += besides + 2*(len(r.Event)+len(r.Order)+len(r.Outcome)+len(r.Error)+len(r.Excerpt)+len(r.Reason)+len(r.Headers)) // escaped
		if size > most && n > 0 {
			break
		}
	}
	return n
}
