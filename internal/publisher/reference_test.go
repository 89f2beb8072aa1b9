package publisher_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// An order is in the index by reference before its event is in the log. So wherever the program ends in
// between, an order that has an event is found by the reference in it; and an order whose reference stays
// is not written there again.
func TestOrderIsIndexedBeforeItsEvent(t *testing.T) {
	t.Parallel()
	var indexed atomic.Int32
	var cut atomic.Bool
	s := open(t, natstest.Start(t), store.Gate{Before: func(w store.Write) error {
		switch {
		case strings.HasPrefix(w.Subject, "$KV.relay_references."):
			indexed.Add(1)
		case cut.Load() && strings.HasPrefix(w.Subject, "relay.publish."):
			return errors.New("the program has ended")
		}
		return nil
	}})
	p := newPublisher(s)
	read := func(reference, status string, n int) relay.PublishOutcome {
		position, err := p.Begin(t.Context(), site, order, []relay.Received{received("c", n)})
		if err != nil {
			t.Fatal(err)
		}
		outcome, _ := p.Publish(t.Context(), position, relay.Snapshot{ReadAt: time.Now().UTC(), Order: json.RawMessage(
			fmt.Sprintf(`{"PartsOrderId":%q,"OrderReference":%q,"Status":%q}`, order, reference, status))})
		return outcome
	}
	found := func(reference string) bool {
		_, _, err := s.References.Get(t.Context(), relay.ReferenceKey(reference, site, order))
		return err == nil
	}
	cut.Store(true)
	if outcome := read("PO-1", "New", 1); outcome == relay.Published || !found("po-1 ") {
		t.Errorf("cut off before the event: %v, indexed %v", outcome, found("PO-1"))
	}
	cut.Store(false)
	for n, status := range []string{"New", "Confirmed", "Dispatched"} {
		if outcome := read("PO-1", status, n+1); outcome != relay.Published {
			t.Fatal(outcome)
		}
	}
	if n := indexed.Load(); n != 2 { // before the cut, and after it
		t.Errorf("written to the index %d times", n)
	}
	if read("PO-2", "Dispatched", 4); !found("PO-2") {
		t.Error("the new reference is not in the index")
	}
	if o, _, err := s.Orders.Get(t.Context(), site+"."+order); err != nil || o.Reference != "PO-2" {
		t.Errorf("the order's own reference: %q, %v", o.Reference, err)
	}
}
