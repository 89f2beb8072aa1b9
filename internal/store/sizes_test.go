package store

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// How long the store will do depends on what is full first, of all that grows and has an end.
func TestFullIn(t *testing.T) {
	t.Parallel()
	z := NewSizes(nil)
	now := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	const gib = 1 << 30
	at := func(minutes int, events, limit, free uint64) {
		z.take(measured{at: now.Add(time.Duration(minutes) * time.Minute),
			disk: &diskSize{100 * gib, free}, streams: []streamSize{
				{"relay_events", 10, events, int64(limit)}, {"relay_orders", 10, 5 * events, 0},
			}})
	}
	want := func(what string, in time.Duration, grows bool) {
		t.Helper()
		if got, ok := z.fullIn(); got.Round(time.Second) != in || ok != grows {
			t.Errorf("%s: %s, %t", what, got, ok)
		}
	}
	want("before anything was measured", 0, false)
	at(0, gib, 0, 50*gib)
	want("measured once", 0, false)
	at(10, gib, 0, 50*gib)
	want("nothing grows", 0, false)
	at(20, 2*gib, 0, 48*gib)
	want("the disk", 480*time.Minute, true)
	at(30, 4*gib, 5*gib, 48*gib)
	want("a log with a limit", 10*time.Minute, true)
	at(100, 4*gib, 5*gib, 48*gib)
	want("nothing has grown for an hour", 0, false)
	if n := testutil.CollectAndCount(z); n != 2*3+2 {
		t.Errorf("%d series", n)
	}
	if d := accountSize(&jetstream.AccountInfo{Tier: jetstream.Tier{Limits: jetstream.AccountLimits{MaxStore: -1}}},
		3); d != nil {
		t.Errorf("an account without limit has %+v", d)
	}
	tiered := &jetstream.AccountInfo{
		Tiers: map[string]jetstream.Tier{"R3": {Store: 40, Limits: jetstream.AccountLimits{MaxStore: 100}}}}
	if d := accountSize(tiered, 3); d == nil || d.total != 100 || d.free != 60 {
		t.Errorf("a tier has %+v", d)
	}
}
