package httpapi

import (
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// Changes of one document through several replicas at the same moment are made one after the other,
// and none is refused.
func TestChangesThatMeetAreAllMade(t *testing.T) {
	t.Parallel()
	const writers, rounds = 4, 10
	stores := threeStores(t)
	if _, err := stores[0].Connections.Create(t.Context(), "c", relay.Connection{ID: "c"}); err != nil {
		t.Fatal(err)
	}
	more := func(c relay.Connection) (relay.Connection, error) {
		c.PollIntervalSeconds++
		return c, nil
	}
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for range rounds {
				if _, _, err := change(t.Context(), stores[w%len(stores)].Connections, "c", "", more); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	found := stores[0].Connections.Current(t.Context(), []string{"c"})[0]
	if found.Err != nil || found.Value.PollIntervalSeconds != writers*rounds {
		t.Errorf("%d changes made %+v", writers*rounds, found)
	}
}

// threeStores are those of three replicas, each with a server of its own or another's.
func threeStores(t *testing.T) []*store.Store {
	t.Helper()
	cluster := natstest.NewCluster(t)
	stores := make([]*store.Store, 3)
	for i := range stores {
		if err := natstest.Patiently(func() (err error) {
			stores[i], err = store.Open(t.Context(), store.Config{
				Conn:     cluster.Connect(t),
				Topology: topology.Topology{Prefix: "relay", Replicas: 3, Retention: time.Hour},
				Log:      slog.New(slog.DiscardHandler),
			})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return stores
}

// An ETag that one replica has just given out is known to every other, whichever copy of the
// document that one reads first.
func TestAFreshETagIsKnownEverywhere(t *testing.T) {
	t.Parallel()
	stores := threeStores(t)
	revision, err := stores[0].Connections.Create(t.Context(), "c", relay.Connection{ID: "c"})
	if err != nil {
		t.Fatal(err)
	}
	before := etag(revision)
	more := func(c relay.Connection) (relay.Connection, error) {
		c.PollIntervalSeconds++
		return c, nil
	}
	for n := range natstest.Long(60, 200) {
		if _, revision, err = change(t.Context(), stores[n%len(stores)].Connections, "c",
			etag(revision), more); err != nil {
			t.Fatalf("change %d: %v", n, err)
		}
	}
	var refused *problem
	if _, _, err := change(t.Context(), stores[0].Connections, "c", before, more); !errors.As(err, &refused) ||
		refused.kind != kindPrecondition {
		t.Errorf("an old ETag: %v", err)
	}
	if _, _, err := remove(t.Context(), stores[1].Connections, "c", etag(revision),
		func(relay.Connection) error { return nil }); err != nil {
		t.Error(err)
	}
}
