package replay

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// A replay that is made at the very moment when its shard is taken is noted: either it is among those that are there,
// or its making is a change that is noticed.
func TestAReplayMadeWhileItsShardIsTakenIsNoted(t *testing.T) {
	t.Parallel()
	const tries = 20
	shard, missed := relay.ShardOf("bms"), 0
	for range tries {
		r := &Replayer{}
		r.follow(nil)
		var made atomic.Int32
		var taken atomic.Bool
		var making sync.WaitGroup
		making.Go(func() {
			for !taken.Load() {
				n := made.Add(1)
				r.replays.Put(store.ReplayKey("bms", fmt.Sprint(n)), relay.Replay{Callback: "bms"}, uint64(n))
			}
		})
		for made.Load() < 3 {
			runtime.Gosched()
		}
		o := r.hold(shard)
		taken.Store(true)
		making.Wait()
		missed += int(made.Load()) - len(o.take())
	}
	if missed > 0 {
		t.Errorf("%d were missed", missed)
	}
}
