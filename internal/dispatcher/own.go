package dispatcher

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/audatex-relay/relay/internal/shard"
)

// lastFlush bounds the final writes when a shard is given up.
const lastFlush = 10 * time.Second

// tenure is one shard for as long as this replica holds it under one lease.
type tenure struct {
	d     *Dispatcher
	lease *shard.Lease
	shard int

	run    context.Context // ends when the shard is to be given up: nothing new
	life   context.Context // of attempts, reads and facts: ends with the grace
	ending atomic.Bool     // as run's end, but known before anybody waits for what is under way
	chores sync.WaitGroup
	left   chan struct{} // closed when Own returns

	listed     bool            // the shard's callbacks have been looked through once; guarded by settings.mu, as missing is
	missing    map[string]bool // callbacks that are not loaded yet
	told       atomic.Bool     // that a successor was found has been logged
	superseded atomic.Bool     // a document of a higher epoch was found
	mark       watermark
}

// Own delivers for a shard under its lease until ctx ends (or Run's does): it loads the shard's callbacks and works them. Then nothing is
// started any more, attempts under way end (at most Config.Grace), where everything stands is stored, the callbacks leave memory, and Own
// answers nil. Shards that arrive at the same moment are loaded together. While the lease is not valid nothing is started or stored, and
// what has not been stored when ctx ends then is dropped: the next owner repeats it.
func (d *Dispatcher) Own(ctx context.Context, lease *shard.Lease) error {
	select {
	case <-d.started:
	case <-ctx.Done():
		return nil
	}
	t := d.take(ctx, lease)
	if t == nil {
		return nil
	}
	defer d.owners.Done()
	run, stopRun := context.WithCancel(ctx)
	defer stopRun()
	defer context.AfterFunc(d.run, stopRun)()
	life, stopLife := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLife()
	t.run, t.life = run, life
	d.arrivals.shard(t)
	<-run.Done()
	t.end(stopLife)
	return nil
}

// take enters the tenure of a shard, once an earlier one of this replica has ended. It answers nil if ctx or Run ends first.
func (d *Dispatcher) take(ctx context.Context, lease *shard.Lease) *tenure {
	for {
		d.mu.Lock()
		before := d.tenures[lease.Shard()]
		switch {
		case d.closed || ctx.Err() != nil:
			d.mu.Unlock()
			return nil
		case before == nil:
			t := &tenure{d: d, lease: lease, shard: lease.Shard(), left: make(chan struct{}), missing: map[string]bool{}, mark: watermark{held: true}}
			d.tenures[t.shard] = t
			d.owners.Add(1)
			d.mu.Unlock()
			return t
		}
		d.mu.Unlock()
		select {
		case <-before.left:
		case <-ctx.Done():
			return nil
		}
	}
}

// tenure answers how the callback's shard is held, nil if it is not, or about to be given up.
func (d *Dispatcher) tenure(shard int) *tenure {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if t := d.tenures[shard]; t != nil && !t.ending.Load() {
		return t
	}
	return nil
}

// end gives the shard up.
func (t *tenure) end(stopLife context.CancelFunc) {
	d := t.d
	d.settings.mu.Lock() // no callback is loaded or changed between two looks at ending
	t.ending.Store(true)
	d.settings.mu.Unlock()
	mine := t.callbacks()

	grace := time.AfterFunc(d.conf.Grace, stopLife)
	for _, c := range mine {
		c.stop(false)
	}
	grace.Stop()
	t.chores.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.run), lastFlush)
	defer cancel()
	d.flush.do(ctx, func(context.Context) { t.store(ctx, mine) })
	for _, c := range mine { // from here on nothing of it is stored
		c.mu.Lock()
		c.fenced = true
		c.mu.Unlock()
		d.flush.forget(c)
	}

	d.mu.Lock()
	for _, c := range mine {
		if d.callbacks[c.id] == c {
			delete(d.callbacks, c.id)
		}
	}
	d.tenures[t.shard] = nil
	d.mu.Unlock()
	close(t.left)
}

// store stores what the last attempts came to, and the watermark, so that the next owner finds nothing to repeat. It runs
// in the flusher.
func (t *tenure) store(ctx context.Context, mine []*callback) {
	for range 3 {
		var unstored []*callback
		for _, c := range mine {
			c.mu.Lock()
			if !c.fenced && (len(c.records) > 0 || c.cur.Dirty()) {
				unstored = append(unstored, c)
			}
			c.mu.Unlock()
		}
		if len(unstored) == 0 {
			break
		}
		t.d.flush.round(ctx, unstored)
	}
	t.lastWatermark(ctx, mine)
}

// callbacks answers the tenure's callbacks that there are.
func (t *tenure) callbacks() []*callback {
	t.d.mu.RLock()
	defer t.d.mu.RUnlock()
	var mine []*callback
	for _, c := range t.d.callbacks {
		if c.t == t {
			mine = append(mine, c)
		}
	}
	return mine
}

// supersede notes that a document was found which an owner of a higher epoch has written.
func (t *tenure) supersede(log *slog.Logger, epoch uint64) {
	t.superseded.Store(true)
	if !t.told.Swap(true) {
		log.Warn("another replica delivers for this shard now; this one stores nothing over what that has written",
			"shard", t.shard, "epoch", t.lease.Epoch(), "found", epoch)
	}
	t.lease.Superseded(epoch)
}
