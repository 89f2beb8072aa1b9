package resolver_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// erased reports whether nothing is stored of a connection's cursor.
func (r *rig) erased(connection string) bool {
	_, _, err := r.store.Cursors.Get(r.t.Context(), store.InboxCursors.Key(connection))
	lanes, failed := r.lanes(connection)
	return errors.Is(err, store.ErrNotFound) && failed == nil && len(lanes) == 0
}

// The cursor of a deleted connection goes with it, and so do the orders that were being retried.
func TestTheCursorOfADeletedConnectionIsRemoved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	r.connect("york", "york")
	r.run(r.config(r.store))
	r.page("leeds", "leeds", created(orderID(1))) // the vendor does not know it: it is retried
	r.vendor.set(orderID(2), "New")
	r.settled("york", r.page("york", "york", created(orderID(2))))
	eventually(t, "the order is retried", func() bool {
		lanes, err := r.lanes("leeds")
		return err == nil && len(lanes) == 1
	})
	if err := r.store.Connections.Delete(t.Context(), "leeds", 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing of it is stored", func() bool { return r.erased("leeds") })
	if r.erased("york") {
		t.Error("the cursor of another connection was removed")
	}
}

// A connection that was deleted while no relay ran is found when its shard is taken, however many others that has.
func TestTheCursorOfAConnectionDeletedMeanwhileIsRemoved(t *testing.T) {
	t.Parallel()
	for _, others := range []int{0, 1, 100} {
		t.Run(fmt.Sprint(others), func(t *testing.T) {
			t.Parallel()
			deletedMeanwhile(t, others)
		})
	}
}

func deletedMeanwhile(t *testing.T, others int) {
	t.Helper()
	r := newRig(t)
	for n := 0; others > 0; n++ {
		if id := fmt.Sprintf("c%d", n); relay.ShardOf(id) == relay.ShardOf("gone") {
			r.connect(id, "leeds")
			others--
		}
	}
	d := cursor.New(cursor.Policy{}).Document()
	d.Generation, d.Epoch, d.Adopted = "g-gone", 1, 1
	if _, err := r.store.Cursors.Create(t.Context(), store.InboxCursors.Key("gone"), d); err != nil {
		t.Fatal(err)
	}
	lane := cursor.Lane{
		V: 1, Epoch: 1, Generation: "g-gone", Order: "leeds." + orderID(1), Entries: []uint64{1}, Attempts: 1,
		FailingSince: time.Now(),
	}
	if _, err := r.store.Lanes.Create(t.Context(),
		store.LaneKey(store.InboxCursors.Key("gone"), lane.Order), lane); err != nil {
		t.Fatal(err)
	}
	r.run(r.config(r.store))
	eventually(t, "nothing of it is stored", func() bool { return r.erased("gone") })
}

// However many connections were deleted while no relay ran, and however long it takes to remove what is left of them:
// the others do not wait for that.
func TestResolvingDoesNotWaitForWhatDeletedConnectionsLeft(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for n, others := 0, 0; others < 40; n++ { // so many that their shard is looked through
		if id := fmt.Sprintf("c%d", n); relay.ShardOf(id) == relay.ShardOf("gone") {
			r.connect(id, "leeds")
			others++
		}
	}
	r.connect("york", "york")
	d := cursor.New(cursor.Policy{}).Document()
	d.Generation, d.Epoch, d.Adopted = "g-gone", 1, 1
	if _, err := r.store.Cursors.Create(r.t.Context(), store.InboxCursors.Key("gone"), d); err != nil {
		r.t.Fatal(err)
	}
	removed, held := make(chan struct{}, 100), make(chan struct{})
	defer close(held)
	r.run(r.config(r.open(store.Gate{Before: func(w store.Write) error {
		if strings.Contains(w.Subject, store.InboxCursors.Key("gone")) {
			removed <- struct{}{}
			<-held
		}
		return nil
	}})))
	<-removed
	r.vendor.set(orderID(2), "New")
	r.settled("york", r.page("york", "york", created(orderID(2))))
}
