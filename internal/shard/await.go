package shard

import (
	"context"
	"math/rand/v2"
	"time"
)

// awaitAgain is how long Await waits before it checks again, give or take a quarter: an unclear
// renewal is read back within seconds.
const awaitAgain = 400 * time.Millisecond

// Await waits until the lease is valid. Call it right before starting something. It returns false
// if ctx ended first, which is how a lost lease ends.
func (l *Lease) Await(ctx context.Context) bool {
	for ctx.Err() == nil {
		if l.Valid() {
			return true
		}
		t := time.NewTimer(awaitAgain*3/4 + rand.N(awaitAgain/2))
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
	}
	return false
}
