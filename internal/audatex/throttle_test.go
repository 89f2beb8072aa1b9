package audatex

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// TestA429LowersTheRateWhichRecovers: somebody always wants to ask. After a 429 half of the rate is
// used, ever more from minute to minute, and all of it in the end; by many in a row it falls no
// lower than a tenth. A second replica that hears of it does the same.
func TestA429LowersTheRateWhichRecovers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const rate = 600
		asked, other := NewBudget(rate), NewBudget(rate)
		var mu sync.Mutex
		var heard relay.Throttle
		asked.OnThrottled(func(r relay.Throttle) {
			mu.Lock()
			defer mu.Unlock()
			heard = r
		})
		perMinute := func(b *Budget) int {
			n := 0
			for began := time.Now(); time.Since(began) < time.Minute; n++ {
				if err := b.Wait(t.Context(), PriorityPoll, "leeds"); err != nil {
					t.Fatal(err)
				}
			}
			return n
		}
		between := func(what string, got, least, most int) {
			t.Helper()
			if got < least*rate/100 || got > most*rate/100 {
				t.Errorf("%s: %d a minute of %d", what, got, rate)
			}
		}
		pass(time.Minute)
		between("at first", perMinute(asked), 95, 101)
		asked.Observe(http.StatusTooManyRequests, http.Header{"Retry-After": {"5"}})
		asked.Observe(http.StatusTooManyRequests, http.Header{"Retry-After": {"5"}}) // of a request that was under way
		pass(5 * time.Second)
		between("after a 429", perMinute(asked), 45, 56)
		other.ApplyThrottle(heard)
		between("another replica", perMinute(other), 50, 61)
		pass(2 * time.Minute)
		between("some minutes later", perMinute(asked), 62, 80)
		pass(10 * time.Minute)
		between("in the end", perMinute(asked), 94, 101)
		asked.Observe(http.StatusServiceUnavailable, http.Header{"Retry-After": {"5"}})
		pass(5 * time.Second)
		between("after a 503", perMinute(asked), 94, 101)
		for range 20 {
			asked.Observe(http.StatusTooManyRequests, http.Header{"Retry-After": {"1"}})
			pass(2 * time.Second)
		}
		between("after many", perMinute(asked), 8, 15)
	})
}
