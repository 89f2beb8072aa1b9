package owners_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/owners"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestMain(m *testing.M) {
	natstest.Waiting(6)
	goleak.VerifyTestMain(m)
}

// replica is one of two that share the shards.
type replica struct {
	*owners.Owners
	name string
	keep map[string]int
}

func newReplica(t *testing.T, c *natstest.Cluster, name string, keep map[string]int) *replica {
	t.Helper()
	r := &replica{name: name, keep: keep}
	r.Owners = owners.New(owners.Config{
		Conn: c.Connect(t), Topology: topology.Topology{Prefix: "relay"}, Log: slog.New(slog.DiscardHandler),
	})
	r.Handle(map[string]owners.Handler{
		"count": func(_ context.Context, question json.RawMessage) (any, error) {
			var ids []string
			if err := json.Unmarshal(question, &ids); err != nil {
				return nil, err
			}
			found := map[string]int{}
			for _, id := range ids {
				if n, ok := r.keep[id]; ok {
					found[id] = n
				}
			}
			return found, nil
		},
		"who":    func(context.Context, json.RawMessage) (any, error) { return r.name, nil },
		"refuse": func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("it is paused") },
	})
	return r
}

// own serves a shard until the returned function is called, which waits for the end.
func (r *replica) own(t *testing.T, lease *shard.Lease) (giveUp func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, lease) }()
	stop := func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	return stop
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(90 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("waited 30 s for", what)
		}
	}
}

func TestTheOwnerAnswersWhoeverIsAsked(t *testing.T) {
	t.Parallel()
	c := natstest.NewCluster(t)
	a, b := newReplica(t, c, "a", map[string]int{"x": 1}), newReplica(t, c, "b", map[string]int{"y": 2})
	if err := a.Ask(t.Context(), 7, "who", nil, nil); !errors.Is(err, owners.ErrNoOwner) {
		t.Fatalf("a shard that nobody owns: %v", err)
	}
	who := func(asker *replica, n int) string {
		var name string
		if err := asker.Ask(t.Context(), n, "who", nil, &name); err != nil {
			return err.Error()
		}
		return name
	}
	giveUp := a.own(t, shardtest.Fixed(7, 1))
	eventually(t, "a to answer b", func() bool { return who(b, 7) == "a" })
	if got := who(a, 7); got != "a" {
		t.Fatalf("a asking itself got %q", got)
	}
	giveUp()
	b.own(t, shardtest.Fixed(7, 2))
	eventually(t, "b to answer a", func() bool { return who(a, 7) == "b" })

	if err := a.Ask(t.Context(), 7, "refuse", nil, nil); !errors.Is(err, owners.ErrRefused) ||
		!strings.Contains(err.Error(), "it is paused") {
		t.Fatalf("a refusal came as %v", err)
	}
	if err := a.Ask(t.Context(), 7, "later", nil, nil); !errors.Is(err, owners.ErrRefused) {
		t.Fatalf("an operation that the owner does not know: %v", err)
	}
	var number int
	if err := a.Ask(t.Context(), 7, "who", nil, &number); !errors.Is(err, owners.ErrNoOwner) {
		t.Fatalf("an answer of another kind: %v", err)
	}
}

func TestGatherJoinsWhatTheOwnersKnow(t *testing.T) {
	t.Parallel()
	c := natstest.NewCluster(t)
	a, b := newReplica(t, c, "a", map[string]int{"x": 1}), newReplica(t, c, "b", map[string]int{"y": 2})
	if relay.ShardOf("x") == relay.ShardOf("y") {
		t.Fatal("the test needs ids of different shards")
	}
	a.own(t, shardtest.Fixed(relay.ShardOf("x"), 1))
	b.own(t, shardtest.Fixed(relay.ShardOf("y"), 1))
	eventually(t, "both to answer", func() bool {
		got := owners.Gather[int](t.Context(), a.Owners, "count", []string{"x", "y", "of nobody"}, relay.ShardOf)
		return len(got) == 2 && got["x"] == 1 && got["y"] == 2
	})
}

// TestAnOwnerWhoseLeaseIsOverSaysNothing: a replica that was suspended must not respond for what is
// another's by now.
func TestAnOwnerWhoseLeaseIsOverSaysNothing(t *testing.T) {
	t.Parallel()
	c := natstest.NewCluster(t)
	a, b := newReplica(t, c, "a", nil), newReplica(t, c, "b", nil)
	a.own(t, &shard.Lease{}) // never renewed
	eventually(t, "the silence of an owner without a valid lease", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		err := b.Ask(ctx, 0, "who", nil, nil)
		// there is a listener, and it is silent
		return errors.Is(err, owners.ErrNoOwner) && errors.Is(err, context.DeadlineExceeded)
	})
}
