package store_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/store"
)

// The newest events are at most so many, and about so many bytes: of large ones they are few.
func TestAPositionBeforeTheEnd(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t)
	s, ctx := openStoreOn(t, nc), t.Context()
	before := func(events, bytes uint64) uint64 {
		t.Helper()
		after, err := s.Events.BeforeEnd(ctx, events, bytes)
		if err != nil {
			t.Fatal(err)
		}
		return after
	}
	if after := before(10, 1<<20); after != 0 {
		t.Errorf("the newest events of an empty log begin after %d", after)
	}
	var last uint64
	publish := func(n, size int) {
		for range n {
			ev := orderEvent(t, last+1)
			ev.DataSchema = strings.Repeat("x", size)
			var err error
			if last, err = s.Events.Publish(ctx, ev, store.InboxRef{}, last); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(20, 0)
	for _, tt := range []struct{ events, bytes, after uint64 }{
		{10, 1 << 20, 10}, {20, 1 << 20, 0}, {1000, 1 << 20, 0}, {0, 1 << 20, 20}, {10, 0, 20},
	} {
		if after := before(tt.events, tt.bytes); after != tt.after {
			t.Errorf("the newest %d events and %d bytes begin after %d, want %d", tt.events, tt.bytes, after, tt.after)
		}
	}
	publish(20, 100<<10)
	if after := before(30, 1<<20); after < 15 || after > 25 { // about 50 KiB each on average
		t.Errorf("of large events the newest begin after %d", after)
	}
	if err := streamOn(t, nc, "relay_events").Purge(ctx, jetstream.WithPurgeSequence(35)); err != nil {
		t.Fatal(err)
	}
	if after := before(30, 100<<20); after != 34 {
		t.Errorf("where the log begins at 35, its newest events begin after %d", after)
	}
}
