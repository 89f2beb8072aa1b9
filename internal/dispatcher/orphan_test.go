package dispatcher_test

import (
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

// A callback gets events while its client is the one that it was made by. When another client has the id it gets
// nothing more, and one whose client is heard of later than the callback itself misses nothing.
func TestACallbackDeliversForTheClientThatMadeItOnly(t *testing.T) {
	t.Parallel()
	b, first, second := newBench(t), newReceiver(t, nil), newReceiver(t, nil)
	b.client(relay.Client{ID: "shop", AllSites: true, Generation: "first"})
	old, next := callback("old", first.URL), callback("next", second.URL)
	old.ClientGeneration, next.ClientGeneration = "first", "second"
	b.register(old)
	b.register(next)
	b.start()
	for n := range 5 {
		b.publish("leeds", n)
	}
	until(t, "the first client's callback gets all", func() bool { return first.distinct() == 5 })
	if n := second.distinct(); n != 0 {
		t.Errorf("a callback got %d events without its client", n)
	}
	b.client(relay.Client{ID: "shop", Sites: []string{"leeds"}, Generation: "second"})
	until(t, "the second client's callback gets what it waited for", func() bool { return second.distinct() == 5 })
	for n := range 5 {
		b.publish("leeds", n)
	}
	until(t, "the second client's callback goes on", func() bool { return second.distinct() == 10 })
	second.inOrder(t)
	if n := first.distinct(); n != 5 {
		t.Errorf("a callback got %d events for a client that is gone", n-5)
	}
	b.client(relay.Client{ID: "shop", AllSites: true, Generation: "third"})
	last := newReceiver(t, nil)
	cb := callback("last", last.URL)
	cb.ClientGeneration = "third"
	b.register(cb)
	until(t, "the third client's callback gets all", func() bool { return last.distinct() == 10 })
	if first.distinct() != 5 || second.distinct() != 10 {
		t.Errorf("callbacks of clients that are gone got %d and %d events", first.distinct(), second.distinct())
	}
}
