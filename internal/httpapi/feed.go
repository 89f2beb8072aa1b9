package httpapi

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/signal"
	"github.com/audatex-relay/relay/internal/store"
)

// feedIdle is how long the log is followed after the last request has stopped waiting.
const feedIdle = 30 * time.Second

// feed wakes requests that wait for events. While there are any, one reader follows the headers of
// the log for all of them. The events themselves are read from the log, so waking a request too
// often costs one read, and waking it too rarely cannot happen.
type feed struct {
	events *store.Events
	log    *slog.Logger
	start  signal.Signal // a request needs the reader

	mu      sync.Mutex
	running chan struct{} // closed while the reader follows; replaced when it stops
	active  bool
	waiters map[*waiter]struct{}
}

// waiter is one waiting request.
type waiter struct {
	client  string // "" for an admin token
	matches func(site, typ, order string) bool
	woken   signal.Signal
}

func newFeed(events *store.Events, log *slog.Logger) *feed {
	return &feed{
		events: events, log: log, start: signal.New(),
		running: make(chan struct{}), waiters: map[*waiter]struct{}{},
	}
}

// join registers a waiter and returns once the log is being followed: an event stored from then on
// wakes the waiter. It returns false if there is no reader in time.
func (f *feed) join(ctx context.Context, client string, matches func(site, typ, order string) bool) (*waiter, bool) {
	w := &waiter{client: client, matches: matches, woken: signal.New()}
	f.mu.Lock()
	f.waiters[w] = struct{}{}
	running := f.running
	f.mu.Unlock()
	f.start.Set()
	select {
	case <-running:
		return w, true
	case <-ctx.Done():
		f.leave(w)
		return nil, false
	}
}

// leave removes a waiter.
func (f *feed) leave(w *waiter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.waiters, w)
}

// run follows the log while any request waits, until ctx ends.
func (f *feed) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.start:
		}
		if err := f.follow(ctx); err != nil && ctx.Err() == nil {
			f.log.Warn("following the log for waiting requests failed; it is tried again", "error", err)
			backoff.Sleep(ctx, time.Second)
			f.start.Set()
		}
	}
}

// follow reads the headers of the log until no request has been waiting for a while.
func (f *feed) follow(ctx context.Context) error {
	_, last, err := f.events.Bounds(ctx)
	if err != nil {
		return err
	}
	tail, err := f.events.TailHeads(ctx, last+1)
	if err != nil {
		return err
	}
	defer tail.Stop()
	f.set(true)
	defer f.set(false)
	f.wake(func(*waiter) bool { return true }) // events may have come between the registration of a waiter and now
	for {
		turn, cancel := context.WithTimeout(ctx, feedIdle)
		m, err := tail.Next(turn)
		idle := turn.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			ev := store.AsEvent(m)
			f.wake(func(w *waiter) bool { return w.matches(ev.Site, ev.Type, ev.Order) })
		case !idle:
			return err
		}
		if f.quiet(idle) {
			return nil
		}
	}
}

// quiet reports whether the reader may stop. If so, it marks it as stopped under the same lock.
func (f *feed) quiet(idle bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !idle || len(f.waiters) > 0 {
		return false
	}
	f.stopped()
	return true
}

func (f *feed) set(active bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !active {
		f.stopped()
	} else if !f.active {
		f.active = true
		close(f.running)
	}
}

func (f *feed) stopped() {
	if f.active {
		f.active = false
		f.running = make(chan struct{})
	}
}

// wake wakes the requests that something concerns: an event, or a change of their client.
func (f *feed) wake(which func(*waiter) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.waiters {
		if which(w) {
			w.woken.Set()
		}
	}
}
