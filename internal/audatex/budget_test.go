package audatex

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
)

func TestBudgetNeverExceedsItsMinute(t *testing.T) {
	t.Parallel()
	for _, perMinute := range []int{1, 2, 7, 19, 20, 100, 1000} {
		synctest.Test(t, func(t *testing.T) {
			b := NewBudget(perMinute)
			var (
				mu    sync.Mutex
				times []time.Time
				wg    sync.WaitGroup
			)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			for range 8 {
				wg.Go(func() {
					for b.Wait(ctx, PriorityPoll, "") == nil {
						mu.Lock()
						times = append(times, time.Now())
						mu.Unlock()
						if rand.IntN(20) == 0 { // pauses let the bucket fill
							backoff.Sleep(ctx, time.Duration(rand.IntN(30))*time.Second)
						}
					}
				})
			}
			wg.Wait()
			for i := range times {
				n := 0
				for j := i; j < len(times) && times[j].Sub(times[i]) < time.Minute-time.Microsecond; j++ {
					n++
				}
				if n > perMinute {
					t.Fatalf("%d requests within a minute, %d allowed", n, perMinute)
				}
			}
			if len(times) < 5*perMinute {
				t.Errorf("%d requests in 10 minutes: the allowance of %d is left unused", len(times), perMinute)
			}
		})
	}
}

// A relay that dies again and again has no more than one that lives.
func TestABudgetBeginsWithNothingSavedUp(t *testing.T) {
	t.Parallel()
	for _, perMinute := range []int{1, 10, 100, 1000} {
		synctest.Test(t, func(t *testing.T) {
			start, least := time.Now(), time.Minute/time.Duration(perMinute)
			if err := NewBudget(perMinute).Wait(t.Context(), PriorityPoll, ""); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took < least || took > least*107/100 {
				t.Errorf("the first of %d a minute came after %s", perMinute, took)
			}
		})
	}
}

func TestBudgetStops(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		status int
		after  string
		want   time.Duration
	}{
		{"429 with seconds", 429, "7", 7 * time.Second},
		{"429 without a time", 429, "", 30 * time.Second},
		{"429 with nonsense", 429, "soon", 30 * time.Second},
		{"429 with nothing to wait", 429, "0", time.Second},
		{"429 with a date", 429, "Sat, 01 Jan 2000 00:02:00 GMT", 2 * time.Minute},
		{"429 with a date long past", 429, "Fri, 01 Jan 1999 00:00:00 GMT", time.Second},
		{"429 for days", 429, "999999", time.Hour},
		{"429 with a number too large", 429, "99999999999999999999", 30 * time.Second},
		{"503 with seconds", 503, "5", 5 * time.Second},
		{"503 without a time", 503, "", 0},
		{"500 with a time", 500, "5", 0},
		{"200 with a time", 200, "5", 0},
	} {
		synctest.Test(t, func(t *testing.T) { // the bubble's clock starts at midnight, 2000-01-01 UTC
			b := NewBudget(0)
			start := time.Now()
			h := http.Header{}
			if tt.after != "" {
				h.Set("Retry-After", tt.after)
			}
			if got := b.Observe(tt.status, h); got != tt.want {
				t.Errorf("%s: stops for %s, want %s", tt.name, got, tt.want)
			}
			if err := b.Wait(t.Context(), PriorityPoll, ""); err != nil {
				t.Fatal(err)
			}
			if got := time.Since(start); got != tt.want {
				t.Errorf("%s: waited %s, want %s", tt.name, got, tt.want)
			}
			if b.BlockedUntil().After(time.Now()) {
				t.Errorf("%s: still blocked", tt.name)
			}
		})
	}
}

func TestBudgetStopCountsForThoseWaitingAndIsNotShortened(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(60)
		pass(time.Minute) // virtual
		start := time.Now()
		for range 3 { // the burst
			if err := b.Wait(t.Context(), PriorityPoll, ""); err != nil {
				t.Fatal(err)
			}
		}
		passed := make(chan time.Duration)
		go func() {
			_ = b.Wait(t.Context(), PriorityPoll, "") // waits for the limiter
			passed <- time.Since(start)
		}()
		synctest.Wait()
		b.Observe(429, http.Header{"Retry-After": {"60"}})
		b.Observe(429, http.Header{"Retry-After": {"1"}})
		if got := <-passed; got != time.Minute {
			t.Errorf("passed after %s", got)
		}
	})
}

func TestBudgetWaitEndsWithContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1)
		b.Observe(429, http.Header{"Retry-After": {"60"}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Wait(ctx, PriorityPoll, ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stopped: %v", err)
		}
		pass(time.Minute) // virtual
		if err := b.Wait(t.Context(), PriorityPoll, ""); err != nil {
			t.Fatal(err)
		}
		ctx2, cancel2 := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel2()
		if err := b.Wait(ctx2, PriorityPoll, ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without allowance: %v", err)
		}
		start := time.Now() // the request given up must have given back its place
		if err := b.Wait(t.Context(), PriorityPoll, ""); err != nil || time.Since(start) > 54*time.Second {
			t.Errorf("next request waited %s, %v", time.Since(start), err)
		}
		canceled, stop := context.WithCancel(t.Context())
		stop()
		if err := NewBudget(0).Wait(canceled, PriorityPoll, ""); !errors.Is(err, context.Canceled) {
			t.Errorf("ended context: %v", err)
		}
	})
}

// A Retry-After that is a date is a time by the vendor's clock, however far that is off.
func TestRetryAfterIsCountedFromTheVendorsOwnDate(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		date, after string
		want        time.Duration
		said        bool
	}{
		{"Sun, 01 Mar 2026 12:00:00 GMT", "Sun, 01 Mar 2026 12:00:30 GMT", 30 * time.Second, true},
		{"Sun, 01 Mar 2026 09:00:00 GMT", "Sun, 01 Mar 2026 09:00:30 GMT", 30 * time.Second, true},
		{"Mon, 02 Mar 2026 09:00:00 GMT", "Mon, 02 Mar 2026 09:00:30 GMT", 30 * time.Second, true},
		{"", "Sun, 01 Mar 2026 12:00:30 GMT", 30 * time.Second, true},
		{"yesterday", "Sun, 01 Mar 2026 12:00:30 GMT", 30 * time.Second, true},
		{"Sun, 01 Mar 2026 12:00:30 GMT", "Sun, 01 Mar 2026 12:00:00 GMT", 0, true},
		{"Sun, 01 Mar 2026 09:00:00 GMT", "7", 7 * time.Second, true},
		{"Sun, 01 Mar 2026 09:00:00 GMT", "soon", 0, false},
	} {
		header := http.Header{"Date": {tt.date}, "Retry-After": {tt.after}}
		if got, said := retryAfter(header, now); got != tt.want || said != tt.said {
			t.Errorf("%q after %q: %s, %t; want %s, %t", tt.after, tt.date, got, said, tt.want, tt.said)
		}
	}
}
