package cursorstore_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
)

// Shards that are loaded at the same time are read together, few as well as all of them: each gets its own cursors with
// their lanes, and no others.
func TestShardsThatComeTogetherAreReadTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	of := map[int][]string{}
	for n := range 40 {
		id := fmt.Sprintf("c%d", n)
		of[relay.ShardOf(id)] = append(of[relay.ShardOf(id)], id)
		r, res := w.adopt(w.first, 3, id)
		w.written("adopt", res)
		r.lanes(1, 1)
		w.written("store a lane", w.flush(w.first, 3, r))
	}
	for _, shards := range []int{relay.Shards, 3} {
		asked := natstest.Requests(t, w.nc)
		var loading sync.WaitGroup
		for shard := range shards {
			loading.Go(func() {
				found, err := w.second.Load(t.Context(), shard, []string{"new"})
				if err != nil {
					t.Error(err)
					return
				}
				var ids []string
				for id, f := range found {
					if id != "new" {
						ids = append(ids, id)
						if f.Document == nil || f.Document.Epoch != 3 || len(f.Lanes) != 1 {
							t.Errorf("%s: %+v", id, f)
						}
					}
				}
				slices.Sort(ids)
				want := slices.Sorted(slices.Values(of[shard]))
				if !slices.Equal(ids, want) || found["new"] == nil || !found["new"].Empty() {
					t.Errorf("of shard %d there are %q, not %q", shard, ids, want)
				}
			})
		}
		loading.Wait()
		// a busy machine may let some come late
		if n := asked("CONSUMER.CREATE.KV_relay_cursors."); n == 0 || n > max(shards/2, 3) {
			t.Errorf("the documents of %d shards were listed %d times", shards, n)
		}
	}
	found, err := w.second.LoadMany(t.Context(), []string{"c1", "c2", "c3", "new"})
	if err != nil || len(found) != 4 || len(found["c2"].Lanes) != 1 || !found["new"].Empty() {
		t.Errorf("of four cursors there are %d: %v", len(found), err)
	}
}
