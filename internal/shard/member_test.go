package shard

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

func TestReplicasShareTheShards(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.start("a")
	t.Log("alone after", w.shared(a))
	b := w.start("b")
	t.Log("two after", w.shared(a, b))
	w.tellGaps("the second joins")
	c := w.start("c")
	t.Log("three after", w.shared(a, b, c))
	t.Logf("shares of %d, %d, %d", len(a.owned()), len(b.owned()), len(c.owned()))
	for _, gap := range w.tellGaps("the third joins") {
		if gap > testTTL/2 { // milliseconds on a machine that does nothing else
			t.Errorf("a shard was nobody's for %s on a hand-over", gap)
		}
	}

	// One says goodbye, one does not.
	c.leave()
	<-c.left
	t.Log("shared again after a goodbye", w.shared(a, b))
	for _, gap := range w.tellGaps("the third leaves") {
		if gap > testTTL/2 {
			t.Errorf("an idle shard was nobody's for %s after a goodbye", gap)
		}
	}
	b.die()
	t.Log("shared again after a death", w.shared(a))
	for _, gap := range w.tellGaps("the second dies") {
		if gap > testTTL+2*time.Second {
			t.Errorf("a dead replica's shard was nobody's for %s", gap)
		}
	}
	if held := a.Held(); held != relay.Shards {
		t.Errorf("the last one holds %d", held)
	}
}

// What is under way keeps its shard, however long it takes: the lease is renewed until the work has returned.
func TestABusyShardIsHandedOverWhenItsWorkHasEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.open("a", store.Gate{})
	working := make(chan struct{})
	finish := sync.OnceFunc(func() { close(working) })
	a.busy = func(*Lease) { <-working }
	a.join()
	t.Cleanup(finish)
	w.shared(a)
	b := w.start("b")
	w.await("the hand-over to begin", func() string {
		if len(b.owned()) == 0 && a.draining() == 32 {
			return ""
		}
		return "not all shards that go are draining"
	})
	began := time.Now()
	w.await("several lives of a lease to pass", func() string {
		if got := len(b.owned()); got > 0 {
			t.Fatalf("%d shards were taken while their owner worked", got)
		}
		if got := len(a.owned()); got != relay.Shards {
			t.Fatalf("%d leases were kept while work was under way", got)
		}
		if time.Since(began) > 2*testTTL {
			return ""
		}
		return "not yet"
	})
	finish()
	w.shared(a, b)
	w.tellGaps("busy shards are handed over")

	// And the same at the end: Run returns when all work has.
	a.leave()
	<-a.left
	w.shared(b)
}

// draining answers how many shards wait for their work to return.
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

// A replica in a crash loop, or a deployment that is rolled back at once, must not move the work of those who stay.
func TestAReplicaThatComesAndGoesMovesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.start("a")
	w.shared(a)
	w.gapsSoFar()
	b := w.open("b", store.Gate{})
	for range 4 {
		b.join()
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
	a := w.start("pod a.1") // not fit for a key as it stands
	b := w.start("b", func(c *Config) { c.Version = 1 })
	w.shared(a, b)
	peers, changed := b.Members()
	if len(peers) != 2 || peers[0].Replica != "b" || !peers[0].Self || peers[0].Version != 1 || peers[1].Replica != "pod-a-1" || peers[1].Self ||
		peers[1].Version != 2 || peers[1].Started.IsZero() || !peers[1].VendorBlockedUntil.IsZero() {
		t.Fatalf("%+v", peers)
	}
	until := time.Now().Add(time.Minute).Truncate(time.Millisecond)
	said := time.Now()
	a.SetBlockedUntil(until)
	if peers, _ := a.Members(); !peers[1].VendorBlockedUntil.Equal(until) {
		t.Errorf("it does not know itself: %+v", peers)
	}
	select {
	case <-changed:
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}
	if took := time.Since(said); took > time.Second {
		t.Errorf("told after %s", took)
	}
	if peers, _ = b.Members(); !peers[1].VendorBlockedUntil.Equal(until) {
		t.Errorf("%+v", peers)
	}

	// A record that was lost is written again, with all that it said.
	_, changed = b.Members()
	if r := b.store.Owners.Remove(t.Context(), []store.Removal{{Key: a.key}}); r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	<-changed
	w.await("the record to be there again", func() string {
		if peers, _ = b.Members(); len(peers) == 2 && peers[1].VendorBlockedUntil.Equal(until) {
			return ""
		}
		return "it is not"
	})
}

// Work that returns by itself must not keep its shard from being worked on.
func TestWorkThatReturnsIsCalledAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.open("a", store.Gate{})
	m, err := Join(t.Context(), Config{Store: r.store, Replica: "a", TTL: testTTL, Renew: testRenew, Log: testLog("a")})
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
	if len(epochs) != 3 || epochs[0] >= epochs[1] || epochs[1] >= epochs[2] {
		t.Errorf("epochs %v", epochs)
	}
}

func TestLeasesThatCannotBeKeptAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{{TTL: 1500 * time.Millisecond, Renew: 100 * time.Millisecond}, {TTL: 2 * time.Second, Renew: time.Second}} {
		if _, err := Join(t.Context(), c); err == nil {
			t.Errorf("joined with leases of %s renewed every %s", c.TTL, c.Renew)
		}
	}
}
