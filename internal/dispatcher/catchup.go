package dispatcher

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/logreader"
)

const (
	// gatherFor is how often runCatchUps looks whether shards are still being loaded, gatherMost the longest time that
	// it waits for the next of them before it reads for the callbacks that have come.
	gatherFor  = 10 * time.Millisecond
	gatherMost = 10 * time.Second
	// catchUpIdle is how long readTogether waits for the next event of the log before it gives up.
	catchUpIdle = 10 * time.Second
)

// catchUpRead is a callback that has just come to this replica, and is a little behind the shared reader's ring.
type catchUpRead struct {
	loop *loop
	read read
}

// runCatchUps gathers the callbacks of all shards that come to this replica at about the same time, and reads the log
// once for all of them: ten thousand callbacks must not read it ten thousand times.
func (d *Dispatcher) runCatchUps(ctx context.Context) {
	for {
		coming := map[*loop][]read{}
		select {
		case c := <-d.catchUps:
			coming[c.loop] = append(coming[c.loop], c.read)
		case <-ctx.Done():
			return
		}
		for loading, since := d.loading.Load(), time.Now(); ; {
			select {
			case c := <-d.catchUps:
				coming[c.loop] = append(coming[c.loop], c.read)
				continue
			case <-time.After(gatherFor):
			case <-ctx.Done():
				return
			}
			if now := d.loading.Load(); now != loading {
				loading, since = now, time.Now()
			}
			if d.pendingCatchUps.Load() == 0 && (loading == 0 || time.Since(since) > gatherMost) {
				break
			}
		}
		d.readTogether(ctx, coming)
	}
}

// readTogether reads the log for callbacks that catch up together, with a second instance of the shared reader, from
// the first position that any of them needs to the beginning of the shared reader's ring.
func (d *Dispatcher) readTogether(ctx context.Context, coming map[*loop][]read) {
	from, callbacks := uint64(math.MaxUint64), 0
	for _, reads := range coming {
		callbacks += len(reads)
		for _, r := range reads {
			from = min(from, r.pos)
		}
	}
	f := logreader.NewShared(d.conf.Ring, d.conf.RingBytes, d.conf.Deliverer.Bodies.NoteSize)
	f.Start(from)
	var watching sync.WaitGroup
	over := make(chan struct{})
	for l, reads := range coming {
		for _, r := range reads {
			f.Join(l.shard, r.target.Sites(), from, 0)
		}
		l.send(&catchUpBegins{members: reads, from: from, feed: f})
		watching.Go(func() {
			select {
			case <-l.closed: // it takes no more events, and the reader must not wait for that
				f.Leave(l.shard)
			case <-over:
			}
		})
	}
	err := f.Follow(ctx, d.conf.Store.Events, catchUpIdle, func(pos uint64) bool { return pos >= d.feed.RingFrom() })
	f.Finish()
	close(over)
	watching.Wait()
	if err != nil && ctx.Err() == nil {
		d.conf.Log.Warn("the log could not be read for the callbacks of shards that came; they read by themselves",
			"callbacks", callbacks, "error", err)
	}
}
