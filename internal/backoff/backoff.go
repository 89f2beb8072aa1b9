// Package backoff waits between tries: longer each time, with jitter, so that many that failed together do not come
// back together. It never waits beyond its context, and keeps no goroutine. Begin reading at Backoff.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff waits longer each time, from Least on up to Most, until it is reset.
type Backoff struct {
	Least, Most time.Duration
	last        time.Duration
}

// Next returns how long to wait now, with jitter, so that many waiters do not come back together.
func (b *Backoff) Next() time.Duration {
	b.last = min(max(b.last*2, b.Least), b.Most)
	return b.last/2 + rand.N(b.last/2+1)
}

// Reset lets the next wait be the shortest.
func (b *Backoff) Reset() { b.last = 0 }

// Sleep waits, at least for the given time. It returns false if ctx ended first.
func (b *Backoff) Sleep(ctx context.Context, atLeast time.Duration) bool {
	return Sleep(ctx, max(b.Next(), atLeast))
}

// Sleep waits for d. It returns false if ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

const (
	// persistEvery is how long Persist waits before it tries again.
	persistEvery = 2 * time.Second
	// lastTries is how often it does once run has ended, lastRetry what lies in between.
	lastTries = 5
	lastRetry = 200 * time.Millisecond
)

// Persist tries until try reports success or, once run has ended, it has failed a few times more, or life has ended.
func Persist(run, life context.Context, try func(ctx context.Context) bool) {
	for last := 0; !try(life) && life.Err() == nil && last < lastTries; {
		if Sleep(run, persistEvery); run.Err() != nil {
			last++
			Sleep(life, lastRetry)
		}
	}
}
