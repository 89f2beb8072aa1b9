package dispatcher

import (
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
)

// job is one attempt, with what the cursor has given out for it: one event, or in mode latest several of an order.
type job struct {
	delivery.Attempt
	cb    *callback
	batch cursor.Batch
	one   [1]*delivery.Event // memory for Events in the most frequent case
	more  chan bool          // true: the job has been set to the next attempt; false: the worker must end
}

// set makes the job an attempt at what the cursor has given out.
func (j *job) set(b cursor.Batch, cb *callback) {
	j.cb, j.batch = cb, b
	j.Attempt = delivery.Attempt{Target: cb.target, Seqs: b.Seqs, Events: j.one[:], Gone: j.Gone[:0], Unmatched: j.Unmatched[:0]}
	if len(b.Seqs) != 1 {
		j.Events = make([]*delivery.Event, len(b.Seqs))
	}
	for i, seq := range b.Seqs {
		j.Events[i] = cb.reading.atHand.Get(seq)
	}
}

// attempts is a worker: it makes an attempt, sends the loop the outcome, and waits for the next one, if there is one.
func (l *loop) attempts(j *job) {
	j.more = make(chan bool, 1)
	for more := true; more; more = <-j.more { // until then the job belongs to the loop
		l.d.conf.Deliverer.Make(j.cb.ctx, l.lease, &j.Attempt)
		l.messages <- attemptEnded{j}
	}
}
