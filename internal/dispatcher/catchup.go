package dispatcher

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/delivery"

	"github.com/audatex-relay/relay/internal/cursor"
)

// Bounds of one page of the log that a callback reads by itself.
const (
	pageEvents  = 512
	pageBytes   = 1 << 20
	firstEvents = 32 // of the first page: it grows with what the events turn out to weigh
)

const (
	// gatherFor is how often one looks whether shards are still being loaded, gatherMost how long one waits for the
	// next of them at most before the log is read for those that have come.
	gatherFor  = 10 * time.Millisecond
	gatherMost = 10 * time.Second
	// comersIdle is how long the reader for those that came waits for the log before each reads by itself.
	comersIdle = 10 * time.Second
)

// readPage reads the next page of what may be for a callback from the log.
func (d *Dispatcher) readPage(ctx context.Context, r read) *logPage {
	page := &logPage{read: r, size: r.size}
	if page.size == 0 { // small from the start where bodies have been large of late
		page.size = d.conf.Deliverer.Bodies.Fit(pageBytes, firstEvents)
	}
	first, last, err := d.conf.Store.Events.Bounds(ctx)
	if err != nil {
		page.err = err
		return page
	}
	page.first, page.through = first, max(last, r.pos)
	filters, none := r.target.Subjects("")
	if none || last <= r.pos {
		return page
	}
	events, more, err := d.conf.Store.Events.Scan(ctx, r.pos+1, filters, page.size)
	if err != nil {
		page.err = err
		return page
	}
	bytes := 0
	for _, s := range events {
		ev := delivery.EventOf(s)
		page.events = append(page.events, &ev)
		bytes += len(s.Body)
		d.conf.Deliverer.Bodies.Saw(len(s.Body))
	}
	switch n := len(events); {
	case n == 0 && more:
		page.through = r.pos // all that was counted has aged out meanwhile: look again
	case n > 0:
		page.size = min(max(min(pageBytes, d.conf.Deliverer.Memory.Part())/max(bytes/n, 1), 1), pageEvents)
		if page.through = max(page.through, events[n-1].Seq); more {
			page.through = events[n-1].Seq
		}
	}
	return page
}

// readLane reads the positions of an order's events that wait behind a lane, and how far it has looked.
func (d *Dispatcher) readLane(ctx context.Context, r refill) *refilled {
	found := &refilled{refill: r, through: r.of.Through}
	filters, none := r.target.Subjects(r.of.Order)
	if none {
		return found
	}
	events, more, err := d.conf.Store.Events.Scan(ctx, r.of.From, filters, d.conf.Deliverer.Bodies.Fit(8*pageBytes, cursor.LaneEntries+1))
	if err != nil {
		found.err = err
		return found
	}
	for _, s := range events {
		if s.Seq <= r.of.Through && r.target.Matches(&delivery.Event{Stored: s}) {
			found.seqs = append(found.seqs, s.Seq)
		}
	}
	if more && len(events) > 0 {
		found.through = min(found.through, events[len(events)-1].Seq)
	}
	return found
}

// comer is a callback that came to this replica a little before where the ring of the shared reader begins.
type comer struct {
	loop *loop
	read read
}

// readForComers reads the log once for all callbacks that come at the same time, whatever their shards: a second
// instance of the shared reader, until it has come to the ring of the first. Ten thousand callbacks do not read ten
// thousand times. Who comes while it reads is among the next.
func (d *Dispatcher) readForComers(ctx context.Context) {
	for {
		coming := map[*loop][]read{}
		select {
		case c := <-d.comers:
			coming[c.loop] = append(coming[c.loop], c.read)
		case <-ctx.Done():
			return
		}
		for loading, since := d.loading.Load(), time.Now(); ; {
			select {
			case c := <-d.comers:
				coming[c.loop] = append(coming[c.loop], c.read)
				continue
			case <-time.After(gatherFor):
			case <-ctx.Done():
				return
			}
			if now := d.loading.Load(); now != loading {
				loading, since = now, time.Now()
			}
			if d.coming.Load() == 0 && (loading == 0 || time.Since(since) > gatherMost) {
				break
			}
		}
		d.readTogether(ctx, coming)
	}
}

func (d *Dispatcher) readTogether(ctx context.Context, coming map[*loop][]read) {
	from, callbacks := uint64(math.MaxUint64), 0
	for _, reads := range coming {
		callbacks += len(reads)
		for _, r := range reads {
			from = min(from, r.pos)
		}
	}
	f := newFeed(d.conf.Ring, d.conf.RingBytes, d.conf.Deliverer.Bodies.Saw)
	f.start(from)
	var watching sync.WaitGroup
	over := make(chan struct{})
	for l, reads := range coming {
		for _, r := range reads {
			f.join(l.shard, r.target, from, 0)
		}
		l.send(&comersBegin{comers: reads, from: from, feed: f})
		watching.Go(func() {
			select {
			case <-l.ended: // the reader must not wait for it
				f.leave(l.shard)
			case <-over:
			}
		})
	}
	err := f.follow(ctx, d.conf.Store.Events, comersIdle, func(pos uint64) bool { return pos >= d.feed.reach() })
	f.finish()
	close(over)
	watching.Wait()
	if err != nil && ctx.Err() == nil {
		d.conf.Log.Warn("the log could not be read for the callbacks of shards that came; they read by themselves", "callbacks", callbacks, "error", err)
	}
}
