package audatex

import (
	"context"
	"time"
)

const (
	// suspendedAfter is how late a timer fires in a process that was not just busy but suspended.
	suspendedAfter = 500 * time.Millisecond
	// wakeUp is the time for a call whose process was suspended.
	wakeUp = 2 * time.Second
)

// within is context.WithTimeout for a call to the vendor. A process that was suspended meanwhile
// (SIGSTOP, a machine that slept) finds its timer expired, and in its sockets a response that
// exists nowhere else: it gets time to read it.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	over := func() { cancel(context.DeadlineExceeded) }
	began := time.Now()
	timer := time.AfterFunc(d, func() {
		if time.Since(began) > d+suspendedAfter {
			again := time.AfterFunc(wakeUp, over)
			context.AfterFunc(ctx, func() { again.Stop() })
			return
		}
		over()
	})
	return ctx, func() {
		timer.Stop()
		cancel(context.Canceled)
	}
}
