package dispatcher

import (
	"context"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
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
	// factRetry is how long one waits before a fact is published again.
	factRetry = 2 * time.Second
	// lastTries is how often it is tried once the shard must be given up, within the grace; lastRetry lies in between.
	lastTries = 5
	lastRetry = 200 * time.Millisecond
)

// loop drives a shard for as long as this replica holds it under one lease. Its goroutine owns the core and all the
// shard's callbacks; everything reaches it as a message. It does no input or output and waits for nothing but the
// next message: what takes time runs in goroutines that hand back what came of it.
type loop struct {
	d     *Dispatcher
	lease *shard.Lease
	shard int
	core  *core

	messages chan message
	next     []message // of this turn: what the effects of a step came to at once
	news     newEvents // for reuse
	comers   *feed     // the reader for those that catch up together; nil: there is none

	run   context.Context // ends when the shard must be given up
	life  context.Context // of attempts, reads and facts: ends with the grace
	keep  context.Context // of storing: ends some time after that
	hands sync.WaitGroup  // its goroutines
	ended chan struct{}   // closed when no message is taken any more
	told  bool            // that a successor was found has been logged
}

// changed and clientChanged say that the settings of a callback or a client may have changed: the loop reads them.
type (
	changed       struct{ id string }
	clientChanged struct{ id string }
)

func newLoop(run, life context.Context, d *Dispatcher, lease *shard.Lease) *loop {
	l := &loop{
		d: d, lease: lease, shard: lease.Shard(), core: newCore(&d.shared, lease.Epoch()),
		messages: make(chan message, messagesWaiting), run: run, life: life, keep: context.WithoutCancel(run), ended: make(chan struct{}),
	}
	return l
}

// send hands a message over; false if the loop has ended.
func (l *loop) send(m message) bool {
	select {
	case l.messages <- m:
		return true
	case <-l.ended:
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
		if l.comers != nil {
			together = l.comers.shards[l.shard].woken
		}
		select {
		case m := <-l.messages:
			l.take(m)
		case <-l.d.feed.shards[l.shard].woken:
			l.pull()
		case <-together:
			l.pullComers()
		case <-timer.C:
			rings = time.Time{}
			l.pull() // also where nothing is wanted: how far the reader has come
			l.do(tick{})
		case <-stop:
			stop = nil
			defer time.AfterFunc(l.d.conf.Grace, stopLife).Stop()
			last, cancel := context.WithTimeout(l.keep, l.d.conf.Grace+lastFlush)
			defer cancel()
			l.keep = last
			l.pull()
			l.do(giveUp{})
		}
	}
	l.end()
}

// end lets go of everything.
func (l *loop) end() {
	close(l.ended)
	l.d.feed.leave(l.shard)
	for _, cb := range l.core.callbacks {
		l.d.release(cb)
	}
	if !l.core.arriving.listed {
		l.d.loading.Add(-1)
	}
	l.hands.Wait()
}

// take does what a message means that concerns the driver as well as the core.
func (l *loop) take(m message) {
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
	case *comersBegin:
		for l.comers != nil { // the one before has ended: what it had comes first
			l.pullComers()
		}
		l.comers = m.feed
	}
	listed := l.core.arriving.listed
	if l.do(m); listed != l.core.arriving.listed {
		l.d.loading.Add(-1)
	}
}

// pull takes what the shared reader has for the shard.
func (l *loop) pull() {
	l.news.events, l.news.through, _ = l.d.feed.take(l.shard, l.news.events[:0], takeMost)
	l.news.of = &l.core.shared
	l.do(&l.news)
	clear(l.news.events)
}

// pullComers takes what the reader for those that catch up together has.
func (l *loop) pullComers() {
	events, through, over := l.comers.take(l.shard, nil, takeMost)
	l.do(&newEvents{&l.core.together, events, through})
	if over {
		l.comers = nil
		l.do(comersEnd{})
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
		l.d.feed.want(l.shard, e.interest)
	}
	for _, j := range e.begin {
		l.hands.Go(func() { l.attempts(j) })
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
		page := l.d.feed.join(l.shard, r.target, r.pos, pageEvents)
		page.read = r
		l.next = append(l.next, &page)
	}
	if r, ctx := e.round, l.keep; r != nil {
		l.hands.Go(func() {
			l.store(ctx, r)
			l.send(rounded{r})
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
		l.hands.Go(func() { l.send(l.d.readPage(r.cb.ctx, r)) })
	}
	for _, lanes := range e.refills {
		l.hands.Go(func() {
			for i, r := range lanes {
				found := l.d.readLane(r.cb.ctx, r)
				found.more = i < len(lanes)-1 && found.err == nil
				if l.send(found); found.err != nil {
					return
				}
			}
		})
	}
	for _, r := range e.comers {
		l.d.coming.Add(1)
		l.hands.Go(func() {
			defer l.d.coming.Add(-1)
			select {
			case l.d.comers <- comer{l, r}:
			case <-l.run.Done():
			}
		})
	}
	for _, f := range e.facts {
		l.chore(func(ctx context.Context) bool { return l.d.publish(ctx, f) })
	}
	for _, what := range e.disables {
		stored := false
		l.chore(func(ctx context.Context) bool { return l.disable(ctx, &what, &stored) })
	}
	for _, cb := range e.cancel {
		cb.cancel()
	}
	for _, cb := range e.retired {
		l.hands.Go(func() {
			if cb.phase == retiring {
				l.eraseCursor(cb.id)
			}
			l.d.release(cb)
			l.send(done{cb})
		})
	}
	if what := e.load; what != nil {
		l.hands.Go(func() { l.load(what) })
	}
	if e.found > 0 {
		l.superseded(e.found)
	}
}

// chore publishes a fact, or disables a callback and publishes that: until try reports success or, once the shard must
// be given up, it has failed a few times more. The event of a replica that dies, or that cannot publish for so long, is
// lost; what it would have said is in the callback's attempts and status.
func (l *loop) chore(try func(ctx context.Context) bool) {
	l.hands.Go(func() {
		defer l.send(done{})
		for last := 0; !try(l.life) && l.life.Err() == nil && last < lastTries; {
			if backoff.Sleep(l.run, factRetry); l.run.Err() != nil {
				last++
				backoff.Sleep(l.life, lastRetry)
			}
		}
	})
}

// superseded logs and reports to the lease that a document was found which an owner of a higher epoch has written.
func (l *loop) superseded(epoch uint64) {
	if !l.told {
		l.told = true
		l.d.conf.Log.Warn("another replica delivers for this shard now; this one stores nothing over what that has written",
			"shard", l.shard, "epoch", l.lease.Epoch(), "found", epoch)
	}
	l.lease.Superseded(epoch)
}

// release gives back what a callback has of what all callbacks share.
func (d *Dispatcher) release(cb *callback) {
	cb.cancel()
	cb.sending.place.Leave()
	d.conf.Deliverer.Forget(cb.id)
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
	case <-l.ended:
		return false
	}
}

// ask has a shard's loop answer a question about a callback; false if this replica does not deliver to it, or is
// about to stop.
func (d *Dispatcher) ask(id string, answer func(c *core, cb *callback)) (known bool) {
	l := d.loops[relay.ShardOf(id)].Load()
	return l != nil && l.ask(func(c *core) {
		cb := c.callbacks[id]
		if known = cb != nil; known {
			answer(c, cb)
		}
	}) && known
}
