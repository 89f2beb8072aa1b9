package shard

import (
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
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
		if gap > time.Second {
			t.Errorf("a shard was nobody's for %s on a hand-over", gap)
		}
	}

	// One says goodbye, one does not.
	c.leave()
	<-c.left
	took := w.shared(a, b)
	if took > time.Second {
		t.Errorf("idle shards moved after %s", took)
	}
	t.Log("after a goodbye", took)
	w.tellGaps("the third leaves")
	b.die()
	took = w.shared(a)
	if took > testTTL+time.Second {
		t.Errorf("a dead replica's shards moved after %s", took)
	}
	t.Log("after a death", took)
	w.tellGaps("the second dies")
	if held := a.Held(); held != relay.Shards {
		t.Errorf("the last one holds %d", held)
	}
}
