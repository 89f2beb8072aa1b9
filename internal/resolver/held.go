package resolver

import (
	"encoding/json"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
)

// noteVendor notes whether the vendor holds up what waits now.
func (r *runner) noteVendor(now time.Time) {
	since := r.cursor.Health().FailingSince
	if since.IsZero() && r.trouble.vendor.None() {
		return
	}
	p := r.progress()
	r.trouble.vendor.Note(since, now, p.held == 0 && p.known <= p.read && r.cursor.Lanes() == 0)
}

// holdTime returns for how long the vendor has held back a notification that was received at a time. It may be called
// from any goroutine.
type holdTime func(received time.Time) time.Duration

// heldBack returns that for the notifications of a batch that is taken now.
func (r *runner) heldBack(b cursor.Batch, now time.Time) holdTime {
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

// receivedOf returns notifications in the form that the publisher takes.
func receivedOf(items []*item, held holdTime) []relay.Received {
	return each.Of(items, func(it *item) relay.Received {
		n := it.received()
		n.Held = held(n.Info.ReceivedAt)
		return n
	})
}

// receivedAside does the same for notifications that were set aside: the vendor has held them up all the time.
func (r *Resolver) receivedAside(of []storedAside) []relay.Received {
	now := r.cfg.Now()
	items := each.Of(of, func(s storedAside) *item { return s.item })
	return receivedOf(items, now.Sub)
}

// fetchTimed reads an order from the vendor, and adds the time that its response took to what the notifications have
// waited for the vendor. The time in which the request waited for its turn within the relay's own rate does not count.
func (r *Resolver) fetchTimed(ask fetchOrder, order string, waiting []relay.Received) (json.RawMessage, error) {
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
