package httpapi

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// Changes of one document through several replicas at the same moment are made one after the other, and none is refused.
func TestChangesThatMeetAreAllMade(t *testing.T) {
	t.Parallel()
	const writers, rounds = 4, 10
	cluster := natstest.NewCluster(t)
	stores := make([]*store.Store, 3)
	for i := range stores {
		if err := natstest.Patiently(func() (err error) {
			stores[i], err = store.Open(t.Context(), store.Config{
				Conn: cluster.Connect(t), Topology: topology.Topology{Prefix: "relay", Replicas: 3, Retention: time.Hour}, Log: slog.New(slog.DiscardHandler),
			})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
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
