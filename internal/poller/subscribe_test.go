package poller_test

import (
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// lastError is why the last poll of a connection came to nothing.
func (r *rig) lastError(id string) string {
	doc, _, err := r.store.Polls.Get(r.t.Context(), id)
	if err != nil || doc.Outcome == nil {
		return ""
	}
	return doc.Outcome.Error
}

func TestATopicThatIsNotEnabledIsNamedWithThoseThereAreAndAskedForAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	if err := r.sandbox.SetBehaviour(sandbox.Behaviour{TopicsNotEnabled: []string{"PARTS"}}); err != nil {
		t.Fatal(err)
	}
	r.connect("a")
	r.start()
	eventually(t, "the error is told", func() bool {
		return strings.Contains(r.lastError("a"), "has no topic PARTS.ORDER")
	})
	said := r.lastError("a")
	for _, part := range []string{"ASSESSMENT.MAIL", "servicedesk@audatex.co.uk", "Correlation-Id "} {
		if !strings.Contains(said, part) {
			t.Errorf("the error does not hold %q: %s", part, said)
		}
	}
	if err := r.sandbox.SetBehaviour(sandbox.Behaviour{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it heals by itself", r.subscribed)
	r.order()
	eventually(t, "what came is stored", func() bool { _, n := r.notifications("a"); return n == 1 })
	if r.told(relay.KindSubscriptionAdopted) != 0 {
		t.Error("its own subscription is told as adopted")
	}
}

// A subscription whose response was lost on the way is found there later, and is the relay's own all the same.
func TestASubscriptionWhoseAnswerWasLostIsOurs(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	if err := r.sandbox.SetFaults(
		sandbox.Faults{ShareCutAfterRead: 1, Operations: []sandbox.Operation{sandbox.OpSubscribe}}); err != nil {
		t.Fatal(err)
	}
	r.connect("a")
	r.start()
	eventually(t, "the subscription is there", r.subscribed)
	eventually(t, "its answer is known to be lost", func() bool { return r.lastError("a") != "" })
	r.halt()
	if err := r.sandbox.SetFaults(sandbox.Faults{}); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.order()
	eventually(t, "what came is stored", func() bool { _, n := r.notifications("a"); return n == 1 })
	r.halt()
	if doc, _, err := r.store.Polls.Get(t.Context(), "a"); err != nil || doc.SubscriptionAdopted ||
		doc.SubscribingSince != nil {
		t.Errorf("poll document %+v, %v", doc, err)
	}
	if r.told(relay.KindSubscriptionAdopted) != 0 {
		t.Error("its own subscription is told as adopted")
	}
}

// A connection that has a subscription keeps it when the setting names another topic: nothing that waits is lost by a
// slip. The log has a line about it.
func TestAnotherTopicIsToldAndLeavesSubscriptionsAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.start()
	eventually(t, "the first polls", func() bool { return r.polls() > 1 })
	r.halt()
	const said = "another topic than RELAY_AUDATEX_TOPIC"
	if r.logged(said) != 0 {
		t.Error("told without a reason")
	}
	r.order()
	r.topic = "PARTS.ORDRE"
	r.start()
	eventually(t, "what waited is read", func() bool { _, n := r.notifications("a"); return n == 1 })
	polls := r.polls()
	eventually(t, "it is polled on", func() bool { return r.polls() > polls+1 })
	r.halt()
	if n := r.logged(said); n != 1 || r.logged("subscribed_to=PARTS.ORDER setting=PARTS.ORDRE") != 1 {
		t.Errorf("told %d times", n)
	}
}
