package replay

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
)

// However many attempts of replays wait, deliveries get three quarters of what an overloaded receiver takes.
func TestReplaysTakeAQuarterOfASlowedReceiver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slots := capacity.NewSlots(1000)
		target := &delivery.Target{Key: "bms", Callback: relay.Callback{Client: "shop", Concurrency: 64}}
		live := slots.Join("shop", "bms", func() {})
		defer live.Leave()
		live.SetLimits(64, 64, 0)
		sh := newShares(slots).join(target)
		defer sh.leave()
		for i := range 40 { // refusals and successes at 4 a second
			if now := time.Now(); i%2 == 0 {
				live.Refused(now, capacity.Refusal{Began: now, Asked: true})
			} else {
				live.Accepted(now, now)
			}
			time.Sleep(125 * time.Millisecond) //nolint:forbidigo // virtual time
		}
		if slowed := live.Slowed(time.Now()); slowed == nil {
			t.Fatal("it is not slowed down")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var all sync.WaitGroup
		var mu sync.Mutex
		delivered, replayed := 0, 0
		all.Go(func() {
			for ctx.Err() == nil {
				now := time.Now()
				if wait := live.Wait(now); wait > 0 {
					time.Sleep(wait) //nolint:forbidigo // virtual time
					continue
				}
				if live.UseRate(now) {
					delivered++
				}
			}
		})
		for range 160 {
			all.Go(func() {
				for sh.take(ctx) == nil {
					sh.release()
					mu.Lock()
					replayed++
					mu.Unlock()
				}
			})
		}
		all.Wait()
		t.Logf("%d delivered, %d replayed", delivered, replayed)
		if sum := delivered + replayed; replayed == 0 || replayed*100 > sum*28 {
			t.Errorf("%d of %d attempts were those of replays", replayed, sum)
		}
	})
}

// A replay that waits for a low rate goes on soon after that was raised.
func TestARaisedRateHoldsForWhatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		target := &delivery.Target{Key: "bms",
			Callback: relay.Callback{Client: "shop", Concurrency: 16, RatePerSecond: 0.001}}
		sh := newShares(capacity.NewSlots(100)).join(target)
		defer sh.leave()
		began := time.Now()
		var second sync.WaitGroup
		for i := range 2 {
			second.Go(func() {
				if err := sh.take(t.Context()); err != nil {
					t.Error(i, err)
				}
				sh.release()
			})
		}
		synctest.Wait()
		raised := *target
		raised.Callback.RatePerSecond = 40
		sh.configure(&raised)
		second.Wait()
		if waited := time.Since(began); waited > 2*longestWait {
			t.Errorf("the second attempt began after %s", waited)
		}
	})
}

// All replays of a replica keep to one pace, in which each callback has its turn however many replays others have.
func TestReplaysKeepToOnePace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := newShares(capacity.NewSlots(1000))
		all.pace = newPace(1)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var attempts [2]atomic.Int64
		var replays sync.WaitGroup
		for i, waiting := range []int{30, 2} {
			key := string(rune('a' + i))
			sh := all.join(&delivery.Target{Key: key, Callback: relay.Callback{ID: key, Client: "shop", Concurrency: 64}})
			defer sh.leave()
			for range waiting {
				replays.Go(func() {
					for sh.take(ctx) == nil {
						attempts[i].Add(1)
						sh.release()
					}
				})
			}
		}
		replays.Wait()
		a, b := attempts[0].Load(), attempts[1].Load()
		if sum := a + b; sum < 10*perCPU-5 || sum > 10*perCPU+5 || a < sum*4/10 || b < sum*4/10 {
			t.Errorf("%d and %d attempts in ten seconds", a, b)
		}
	})
}
