package replay

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
)

// What has waited for its turn is not sent to a callback that was paused meanwhile.
func TestAPauseHoldsForAttemptsThatWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		target := &delivery.Target{Key: "bms",
			Callback: relay.Callback{ID: "bms", Client: "shop", Concurrency: 16, RatePerSecond: 0.1}}
		r := &Replayer{c: Config{Schedule: DefaultSchedule}}
		w := &runner{r: r, lease: shardtest.Fixed(0, 1), cur: cursor.New(r.policy(4)), results: make(chan *attempt),
			sel: &selection{callback: target}}
		w.share = newShares(capacity.NewSlots(100)).join(target)
		defer w.share.leave()
		if err := w.share.take(t.Context()); err != nil { // the next turn is 40 seconds away
			t.Fatal(err)
		}
		w.share.release()
		w.target.known.Store(&known{target: target})
		w.cur.Offer(cursor.Entry{Seq: 1, Order: "a"})
		w.begin(t.Context(), t.Context(), time.Now())
		synctest.Wait()
		paused := *target
		paused.Callback.Paused = true
		w.target.known.Store(&known{target: &paused})
		w.judge(<-w.results)
		if b, ok := w.cur.Take(time.Now(), 1); !ok || b.Attempt != 1 {
			t.Errorf("it does not wait for its first attempt: %+v, %t", b, ok)
		}
	})
}
