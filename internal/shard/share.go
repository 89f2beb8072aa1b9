package shard

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strconv"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// nobody stands in a share for a shard that no member should have: there are no members.
const nobody = -1

// identity is what a member's share is computed from.
type identity struct {
	replica, nonce string
}

// String returns a name that distinguishes replicas of one host in the log.
func (i identity) String() string {
	if i.nonce == "" {
		return i.replica
	}
	return i.replica + "-" + i.nonce[:min(8, len(i.nonce))]
}

// ownerOf names who wrote a lease.
func ownerOf(l store.Lease) string { return identity{l.Replica, l.Nonce}.String() }

// assign returns for each shard which of the members should own it, as an index into members. The
// result depends only on the set of members, so all of them compute the same one without exchanging
// messages. Each member has a score for each shard (rendezvous hashing): a shard goes to the member
// with the highest score that still has room. No member gets more than one shard above another, and
// few shards move when a member joins or leaves.
//
// The score is that of the replica's name, and the nonce only breaks ties: a replica that restarts
// under its name should get the shards it had.
func assign(members []identity) [relay.Shards]int {
	var owner [relay.Shards]int
	for n := range owner {
		owner[n] = nobody
	}
	if len(members) == 0 {
		return owner
	}
	type liking struct {
		shard, member int
		score, tie    uint64
	}
	likings := make([]liking, 0, len(members)*relay.Shards)
	for i, m := range members {
		for n := range relay.Shards {
			likings = append(likings, liking{shard: n, member: i, score: score(m.replica, n), tie: score(m.nonce, n)})
		}
	}
	slices.SortFunc(likings, func(a, b liking) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(b.tie, a.tie), cmp.Compare(a.shard, b.shard),
			cmp.Compare(members[a.member].nonce, members[b.member].nonce))
	})
	even, larger := relay.Shards/len(members), relay.Shards%len(members) // so many may have one shard more
	held := make([]int, len(members))
	for _, l := range likings {
		if owner[l.shard] != nobody {
			continue
		}
		switch {
		case held[l.member] < even:
		case held[l.member] == even && larger > 0:
			larger--
		default:
			continue
		}
		owner[l.shard] = l.member
		held[l.member]++
	}
	return owner
}

// score is a name's score for a shard.
func score(name string, shard int) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	h.Write([]byte{0})
	h.Write(strconv.AppendInt(nil, int64(shard), 10))
	// FNV's high bits hardly see the last bytes: mix them in (the finalizer of MurmurHash3).
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
