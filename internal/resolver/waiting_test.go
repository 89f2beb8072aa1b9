package resolver_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/resolver"
)

// What waits is counted wherever it is: held by the reader, in lanes, behind what lanes list, or still in the inbox;
// and by whoever owns the connection.
func TestWhatWaitsIsCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	r.connect("york", "york")
	var down atomic.Bool
	down.Store(true)
	r.vendor.fail = func(string, string) error {
		if down.Load() {
			return &audatex.Error{Operation: audatex.OpOrder, Outcome: audatex.Unavailable,
				RetryAfter: 50 * time.Millisecond}
		}
		return nil
	}
	waiting := func(res *resolver.Resolver, connection string) int {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n, err := res.Waiting(ctx, connection)
		if err != nil {
			return -1
		}
		return n
	}
	await := func(res *resolver.Resolver, connection string, want int) {
		t.Helper()
		var n int
		defer func() {
			if n != want {
				t.Logf("%d notifications of %s wait", n, connection)
			}
		}()
		eventually(t, fmt.Sprintf("%d notifications of %s wait", want, connection), func() bool {
			n = waiting(res, connection)
			return n == want
		})
	}
	a := resolver.New(r.config(r.store))
	stop := r.work(a, 1)
	await(a, "leeds", 0)
	const orders, pages = 20, 14
	var last uint64
	for p := range pages {
		var notifications []string
		for n := range 40 {
			order := orderID((p*40 + n) % orders)
			r.vendor.set(order, "New")
			notifications = append(notifications, updated(order))
		}
		last = r.page("leeds", "leeds", notifications...)
	}
	r.page("york", "york", updated(orderID(1)))
	await(a, "leeds", pages*40)
	await(a, "york", 1)
	stop()
	if _, err := a.Waiting(t.Context(), "leeds"); err == nil {
		t.Error("one who does not own it counts")
	}
	b := resolver.New(r.config(r.store))
	r.work(b, 2)
	await(b, "leeds", pages*40)

	// One order has more than a lane lists.
	var notifications []string
	for range 90 {
		notifications = append(notifications, updated(orderID(7)))
	}
	last = max(last, r.page("leeds", "leeds", notifications...))
	await(b, "leeds", pages*40+90)
	down.Store(false)
	r.settled("leeds", last)
	await(b, "leeds", 0)
	await(b, "york", 0)
	if n := len(r.events("leeds", orderID(7))); n != 2*pages+90 {
		t.Errorf("%d events, want %d", n, 2*pages+90)
	}
	if _, err := b.Waiting(t.Context(), relay.NewID()); err == nil {
		t.Error("what is no connection waits")
	}
}
