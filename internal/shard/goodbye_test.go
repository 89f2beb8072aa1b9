package shard

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/store"
)

// A release whose request or response was lost is sent again, also at the end: nobody must wait for the lease to end.
func TestReleasesThatAreLostAreSentAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var mu sync.Mutex
	lost := map[string]int{} // requests by subject, from the moment on when work must return
	gone := false
	a := w.open("a", store.Gate{Before: func(write store.Write) error {
		mu.Lock()
		defer mu.Unlock()
		if !gone || !strings.Contains(write.Subject, "_owners.shard") || lost[write.Subject] == 2 {
			return nil
		}
		lost[write.Subject]++
		return store.ErrUnclear
	}})
	// Questions may take seconds, as they do on a slow machine: without a response the shards would be left to expire.
	patient := func(c *Config) { c.ttl, c.renew = time.Minute, 8*time.Second }
	a.join(patient)
	reg := prometheus.NewRegistry()
	w.shared(a)
	b := w.start("b", patient, func(c *Config) { c.Metrics = reg })
	w.shared(a, b)
	mu.Lock()
	gone = true
	mu.Unlock()
	a.leave()
	<-a.left
	t.Log("alone after", w.shared(b))
	if n := counted(t, reg, "audatex_relay_lease_takeovers_total"); n > 0 || len(lost) < 32 {
		t.Errorf("%v of %d shards were not released", n, len(lost))
	}
}

// A watch that starts again lists what was released before. That is no sign of an owner that vanished.
func TestWhatWasReleasedBeforeAWatchBeganIsNoLoss(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.open("a", store.Gate{})
	owners := r.store.Owners
	stored := func(n int, ttl time.Duration) store.Entry[store.Owner] {
		t.Helper()
		put := store.Put[store.Owner]{
			Key: store.LeaseKey(n), Value: store.Owner{Lease: &store.Lease{Replica: "b", Nonce: "x", Epoch: 7}},
			TTL: ttl,
		}
		result := owners.PutAll(t.Context(), []store.Put[store.Owner]{put})[0]
		if result.Err != nil {
			t.Fatal(result.Err)
		}
		return store.Entry[store.Owner]{Key: put.Key, Value: put.Value, Revision: result.Seq}
	}
	const released, meanwhile, vanished, nothing = 1, 2, 3, 4
	listed := []store.Entry[store.Owner]{
		stored(released, time.Minute), stored(meanwhile, time.Minute), stored(vanished, time.Second),
		{Key: store.LeaseKey(nothing), Value: store.Owner{Lease: &store.Lease{Replica: "b", Nonce: "x", Epoch: 7}},
			Revision: 1},
	}
	for _, e := range listed[:2] {
		if err := owners.Delete(t.Context(), e.Key, e.Revision); err != nil {
			t.Fatal(err)
		}
	}
	w.await("the ends of all leases", func() string {
		for _, now := range owners.Current(t.Context(), []string{listed[0].Key, listed[1].Key, listed[2].Key}) {
			if now.Err != nil || !now.Deleted {
				return now.Key
			}
		}
		return ""
	})
	marker := owners.Current(t.Context(), []string{store.LeaseKey(released)})[0].Entry
	listed[0] = store.Entry[store.Owner]{Key: marker.Key, Revision: marker.Revision, Deleted: true}

	m, err := Join(t.Context(), Config{
		Store: r.store, Replica: "a", ttl: testTTL, renew: testRenew, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	m.see(m.confirmed(t.Context(), listed))
	for n, expired := range map[int]bool{released: false, meanwhile: false, vanished: true, nothing: true} {
		if seen := m.shards[n].seen; !seen.gone || seen.expired != expired {
			t.Errorf("shard %d: gone %t, expired %t", n, seen.gone, seen.expired)
		}
	}
	if seen := m.shards[released].seen; seen.revision != marker.Revision {
		t.Errorf("seen at revision %d, released at %d", seen.revision, marker.Revision)
	}

	// The same where it is read at its leader, as after a write that was refused.
	for _, n := range []int{released, meanwhile, vanished} {
		m.shards[n].seen = leaseState{lease: store.Lease{Replica: "b", Nonce: "x", Epoch: 7}, revision: 1}
		m.look(n, owners.Current(t.Context(), []string{store.LeaseKey(n)})[0])
		if seen := m.shards[n].seen; !seen.gone || seen.expired != (n == vanished) {
			t.Errorf("shard %d, looked at: gone %t, expired %t", n, seen.gone, seen.expired)
		}
	}
}
