package resolver

import (
	"context"
	"time"
)

// backoff waits longer each time, until something has worked.
type backoff struct {
	least, most time.Duration
	next        time.Duration
}

// wait returns how long to wait now.
func (b *backoff) wait() time.Duration {
	b.next = min(max(b.next*2, b.least), b.most)
	return b.next
}

func (b *backoff) reset() { b.next = 0 }

// sleep waits, or returns ctx's error if that ends first.
func (b *backoff) sleep(ctx context.Context) error {
	t := time.NewTimer(b.wait())
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
