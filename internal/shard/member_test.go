package shard

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

func TestReplicasShareTheShards(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var counters []*prometheus.Registry
	metered := func(c *Config) {
		c.Metrics = prometheus.NewRegistry()
		counters = append(counters, c.Metrics.(*prometheus.Registry))
	}
	vanished := func() (n float64) { // shards whose lease had to end by itself before another took them
		for _, reg := range counters {
			n += counted(t, reg, "audatex_relay_lease_takeovers_total")
		}
		return n
	}
	a := w.start("a", metered, steady)
	t.Log("alone after", w.shared(a))
	b := w.start("b", metered, steady)
	t.Log("two after", w.shared(a, b))
	w.tellGaps("the second joins")
	c := w.start("c", metered, steady)
	t.Log("three after", w.shared(a, b, c))
	t.Logf("shares of %d, %d, %d", len(a.owned()), len(b.owned()), len(c.owned()))
	w.tellGaps("the third joins")
	if n := vanished(); n > 0 {
		t.Errorf("%v shards were not handed over", n)
	}

	c.leave()
	<-c.left
	t.Log("shared again after a goodbye", w.shared(a, b))
	w.tellGaps("the third leaves")
	if n := vanished(); n > 0 {
		t.Errorf("%v shards were not given up on a goodbye", n)
	}
}

// Whoever has not seen the leases shows nothing of shards without an owner, rather than that there are none.
func TestAReplicaThatSeesNoLeasesDoesNotCountThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.open("a", store.Gate{})
	const name = "audatex_relay_shards_without_owner"
	reg := prometheus.NewRegistry()
	m, err := Join(t.Context(), Config{
		Store: r.store, Replica: "a", ttl: testTTL, renew: testRenew, Metrics: reg, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := testutil.GatherAndCount(reg, name); err != nil || n != 0 {
		t.Errorf("%d series before the leases are seen: %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = m.Run(ctx, func(ctx context.Context, _ *Lease) { <-ctx.Done() })
	}()
	t.Cleanup(func() { cancel(); <-ended })
	w.await("all shards to have an owner", func() string {
		if n, err := testutil.GatherAndCount(reg, name); err != nil || n != 1 || counted(t, reg, name) != 0 {
			return fmt.Sprintf("%d series, %v without: %v", n, counted(t, reg, name), err)
		}
		return ""
	})
}

func TestADeadReplicasShardsAreTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := prometheus.NewRegistry()
	a := w.start("a", func(c *Config) { c.Metrics = reg })
	b := w.start("b")
	w.shared(a, b)
	had := len(b.owned())
	b.die()
	t.Log("shared again after a death", w.shared(a))
	w.tellGaps("the second dies")
	if n := counted(t, reg, "audatex_relay_lease_takeovers_total"); n < float64(had) {
		t.Errorf("%v shards of a dead replica were taken over, it had %d", n, had)
	}
	if held := a.Held(); held != relay.Shards {
		t.Errorf("the last one holds %d", held)
	}
}

// Work under way keeps its shard, however long it takes: the lease is renewed until the work has
// returned.
func TestABusyShardIsHandedOverWhenItsWorkHasEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.open("a", store.Gate{})
	working := make(chan struct{})
	finish := sync.OnceFunc(func() { close(working) })
	a.busy = func(*Lease) { <-working }
	a.join(steady)
	t.Cleanup(finish)
	w.shared(a)
	b := w.start("b", steady)
	w.await("the hand-over to begin", func() string {
		if len(b.owned()) == 0 && a.draining() == 32 {
			return ""
		}
		return "not all shards that go are draining"
	})
	a.awaitRenewals(3, func() {
		if got := len(b.owned()); got > 0 {
			t.Fatalf("%d shards were taken while their owner worked", got)
		}
		if got := len(a.owned()); got != relay.Shards {
			t.Fatalf("%d leases were kept while work was under way", got)
		}
	})
	finish()
	w.shared(a, b)
	w.tellGaps("busy shards are handed over")

	// And the same at the end: Run returns when all work has.
	a.leave()
	<-a.left
	w.shared(b)
}

// draining returns how many shards wait for their work to return.
func (r *replica) draining() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.held {
		if h.draining {
			n++
		}
	}
	return n
}

// A replica in a crash loop, or a deployment that is rolled back at once, must not move the work of
// those who stay.
func TestAReplicaThatComesAndGoesMovesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// On a slow machine the newcomer stays for seconds, which must be less than a renewal's time here.
	hurried := func(c *Config) { c.ttl, c.renew = 90*time.Second, 30*time.Second }
	a := w.start("a", steady, hurried)
	w.shared(a)
	w.gapsSoFar()
	b := w.open("b", store.Gate{})
	for range 4 {
		b.join(steady, hurried)
		w.await("the newcomer to be seen", func() string {
			if peers, _ := a.Members(); len(peers) == 2 {
				return ""
			}
			return "it is alone"
		})
		b.leave()
		<-b.left
	}
	if got := len(a.owned()); got != relay.Shards {
		t.Errorf("it owns %d", got)
	}
	if gaps := w.gapsSoFar(); len(gaps) > 0 {
		t.Errorf("%d shards moved", len(gaps))
	}
}

func TestMembersKnowWhatTheyTellOneAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seldom := func(c *Config) { c.ttl, c.renew = 10*time.Minute, 3*time.Minute } // an earlier report was not waited for
	a := w.start("pod a.1", seldom)                                              // not fit for a key as it stands
	b := w.start("b", seldom, func(c *Config) { c.Version = 1 })
	w.await("each to see the other", func() string {
		for _, m := range []*replica{a, b} {
			if peers, _ := m.Members(); len(peers) != 2 {
				return "one is alone"
			}
		}
		return ""
	})
	peers, changed := b.Members()
	if len(peers) != 2 || peers[0].Replica != "b" || peers[0].Version != 1 || peers[1].Replica != "pod-a-1" ||
		peers[1].Version != 2 || peers[1].Started.IsZero() || !peers[1].Throttle.Until.IsZero() {
		t.Fatalf("%+v", peers)
	}
	until := time.Now().Add(time.Minute).Truncate(time.Millisecond)
	a.SetThrottle(relay.Throttle{Until: until})
	if peers, _ := a.Members(); !peers[1].Throttle.Until.Equal(until) {
		t.Errorf("it does not know itself: %+v", peers)
	}
	select {
	case <-changed:
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}
	if peers, _ = b.Members(); !peers[1].Throttle.Until.Equal(until) {
		t.Errorf("%+v", peers)
	}

	// A record that was lost is written again with the same contents.
	_, changed = b.Members()
	if r := b.store.Owners.Remove(t.Context(), []store.Removal{{Key: a.key}}); r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	<-changed
	w.await("the record to be there again", func() string {
		if peers, _ = b.Members(); len(peers) == 2 && peers[1].Throttle.Until.Equal(until) {
			return ""
		}
		return "it is not"
	})
}

// The mark of the stored formats lies beside the leases: a member signals that it has changed.
func TestAMemberSignalsThatTheMarkHasChanged(t *testing.T) {
	t.Parallel()
	a := newWorld(t).start("a", steady)
	topo, js := a.store.Topology(), a.store.JetStream()
	<-a.Marked() // what there is at the start
	m, err := topo.ReadMark(t.Context(), js)
	if err == nil {
		_, err = topo.WriteMark(t.Context(), js, m)
	}
	if err != nil {
		t.Fatal(err)
	}
	<-a.Marked()
}

// Work that returns by itself must not keep its shard from being worked on.
func TestWorkThatReturnsIsCalledAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.open("a", store.Gate{})
	m, err := Join(t.Context(), Config{Store: r.store, Replica: "a", ttl: testTTL, renew: testRenew, Log: testLog("a")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	var epochs []uint64
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Run(ctx, func(ctx context.Context, l *Lease) {
			if l.Shard() != 7 {
				<-ctx.Done()
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if epochs = append(epochs, l.Epoch()); len(epochs) == 3 {
				cancel()
			}
		})
	}()
	<-done
	// one more may begin beside the end
	if len(epochs) < 3 || !slices.IsSorted(epochs) || len(slices.Compact(slices.Clone(epochs))) != len(epochs) {
		t.Errorf("epochs %v", epochs)
	}
}

func TestLeasesThatCannotBeKeptAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{{ttl: 1500 * time.Millisecond, renew: 100 * time.Millisecond},
		{ttl: 2 * time.Second, renew: time.Second}} {
		if _, err := Join(t.Context(), c); err == nil {
			t.Errorf("joined with leases of %s renewed every %s", c.ttl, c.renew)
		}
	}
}
