package dispatcher

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/logreader"
)

const (
	// gatherFor is how often one looks whether shards are still being loaded, gatherMost how long one waits for the
	// next of them at most before the log is read for those that have come.
	gatherFor  = 10 * time.Millisecond
	gatherMost = 10 * time.Second
	// catchUpIdle is how long the reader for those that came waits for the log before each reads by itself.
	catchUpIdle = 10 * time.Second
)

// catchUpRead is a callback that came to this replica a little before where the ring of the shared reader begins.
type catchUpRead struct {
	loop *loop
	read read
}

// runCatchUps reads the log once for all callbacks that come at the same time, whatever their shards: a second
// instance of the shared reader, until it has come to the ring of the first. Ten thousand callbacks do not read ten
// thousand times. Who comes while it reads is among the next.
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
		d.catchUpGroup(ctx, coming)
	}
}

func (d *Dispatcher) catchUpGroup(ctx context.Context, coming map[*loop][]read) {
	from, callbacks := uint64(math.MaxUint64), 0
	for _, reads := range coming {
		callbacks += len(reads)
		for _, r := range reads {
			from = min(from, r.pos)
		}
	}
	f := logreader.NewShared(d.conf.Ring, d.conf.RingBytes, d.conf.Deliverer.Bodies.Saw)
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
			case <-l.closed: // the reader must not wait for it
				f.Leave(l.shard)
			case <-over:
			}
		})
	}
	err := f.Follow(ctx, d.conf.Store.Events, catchUpIdle, func(pos uint64) bool { return pos >= d.feed.Reach() })
	f.Finish()
	close(over)
	watching.Wait()
	if err != nil && ctx.Err() == nil {
		d.conf.Log.Warn("the log could not be read for the callbacks of shards that came; they read by themselves", "callbacks", callbacks, "error", err)
	}
}
