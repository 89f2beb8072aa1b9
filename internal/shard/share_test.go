package shard

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/relay"
)

func drawMembers(t *rapid.T) []identity {
	n := rapid.IntRange(1, 20).Draw(t, "members")
	if rapid.IntRange(0, 20).Draw(t, "very many") == 0 {
		n += relay.Shards
	}
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9-]{1,12}`), n, n,
		func(s string) string { return s }).Draw(t, "names")
	members := make([]identity, n)
	for i, name := range names {
		members[i] = identity{name, fmt.Sprintf("nonce-of-%s", name)}
	}
	return members
}

func named(members []identity) (owner [relay.Shards]identity) {
	for n, i := range assign(members) {
		owner[n] = members[i]
	}
	return owner
}

func TestShareIsEvenAndTheSameForAll(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		if rapid.Bool().Draw(t, "a replica's last run is still in view") {
			members = append(members, identity{members[0].replica, "its last run"})
		}
		owner := named(members)
		held := map[identity]int{}
		for _, m := range owner {
			held[m]++
		}
		for _, m := range members {
			if even := relay.Shards / len(members); held[m] != even && held[m] != even+1 ||
				relay.Shards%len(members) == 0 && held[m] != even {
				t.Fatalf("%v has %d of %d shards among %d", m, held[m], relay.Shards, len(members))
			}
		}
		if other := named(rapid.Permutation(members).Draw(t, "in another order")); other != owner {
			t.Fatal("the share depends on the order in which the members are seen")
		}
	})
}

// What moves when a member joins is at least its share. The even share costs a few moves more than
// that among the others.
func TestFewShardsMoveWhenAMemberJoinsOrGoes(t *testing.T) {
	t.Parallel()
	worst := map[int]int{}
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		if len(members) < 2 {
			t.Skip("nobody else")
		}
		with, without := named(members), named(members[1:])
		moved, others := 0, 0
		for n := range with {
			if with[n] != without[n] {
				moved++
				if with[n] != members[0] {
					others++
				}
			}
		}
		if len(members) <= 10 {
			worst[len(members)] = max(worst[len(members)], others)
		}
		if others > relay.Shards/4 {
			t.Fatalf("%d shards moved among those who stayed, of %d in all, when one of %d members came or went",
				others, moved, len(members))
		}
	})
	t.Logf("most moves among those who stayed, by members: %v", worst)
}

func TestAReplicaThatRestartsGetsWhatItHad(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		before := assign(members)
		members[0].nonce = "its next run"
		if assign(members) != before {
			t.Fatal("shards move when a replica restarts under its name")
		}
	})
}

func TestNobodyHasAShareOfNothing(t *testing.T) {
	t.Parallel()
	for n, owner := range assign(nil) {
		if owner != nobody {
			t.Fatalf("shard %d has an owner", n)
		}
	}
}
