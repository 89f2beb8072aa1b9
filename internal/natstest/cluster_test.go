package natstest_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.Leftovers()...) }

// TestClusterOutlivesANode: what was acknowledged before a stream's leader went is there after, and
// the node comes back at its old address.
func TestClusterOutlivesANode(t *testing.T) {
	t.Parallel()
	c := natstest.NewCluster(t)
	js, err := jetstream.New(c.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(),
		jetstream.StreamConfig{Name: "log", Subjects: []string{"log.>"}, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "log.a", []byte("one")); err != nil {
		t.Fatal(err)
	}
	urls := c.URL()
	leader := c.Leader(t, "log")
	c.Stop(leader)
	next := c.Leader(t, "log")
	if next == leader {
		t.Fatal("the node that was stopped leads")
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		if ack, err := js.Publish(t.Context(), "log.a", []byte("two")); err == nil {
			if ack.Sequence < 2 {
				t.Fatalf("the second message got %d", ack.Sequence)
			}
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	c.Start(t, leader)
	c.Settle(t)
	if c.URL() != urls {
		t.Fatal("the node came back at another address")
	}
}
