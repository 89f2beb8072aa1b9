package backoff_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
)

func TestWaitsGrowUntilReset(t *testing.T) {
	t.Parallel()
	b := backoff.Backoff{Least: time.Second, Most: 5 * time.Second}
	for range 2 {
		for _, most := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second,
			5 * time.Second, 5 * time.Second} {
			if got := b.Next(); got < most/2 || got > most {
				t.Errorf("%s, want between half of %s and all of it", got, most)
			}
		}
		b.Reset()
	}
}

func TestSleepEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := backoff.Backoff{Least: time.Second, Most: time.Second}
		began := time.Now()
		if !b.Sleep(t.Context(), time.Minute) || time.Since(began) != time.Minute {
			t.Errorf("waited %s, want a minute", time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if b.Sleep(ctx, time.Minute) || time.Since(began) != time.Minute+time.Second {
			t.Errorf("waited %s after its context had ended", time.Since(began))
		}
	})
}
