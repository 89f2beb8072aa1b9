package shard

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// The leases outlive the store's own change of leader: writes without a response are read back.
func TestAChangeOfTheStoresLeaderCostsNoLease(t *testing.T) {
	t.Parallel()
	c := natstest.NewCluster(t)
	w := watched(t, 3, func() *nats.Conn { return c.Connect(t) })
	reg := prometheus.NewRegistry()
	long := func(c *Config) { // as in production, renewed in proportion to the store's elections
		c.ttl, c.renew, c.Metrics = topology.LeaseTTL, renewEvery/natstest.Elections(), reg
	}
	a := w.start("a", long)
	w.shared(a)
	b := w.start("b", func(c *Config) { long(c); c.Metrics = nil })
	w.shared(a, b)
	w.tellGaps("the second joins, on three nodes")
	before := map[int]*Lease{}
	for n := range relay.Shards {
		before[n] = a.lease(n)
	}

	c.Stop(c.Leader(t, "KV_relay_owners"))
	a.awaitRenewals(2, func() {})
	b.awaitRenewals(2, func() {})
	w.shared(a, b)
	if gaps := w.gapsSoFar(); len(gaps) > 0 {
		t.Errorf("%d shards moved", len(gaps))
	}
	for n, l := range before {
		if l != a.lease(n) {
			t.Errorf("shard %d was taken anew", n)
		}
	}
	t.Logf("%v renewals were unclear, %v leases were lost",
		counted(t, reg, "audatex_relay_lease_renewals_unclear_total"),
		counted(t, reg, "audatex_relay_lease_losses_total"))
	if lost := counted(t, reg, "audatex_relay_lease_losses_total"); lost != 0 {
		t.Errorf("%v leases were lost", lost)
	}

	// A goodbye on the two nodes that are left.
	b.leave()
	<-b.left
	w.shared(a)
	w.tellGaps("one leaves, on the two nodes that are left")
}

// Without a quorum no lease can be renewed: everybody steps back, and everything goes on when the
// store does.
func TestAfterALostQuorumTheSharesAreAsBefore(t *testing.T) {
	t.Parallel()
	c := natstest.NewCluster(t)
	w := watched(t, 3, func() *nats.Conn { return c.Connect(t) })
	a := w.start("a")
	w.shared(a)
	b := w.start("b")
	w.shared(a, b)
	before := a.lease(a.owned()[0])
	c.Stop(0)
	c.Stop(1)
	w.await("both to step back", func() string {
		if a.Held()+b.Held() > 0 {
			return "they hold shards"
		}
		return ""
	})
	c.Start(t, 0)
	c.Start(t, 1)
	t.Log("shared again", w.shared(a, b), "after two nodes were started")
	if now := a.lease(before.Shard()); now.Epoch() <= before.Epoch() {
		t.Errorf("epoch %d after %d", now.Epoch(), before.Epoch())
	}
	_, changed := b.Members()
	a.SetThrottle(relay.Throttle{Until: time.Now().Add(time.Minute)})
	<-changed // the watch has outlived it
}
