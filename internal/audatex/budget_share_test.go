package audatex

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// TestReplicasTogetherKeepTheAllowance: three replicas that share a hundred requests a minute,
// unevenly, never send more than that in any 60 seconds, though none knows what the others do.
func TestReplicasTogetherKeepTheAllowance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const allowance = 100
		shares := []float64{70.5, 28, 1.5}
		var mu sync.Mutex
		var sent []time.Time
		var working sync.WaitGroup
		end := time.Now().Add(10 * time.Minute)
		for _, share := range shares {
			b := NewBudget(allowance)
			b.Allow(share, max(1, int(share/20)))
			working.Go(func() {
				for time.Now().Before(end) {
					if err := b.Wait(t.Context(), PriorityPoll, ""); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					sent = append(sent, time.Now())
					mu.Unlock()
				}
			})
		}
		working.Wait()
		most := 0
		for i := range sent { // in the order of time: the bubble's clock moves for all at once
			n := 0
			for _, at := range sent[i:] {
				if at.Sub(sent[i]) < time.Minute {
					n++
				}
			}
			most = max(most, n)
		}
		if most > allowance || most < allowance-3*len(shares) {
			t.Errorf("%d requests within a minute, the allowance is %d", most, allowance)
		}
	})
}

// TestAnAllowanceThatIsDividedAnewIsKept: a replica that has saved up what it may uses it, and
// right after that two others have parts of the allowance.
func TestAnAllowanceThatIsDividedAnewIsKept(t *testing.T) {
	t.Parallel()
	for _, allowance := range []int{60, 100, 200, 1000} {
		synctest.Test(t, func(t *testing.T) {
			first := NewBudget(allowance)
			pass(time.Minute) // virtual
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute-time.Millisecond)
			defer cancel()
			var sent atomic.Int64
			var working sync.WaitGroup
			for _, b := range []*Budget{first, NewBudget(allowance), NewBudget(allowance)} {
				working.Go(func() {
					for b.Wait(ctx, PriorityPoll, "") == nil {
						sent.Add(1)
					}
				})
				synctest.Wait()
				b.Allow(float64(allowance)/3, max(1, allowance/60))
			}
			working.Wait()
			if n := sent.Load(); n > int64(allowance) || n < int64(allowance)*9/10 {
				t.Errorf("%d requests within a minute, the allowance is %d", n, allowance)
			}
		})
	}
}

func TestAChangedAllowanceCountsFromThenOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(60)
		b.Allow(6, 1)
		took := func() time.Duration {
			start := time.Now()
			if err := b.Wait(t.Context(), PriorityPoll, ""); err != nil {
				t.Fatal(err)
			}
			return time.Since(start)
		}
		for range 2 { // nothing is saved up at first
			if d := took(); (d - time.Minute*20/(6*19)).Abs() > time.Millisecond {
				t.Errorf("waited %s under six a minute", d)
			}
		}
		b.Allow(60, 3)
		if d := took(); d > 2*time.Second {
			t.Errorf("waited %s under sixty a minute", d)
		}
	})
}

func TestAStopIsToldAndTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked, other := NewBudget(0), NewBudget(0)
		told := 0
		asked.OnThrottled(func(t relay.Throttle) {
			told++
			other.ApplyThrottle(t)
		})
		asked.Observe(http.StatusTooManyRequests, http.Header{"Retry-After": {"40"}})
		asked.Observe(http.StatusTooManyRequests, http.Header{"Retry-After": {"10"}}) // has nothing new
		if told != 1 {
			t.Errorf("told %d times", told)
		}
		start := time.Now()
		if err := other.Wait(t.Context(), PriorityPoll, ""); err != nil || time.Since(start) != 40*time.Second {
			t.Errorf("the other replica waited %s, %v", time.Since(start), err)
		}
		other.ApplyThrottle(relay.Throttle{Until: time.Now().Add(100 * 24 * time.Hour)}) // another's clock
		if left := time.Until(other.BlockedUntil()); left != time.Hour {
			t.Errorf("stopped for %s", left)
		}
	})
}

// TestThoseWhoWaitFollowTheAllowance: many wait under a small allowance that then grows. Neither is
// what they wait for lost, nor do they come together with those who ask later.
func TestThoseWhoWaitFollowTheAllowance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const waiting, allowance = 200, 300
		b := NewBudget(allowance)
		b.Allow(5, 1)
		var mu sync.Mutex
		var sent []time.Time
		var working sync.WaitGroup
		ask := func() {
			working.Go(func() {
				if err := b.Wait(t.Context(), PriorityPoll, ""); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				sent = append(sent, time.Now())
			})
		}
		for range waiting {
			ask()
		}
		pass(10 * time.Second)
		b.Allow(allowance, allowance/20)
		grown := time.Now()
		for range waiting {
			ask()
		}
		working.Wait()
		if took := time.Since(grown); took > 2*waiting*time.Minute/allowance+10*time.Second {
			t.Errorf("%d requests took %s under %d a minute", 2*waiting, took, allowance)
		}
		for i := range sent {
			n := 0
			for _, at := range sent[i:] {
				if at.Sub(sent[i]) < time.Minute {
					n++
				}
			}
			if n > allowance {
				t.Fatalf("%d requests within a minute, the allowance is %d", n, allowance)
			}
		}
	})
}
