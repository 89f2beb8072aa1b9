package resolver

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// measureAgain is the least time between two searches for the oldest notification that waits: while many are resolved,
// it changes with each of them.
const measureAgain = 5 * time.Second

// shown is what the metrics show of a connection. A runner's turns write it, and scrapes read it, even while a turn
// hangs.
type shown struct {
	held atomic.Pointer[heldItems] // nil if nothing that was read waits
	read atomic.Uint64             // the last page that was read

	measured time.Time // when the oldest was searched for last; only turns use it
}

// heldItems are the notifications that a connection's runner has read and not resolved.
type heldItems struct {
	n     int
	page  uint64    // of the oldest of them; 0 if it could not be read
	since time.Time // when that page was received
}

// waiting returns how many notifications are known to wait, and since when the oldest of them has waited.
func (s *shown) waiting(known *announced) (n int, since time.Time) {
	if h := s.held.Load(); h != nil {
		n, since = h.n, h.since
	}
	pages, at := known.unread(s.read.Load())
	if pages > 0 && (n == 0 || at.Before(since)) {
		since = at
	}
	return n + pages, since
}

// show updates what the metrics show. It returns how long until it must be called again if nothing else happens.
func (r *runner) show(ctx context.Context) time.Duration {
	r.shown.read.Store(r.inbox.read)
	n, page := r.cursor.Unsettled(), uint64(0)
	for _, p := range r.inbox.pages {
		n += len(p.items) - p.next
	}
	if entry, ok := r.cursor.Oldest(); ok {
		page, _ = relay.UnpackEntry(entry)
		n = max(n, 1) // a lane lists nothing until it is refilled
	} else if n > 0 {
		page = r.inbox.pages[0].seq
	}
	was, now, wait := r.shown.held.Load(), r.cfg.Now(), idle
	switch next := r.shown.measured.Add(measureAgain); {
	case n == 0:
		if was != nil {
			r.shown.held.Store(nil)
		}
		return idle
	case was == nil:
		was = &heldItems{since: now}
	case was.page == page:
	case next.After(now):
		page, wait = was.page, next.Sub(now)
	}
	h := heldItems{n: n, page: page, since: was.since}
	if page != was.page {
		r.shown.measured = now
		if received, ok := r.receivedAt(ctx, page, now); ok {
			h.since = received
		} else {
			h.page, wait = 0, measureAgain
		}
	}
	if *was != h {
		r.shown.held.Store(&h)
	}
	return wait
}

// receivedAt returns when a page was received. A page whose notifications are not in memory, as its orders are being
// retried, is read from the store; false if that is not possible now.
func (r *runner) receivedAt(ctx context.Context, page uint64, now time.Time) (time.Time, bool) {
	for _, items := range r.inbox.atHand {
		for _, it := range items {
			if it.page == page {
				return it.info.ReceivedAt, true
			}
		}
	}
	for _, p := range r.inbox.pages {
		if p.seq == page && p.next < len(p.items) {
			return p.items[p.next].info.ReceivedAt, true
		}
	}
	if r.trouble.until.After(now) {
		return time.Time{}, false
	}
	p, err := r.store.Inbox.Page(ctx, page)
	return p.ReceivedAt, err == nil
}
