package dispatcher

import (
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
)

// job is what was taken of a cursor for one attempt: one event, or in mode latest all that wait of one order.
type job struct {
	delivery.Attempt
	cb    *callback
	batch cursor.Batch
	one   [1]*delivery.Event // room for the events of most jobs
	more  chan bool          // true: the job was set again; false: the worker has no more to do
}

// set makes the job one for what was taken.
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

// attempts makes attempts of a callback while there are any to make: it hands over what came of each and gets the next.
func (l *loop) attempts(j *job) {
	j.more = make(chan bool, 1)
	for more := true; more; more = <-j.more { // the job is the loop's until then
		l.d.conf.Deliverer.Make(j.cb.ctx, l.lease, &j.Attempt)
		l.messages <- attemptEnded{j}
	}
}
