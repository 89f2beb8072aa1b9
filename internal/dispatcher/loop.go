package dispatcher

import (
	"context"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/logreader"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
)

const (
	// takeMost is how many events a loop takes from a reader before it looks at what else has come.
	takeMost = 256
	// messagesWaiting is how many messages to a loop may wait before their senders do.
	messagesWaiting = 64
	// lastFlush bounds the final writes when a shard is given up.
	lastFlush = 10 * time.Second
)

// loop drives a shard for as long as this replica holds it under one lease. Its goroutine owns the core and all the
// shard's callbacks; everything reaches it as a message. It does no input or output and waits for nothing but the
// next message: what takes time runs in goroutines that hand back what came of it.
type loop struct {
	d     *Dispatcher
	lease *shard.Lease
	shard int
	core  *core

	messages      chan message
	next          []message         // of this turn: what the effects of a step came to at once
	pulled        newEvents         // for reuse
	catchUpReader *logreader.Shared // the reader for those that catch up together; nil: there is none

	run              context.Context // ends when the shard must be given up
	life             context.Context // of attempts, reads and facts: ends with the grace
	storeCtx         context.Context // of storing: ends some time after that
	goroutines       sync.WaitGroup  // its goroutines
	closed           chan struct{}   // closed when no message is taken any more
	loggedSuperseded bool            // that a successor was found has been logged
}

// changed and clientChanged say that the settings of a callback or a client may have changed: the loop reads them.
type (
	changed       struct{ id string }
	clientChanged struct{ id string }
)

func newLoop(run, life context.Context, d *Dispatcher, lease *shard.Lease) *loop {
	return &loop{
		d: d, lease: lease, shard: lease.Shard(), core: newCore(&d.shared),
		messages: make(chan message, messagesWaiting), run: run, life: life, storeCtx: context.WithoutCancel(run), closed: make(chan struct{}),
	}
}

// send hands a message over; false if the loop has ended.
func (l *loop) send(m message) bool {
	select {
	case l.messages <- m:
		return true
	case <-l.closed:
		return false
	}
}

// work works the shard until it is given up and nothing of it is under way. stopLife ends what is under way.
func (l *loop) work(stopLife context.CancelFunc) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var rings time.Time // when the timer does
	stop := l.run.Done()
	l.do(tick{})
	for !l.core.finished() {
		if at := l.core.wake(); !at.IsZero() && !at.Equal(rings) {
			rings = at
			timer.Reset(max(time.Until(at), time.Millisecond)) // a clock that stands still must not make this spin
		}
		var together <-chan struct{}
		if l.catchUpReader != nil {
			together = l.catchUpReader.Woken(l.shard)
		}
		select {
		case m := <-l.messages:
			l.handle(m)
		case <-l.d.feed.Woken(l.shard):
			l.pull()
		case <-together:
			l.pullCatchUp()
		case <-timer.C:
			rings = time.Time{}
			l.pull() // also where nothing is wanted: how far the reader has come
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

// end lets go of everything.
func (l *loop) end() {
	close(l.closed)
	l.d.feed.Leave(l.shard)
	for _, cb := range l.core.callbacks {
		l.d.release(cb)
	}
	if !l.core.arriving.listed {
		l.d.loading.Add(-1)
	}
	l.goroutines.Wait()
}

// handle does what a message means that concerns the driver as well as the core.
func (l *loop) handle(m message) {
	switch m := m.(type) {
	case changed:
		l.do(l.present(m.id))
		return
	case clientChanged:
		for id, cb := range l.core.callbacks {
			if cb.target.Callback.Client == m.id {
				l.do(l.present(id))
			}
		}
		return
	case *catchUpBegins:
		for l.catchUpReader != nil { // the one before has ended: what it had comes first
			l.pullCatchUp()
		}
		l.catchUpReader = m.feed
	}
	listed := l.core.arriving.listed
	if l.do(m); listed != l.core.arriving.listed {
		l.d.loading.Add(-1)
	}
}

// pull takes what the shared reader has for the shard.
func (l *loop) pull() {
	l.pulled.events, l.pulled.through, _ = l.d.feed.Take(l.shard, l.pulled.events[:0], takeMost)
	l.pulled.of = &l.core.shared
	l.do(&l.pulled)
	clear(l.pulled.events)
}

// pullCatchUp takes what the reader for those that catch up together has.
func (l *loop) pullCatchUp() {
	events, through, over := l.catchUpReader.Take(l.shard, nil, takeMost)
	l.do(&newEvents{&l.core.catchUpGroup, events, through})
	if over {
		l.catchUpReader = nil
		l.do(catchUpEnds{})
	}
}

// do has the core take a message, and does what follows from it.
func (l *loop) do(m message) {
	l.next = append(l.next, m)
	for i := 0; i < len(l.next); i++ {
		l.apply(l.core.step(l.next[i], time.Now(), l.lease.Valid()))
	}
	clear(l.next)
	l.next = l.next[:0]
}

// present returns what holds of a callback now.
func (l *loop) present(id string) configured {
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
	for _, id := range e.recheck { // before the ring is looked into, which is for who joins under its present filter
		l.next = append(l.next, l.present(id))
	}
	for _, r := range e.ring {
		l.next = append(l.next, &ringPage{r, l.d.feed.Join(l.shard, r.target.Sites(), r.pos, logreader.PageEvents)})
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

// applySeldom does what is not part of every delivery.
func (l *loop) applySeldom(e *effects) {
	for _, r := range e.pages {
		l.goroutines.Go(func() {
			page, err := l.d.pages.Read(r.cb.ctx, r.target, r.pos, r.size)
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
	for _, f := range e.facts {
		l.chore(f, func(ctx context.Context) bool { return l.d.publish(ctx, f) })
	}
	for _, what := range e.disables {
		l.chore(nil, func(ctx context.Context) bool { return l.storeDisabling(ctx, &what) })
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

// chore publishes a fact, or disables a callback: until try reports success or, once the shard must be given up, it has
// failed a few times more. A notice that was not published then is the next owner's to publish.
func (l *loop) chore(f *fact, try func(ctx context.Context) bool) {
	l.goroutines.Go(func() {
		defer l.send(done{published: f})
		backoff.Persist(l.run, l.life, try)
	})
}

// superseded logs and reports to the lease that a document was found which an owner of a higher epoch has written.
func (l *loop) superseded(epoch uint64) {
	if !l.loggedSuperseded {
		l.loggedSuperseded = true
		l.d.conf.Log.Warn("another replica delivers for this shard now; this one stores nothing over what that has written",
			"shard", l.shard, "epoch", l.lease.Epoch(), "found", epoch)
	}
	l.lease.Superseded(epoch)
}

// release gives back what a callback has of what all callbacks share.
func (d *Dispatcher) release(cb *callback) {
	cb.cancel()
	cb.sending.test.End(cb.sending.place)
	cb.sending.place.Leave()
	d.conf.Deliverer.Release(cb.target)
	d.conf.Deliverer.Memory.Join(-1)
}

// ask has the loop's goroutine ask the core; false if it has ended, or is about to.
func (l *loop) ask(what func(c *core)) bool {
	answers, answered := false, make(chan struct{})
	asked := l.send(question{func(c *core) {
		defer close(answered)
		if answers = !c.ending.begun; answers {
			what(c)
		}
	}})
	if !asked {
		return false
	}
	select {
	case <-answered:
		return answers
	case <-l.closed:
		return false
	}
}

// ask has a shard's loop answer a question about a callback; false if this replica does not deliver to it, or stops.
func (d *Dispatcher) ask(id string, answer func(c *core, cb *callback)) (known bool) {
	l := d.loops[relay.ShardOf(id)].Load()
	return l != nil && l.ask(func(c *core) {
		cb := c.callbacks[id]
		if known = cb != nil; known {
			answer(c, cb)
		}
	}) && known
}
