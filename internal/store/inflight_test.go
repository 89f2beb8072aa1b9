package store_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Several writers write one document at the same moment. A healthy cluster takes one of the writes
// and refuses the others as too late.
func TestWritesOfOneDocumentThatMeet(t *testing.T) {
	t.Parallel()
	const writers, rounds = 6, 30
	cluster := natstest.NewCluster(t)
	first := newOutage(t, cluster.Connect(t), 3)
	revision, err := first.Polls.Create(t.Context(), "p", relay.Poll{})
	if err != nil {
		t.Fatal(err)
	}
	stores := []*store.Store{first.Store, newOutage(t, cluster.Connect(t), 3).Store,
		newOutage(t, cluster.Connect(t), 3).Store}
	for round := range rounds {
		var writing sync.WaitGroup
		var stored, taken atomic.Uint64
		for w := range writers {
			writing.Go(func() {
				polls := stores[w%len(stores)].Polls
				var r store.Result
				if w < writers/2 {
					r.Seq, r.Err = polls.Update(t.Context(), "p", relay.Poll{}, revision)
				} else {
					r = polls.PutAll(t.Context(), []store.Put[relay.Poll]{{Key: "p", Revision: revision}})[0]
				}
				if r.Err == nil {
					taken.Add(1)
					stored.Store(r.Seq)
				} else if !errors.Is(r.Err, store.ErrConflict) {
					t.Errorf("round %d, writer %d: %v", round, w, r.Err)
				}
			})
		}
		writing.Wait()
		if taken.Load() != 1 {
			t.Fatalf("round %d: %d writes were taken over one revision", round, taken.Load())
		}
		revision = stored.Load()
	}
}
