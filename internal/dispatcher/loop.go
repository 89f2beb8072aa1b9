package dispatcher

import (
	"context"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/logreader"
	"github.com/audatex-relay/relay/internal/shard"
)

const (
	// takeMost is how many events a loop takes from a reader before it handles other messages.
	takeMost = 256
	// messagesWaiting is how many messages to a loop may wait before their senders do.
	messagesWaiting = 64
	// lastFlush bounds the final writes when a shard is given up.
	lastFlush = 10 * time.Second
)

// loop runs a shard for as long as this replica holds it under one lease. Its goroutine owns the core and all callbacks
// of the shard. The readers of the log, a timer and the end of the work wake it; all else reaches it as a message. It
// waits for nothing more, and does no input or output: goroutines do what takes time, and send it the result.
type loop struct {
	d     *Dispatcher
	lease *shard.Lease
	shard int
	core  *core

	messages      chan message
	next          []message         // messages that the effects of the present step have led to at once
	pulled        newEvents         // reused for every pull
	catchUpReader *logreader.Shared // the reader for those that catch up together; nil: there is none

	run              context.Context // ends when the shard must be given up
	life             context.Context // of attempts, reads and operational events: ends with the grace
	storeCtx         context.Context // of rounds: ends lastFlush after the grace
	goroutines       sync.WaitGroup  // those that the loop has started
	closed           chan struct{}   // closed when no message is taken any more
	loggedSuperseded bool            // superseded has logged
}

// callbackChanged and clientChanged report that the settings of a callback or a client may have changed.
type (
	callbackChanged struct{ id string }
	clientChanged   struct{ id string }
)

func newLoop(run, life context.Context, d *Dispatcher, lease *shard.Lease) *loop {
	return &loop{
		d: d, lease: lease, shard: lease.Shard(), core: newCore(&d.shared),
		messages: make(chan message, messagesWaiting), closed: make(chan struct{}),
		run: run, life: life, storeCtx: context.WithoutCancel(run),
	}
}

// send sends the loop a message, unless the loop has ended.
func (l *loop) send(m message) {
	select {
	case l.messages <- m:
	case <-l.closed:
	}
}

// work handles messages until the shard is given up and nothing of it is under way. stopLife ends what is under way.
func (l *loop) work(stopLife context.CancelFunc) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var firesAt time.Time // of the timer
	stop := l.run.Done()
	l.do(tick{})
	for !l.core.finished() {
		if at := l.core.wake(); !at.IsZero() && !at.Equal(firesAt) {
			firesAt = at
			timer.Reset(max(time.Until(at), time.Millisecond)) // a clock that stands still must not make this spin
		}
		var catchUpWoken <-chan struct{}
		if l.catchUpReader != nil {
			catchUpWoken = l.catchUpReader.Woken(l.shard)
		}
		select {
		case m := <-l.messages:
			l.handle(m)
			for range len(l.messages) { // without the select, which costs more than most messages
				l.handle(<-l.messages)
			}
		case <-l.d.feed.Woken(l.shard):
			l.pull()
		case <-catchUpWoken:
			l.pullCatchUp()
		case <-timer.C:
			firesAt = time.Time{}
			l.pull() // even if nothing in the log is for this shard, it shows how far the reader is
			l.do(tick{})
		case <-stop:
			stop = nil
			defer time.AfterFunc(l.d.conf.Grace, stopLife).Stop()
			last, cancel := context.WithTimeout(l.storeCtx, l.d.conf.Grace+lastFlush)
			defer cancel()
			l.storeCtx = last
			l.pull()
			l.do(giveUp{})
		}
	}
	l.end()
}

// end releases everything that the loop holds, and waits for its goroutines.
func (l *loop) end() {
	close(l.closed)
	l.d.feed.Leave(l.shard)
	for _, cb := range l.core.callbacks {
		l.d.release(cb)
	}
	if !l.core.toLoad.listed {
		l.d.loading.Add(-1)
	}
	l.goroutines.Wait()
}

// handle handles a message: first what concerns the loop itself, then the core's part.
func (l *loop) handle(m message) {
	switch m := m.(type) {
	case callbackChanged:
		l.do(l.currentConfig(m.id))
		return
	case clientChanged:
		for id, cb := range l.core.callbacks {
			if cb.target.Callback.Client == m.id {
				l.do(l.currentConfig(id))
			}
		}
		return
	case *catchUpBegins:
		for l.catchUpReader != nil { // the reader before has ended; what it has read comes first
			l.pullCatchUp()
		}
		l.catchUpReader = m.feed
	}
	listed := l.core.toLoad.listed
	if l.do(m); listed != l.core.toLoad.listed {
		l.d.loading.Add(-1)
	}
}

// pull takes what the shared reader has for the shard, and has the core offer it.
func (l *loop) pull() {
	l.pulled.events, l.pulled.through, _ = l.d.feed.Take(l.shard, l.pulled.events[:0], takeMost)
	l.pulled.of = &l.core.shared
	l.do(&l.pulled)
	clear(l.pulled.events)
}

// pullCatchUp does the same with the reader for callbacks that catch up together.
func (l *loop) pullCatchUp() {
	events, through, over := l.catchUpReader.Take(l.shard, nil, takeMost)
	l.do(&newEvents{&l.core.catchingUp, events, through})
	if over {
		l.catchUpReader = nil
		l.do(catchUpEnds{})
	}
}

// do has the core handle a message, and does what it decides.
func (l *loop) do(m message) {
	l.next = append(l.next, m)
	for i := 0; i < len(l.next); i++ {
		l.apply(l.core.step(l.next[i], time.Now(), l.lease.Valid()))
	}
	clear(l.next)
	l.next = l.next[:0]
}

// currentConfig returns the present configuration of a callback.
func (l *loop) currentConfig(id string) configured {
	return configured{id, l.d.conf.Deliverer.Targets.Of(id)}
}

// apply does what a step has decided.
func (l *loop) apply(e *effects) {
	if len(e.interest) > 0 {
		l.d.feed.Want(l.shard, e.interest)
	}
	for _, j := range e.begin {
		l.goroutines.Go(func() { l.attempts(j) })
	}
	for _, j := range e.next {
		j.more <- true
	}
	for _, j := range e.idle {
		j.more <- false
	}
	for _, id := range e.recheck { // before the ring is read, which must be done by the present filter
		l.next = append(l.next, l.currentConfig(id))
	}
	for _, r := range e.ring {
		l.next = append(l.next, &ringPage{r, l.d.feed.Join(l.shard, r.target.Sites(), r.pos, capacity.PageEvents)})
	}
	if r, ctx := e.round, l.storeCtx; r != nil {
		l.goroutines.Go(func() {
			l.storeRound(ctx, r)
			l.send(roundEnded{r})
		})
	}
	if e.common() {
		return
	}
	l.applySeldom(e)
}

// applySeldom does what is not a part of every delivery.
func (l *loop) applySeldom(e *effects) {
	for _, r := range e.pages {
		l.goroutines.Go(func() {
			page, err := l.d.pages.Read(r.cb.ctx, r.target, r.pos, r.bodySize)
			l.send(&logPage{r, page, err})
		})
	}
	for _, lanes := range e.refills {
		l.goroutines.Go(func() {
			for i, r := range lanes {
				seqs, through, err := l.d.pages.Lane(r.cb.ctx, r.target, r.of)
				if l.send(&refilled{r, seqs, through, err, i < len(lanes)-1 && err == nil}); err != nil {
					return
				}
			}
		})
	}
	for _, r := range e.catchUp {
		l.d.pendingCatchUps.Add(1)
		l.goroutines.Go(func() {
			defer l.d.pendingCatchUps.Add(-1)
			select {
			case l.d.catchUps <- catchUpRead{l, r}:
			case <-l.run.Done():
			}
		})
	}
	for _, ev := range e.publish {
		l.persist(ev, func(ctx context.Context) bool { return l.d.publish(ctx, ev) })
	}
	for _, what := range e.disables {
		l.persist(nil, func(ctx context.Context) bool { return l.storeDisabling(ctx, &what) })
	}
	for _, cb := range e.cancel {
		cb.cancel()
	}
	for _, cb := range e.retired {
		l.goroutines.Go(func() {
			if cb.phase == retiring {
				l.eraseCursor(cb.id)
			}
			l.d.release(cb)
			l.send(done{retired: cb})
		})
	}
	if what := e.load; what != nil {
		l.goroutines.Go(func() { l.load(what) })
	}
	if e.laterEpoch > 0 {
		l.superseded(e.laterEpoch)
	}
}

// superseded reports to the lease that an owner with a higher epoch has written a document. It logs that once.
func (l *loop) superseded(epoch uint64) {
	if !l.loggedSuperseded {
		l.loggedSuperseded = true
		l.d.conf.Log.Warn("another replica delivers for this shard now; this one stores nothing over what that has written",
			"shard", l.shard, "epoch", l.lease.Epoch(), "found", epoch)
	}
	l.lease.Superseded(epoch)
}

// release gives back what a callback holds of what all callbacks share.
func (d *Dispatcher) release(cb *callback) {
	cb.cancel()
	cb.sending.test.End(cb.sending.allowance)
	cb.sending.allowance.Leave()
	d.conf.Deliverer.Release(cb.target)
	d.conf.Deliverer.Memory.Join(-1)
}
