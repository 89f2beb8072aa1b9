package resolver

import (
	"encoding/json"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
)

// noteVendor notes whether the vendor keeps what waits from being resolved.
func (r *runner) noteVendor(now time.Time) {
	since := r.cursor.Health().FailingSince
	if since.IsZero() && r.trouble.vendor.None() {
		return
	}
	p := r.progress()
	r.trouble.vendor.Note(since, now, p.held == 0 && p.known <= p.read && r.cursor.Lanes() == 0)
}

// heldBack returns for how long the vendor has held back a notification that was received at a time. It may be called from
// any goroutine.
type heldBack func(received time.Time) time.Duration

// heldBack returns that for the notifications of a batch that is taken now.
func (r *runner) heldBack(b cursor.Batch, now time.Time) heldBack {
	if r.trouble.vendor.None() && b.FailingSince.IsZero() {
		return func(time.Time) time.Duration { return 0 }
	}
	times := r.trouble.vendor.Clone()
	return func(received time.Time) time.Duration {
		held := times.Within(received, now)
		if since := b.FailingSince; !since.IsZero() { // the order's own trouble, perhaps of this order alone
			if received.After(since) {
				since = received
			}
			held = max(held, now.Sub(since))
		}
		return held
	}
}

// receivedOf returns notifications as the publisher takes them.
func receivedOf(items []*item, held heldBack) []relay.Received {
	return each.Of(items, func(it *item) relay.Received {
		n := it.received()
		n.Held = held(n.Info.ReceivedAt)
		return n
	})
}

// receivedAside is that for notifications that were set aside: they have waited for nothing else.
func (r *Resolver) receivedAside(of []shelved) []relay.Received {
	now := r.cfg.Now()
	items := each.Of(of, func(s shelved) *item { return s.item })
	return receivedOf(items, now.Sub)
}

// asked asks the vendor for an order. The vendor has held the notifications back until its answer came, but not while the
// request waited for its turn within the relay's own rate.
func (r *Resolver) asked(ask fetchOrder, order string, waiting []relay.Received) (json.RawMessage, error) {
	var began time.Time
	answer, err := ask(order, func() { began = r.cfg.Now() })
	if !began.IsZero() {
		took := r.cfg.Now().Sub(began)
		for i := range waiting {
			waiting[i].Held += took
		}
	}
	return answer, err
}
