package dispatcher

import (
	"errors"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
)

// errLease reports that an attempt was not started as the lease on the shard had become invalid.
var errLease = errors.New("the lease on the shard is not valid")

// job is what was taken of a callback's cursor for one attempt: one event, or in mode latest all that wait of one
// order.
type job struct {
	cb     *callback
	batch  cursor.Batch
	target *target
	events []*event  // as batch.Seqs; nil where the body has to be read from the log
	one    [1]*event // room for the events of most jobs
	more   chan bool // tells the worker whether the job was set again, or there is none

	// What came of it.
	gone      []int // of events: no longer in the log
	unmatched []int // no longer for this callback
	chosen    int   // the event that was sent; -1: none
	attempt   sender.Attempt
	err       error // the log could not be read, there is no room for the body, or the lease is not valid
}

// set makes the job one for what was taken.
func (j *job) set(b cursor.Batch, cb *callback) {
	*j = job{cb: cb, batch: b, target: cb.target, more: j.more, chosen: -1, gone: j.gone[:0], unmatched: j.unmatched[:0]}
	if j.events = j.one[:]; len(b.Seqs) != 1 {
		j.events = make([]*event, len(b.Seqs))
	}
	for i, seq := range b.Seqs {
		j.events[i] = cb.reading.held[seq]
	}
}

// attempts makes attempts of a callback for as long as there is one to be made: it hands over what came of each, and
// gets the next.
func (l *loop) attempts(j *job) {
	more := make(chan bool, 1)
	for j.more = more; ; {
		l.attempt(j)
		l.messages <- ended{j}
		if !<-more { // the job is the loop's until then
			return
		}
	}
}

// attempt reads what is missing and sends the newest event that is still for this callback.
func (l *loop) attempt(j *job) {
	var taken weight
	defer func() { l.d.limits.endBody(taken) }()
	for i := len(j.events) - 1; i >= 0; i-- {
		if j.events[i] == nil {
			present, w, err := l.body(j, i)
			taken = taken.with(w)
			if j.err = err; err != nil {
				return
			}
			if !present {
				j.gone = append(j.gone, i)
				continue
			}
		}
		switch {
		case !j.target.matches(j.events[i]):
			j.unmatched = append(j.unmatched, i)
		case j.chosen < 0:
			j.chosen = i
		}
	}
	if j.chosen < 0 {
		return
	}
	if !l.lease.Valid() { // it was valid when this was taken: what was read since may have taken long
		j.err = errLease
		return
	}
	ev := j.events[j.chosen]
	j.attempt = l.d.conf.Sender.Send(j.cb.ctx, j.target.request(ev.id, ev.Body, time.Now()))
	l.d.metrics.attempt(j.attempt)
}

// body reads one of a job's events; it is false if that has left the log. Of an event older than the one that is sent
// only the head is kept.
func (l *loop) body(j *job, i int) (present bool, w weight, err error) {
	client := j.target.callback.Client
	w, ok := l.d.limits.beginBody(client)
	if !ok {
		return false, weight{}, errBodies
	}
	s, err := l.d.conf.Store.Events.Get(j.cb.ctx, j.batch.Seqs[i])
	if err != nil || j.chosen >= 0 {
		l.d.limits.endBody(w)
		w = weight{}
	} else {
		w = l.d.limits.weigh(w, len(s.Body))
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return false, w, nil
	case err != nil:
		return false, w, err
	}
	l.d.limits.saw(len(s.Body))
	j.events[i] = newEvent(s)
	if j.chosen >= 0 {
		j.events[i].Body = nil
	}
	return true, w, nil
}
