package audatex

import (
	"context"
	"time"
)

const (
	// suspendedAfter is how late a timer fires in a process that was not just busy but stopped for a while.
	suspendedAfter = 500 * time.Millisecond
	// wakeUp is what a call gets in which its process was stopped.
	wakeUp = 2 * time.Second
)

// within is context.WithTimeout for a call to the vendor. A process that was stopped meanwhile (SIGSTOP, a machine that slept) wakes to a timer
// that is over and to an answer in its sockets that exists nowhere else: it gets the time to read it.
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
