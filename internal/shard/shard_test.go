package shard_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestEachClaimRaisesTheEpoch(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), store.Config{
		Conn: natstest.Start(t), Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	var last shard.Ownership
	for i := range 3 {
		own, err := shard.Claim(t.Context(), s, "a")
		if err != nil || own.Epoch != last.Epoch+1 || own.Nonce == last.Nonce {
			t.Fatalf("claim %d after %+v: %+v, %v", i, last, own, err)
		}
		last = own
	}
	leases, err := s.Owners.All(t.Context(), "shard", func(key string, err error) { t.Error(key, err) })
	if err != nil || len(leases) != relay.Shards || leases[7].Value.Lease.Epoch != last.Epoch {
		t.Fatalf("%d leases, %v", len(leases), err)
	}
	if !last.Owns(63) || last.Owns(64) {
		t.Fatal("owns the wrong shards")
	}
}
