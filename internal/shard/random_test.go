package shard

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// Replicas join, leave and die, and their writes are dropped, or done without a response, in an
// order that a seed decides. The world checks that no shard ever belongs to two replicas. When all
// is quiet, each shard is owned by the replica whose share it is in.
func TestWhateverHappensNoShardIsTwoReplicas(t *testing.T) {
	t.Parallel()
	seed, steps := uint64(time.Now().UnixNano()), 8
	if s := os.Getenv("SHARD_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	if s := os.Getenv("RELAY_CRASH_KILLS"); s != "" { // as many more of what goes wrong here
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		steps = n
	}
	t.Logf("SHARD_SEED=%d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	type one struct {
		*replica
		*valve
	}
	var there []one
	quiet := func() {
		replicas := make([]*replica, len(there))
		for i, r := range there {
			r.set(false, false)
			replicas[i] = r.replica
		}
		w.shared(replicas...)
	}
	pick := func() one { return there[dice.IntN(len(there))] }
	gone := func(r one) {
		for i := range there {
			if there[i] == r {
				there = append(there[:i:i], there[i+1:]...)
				return
			}
		}
	}
	joined := 0
	for step := range steps {
		what := dice.IntN(7)
		if len(there) == 0 || len(there) == 1 && what < 3 {
			what = 6
		}
		var did string
		switch what {
		case 0:
			r := pick()
			did = r.name + " leaves"
			r.leave()
			gone(r)
		case 1:
			r := pick()
			did = r.name + " dies"
			r.die()
			gone(r)
		case 2:
			r := pick()
			did = r.name + " is cut off"
			r.set(true, false)
		case 3:
			r := pick()
			did = r.name + " hears nothing"
			r.set(false, true)
		case 4:
			r := pick()
			did = r.name + " is well"
			r.set(false, false)
		default:
			if len(there) == 5 {
				continue
			}
			v := &valve{}
			r := w.open(fmt.Sprintf("r%d", joined), v.gate())
			if dice.IntN(2) == 0 {
				busy := time.Duration(dice.IntN(300)) * time.Millisecond
				r.busy = func(*Lease) { <-time.After(busy) }
			}
			joined++
			there = append(there, one{r.join(func(c *Config) { c.ttl = 3 * time.Second }), v})
			did = r.name + " joins"
		}
		wait := time.Duration(dice.IntN(int(3 * time.Second)))
		t.Logf("step %d: %s, then %s", step, did, wait)
		<-time.After(wait)
		if dice.IntN(6) == 0 {
			quiet()
		}
	}
	quiet()
}
