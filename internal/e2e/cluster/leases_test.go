package cluster

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// lease is the time for which one process held one shard, as the store has it.
type lease struct {
	shard   int
	nonce   string
	epoch   uint64
	replica int // -1 if no log of any process names the nonce
	run     int // of the replica
	from    time.Time
	// from, or before: when something was missed, it may have begun any time since the revision before
	earliest time.Time
	until    time.Time // released, expired or not yet over
	latest   time.Time // until, or later: when something was missed, it may have been renewed up to the revision after
	given    bool      // released by its owner before its time
}

// leases returns who held what, by shard and in the order of time.
func (w *world) leases(f *findings) map[int][]lease {
	all := map[int][]lease{}
	for key, revisions := range w.history.bucket("owners") {
		number, ok := strings.CutPrefix(key, "shard.")
		if !ok {
			continue // a member's record
		}
		shard, err := strconv.Atoi(number)
		if err != nil {
			f.add(twoOwners, "a lease with the key %s", key)
			continue
		}
		all[shard] = leasesOf(f, shard, leaseTTL(), revisions, w.ownerOf)
	}
	return all
}

// ownerOf returns the replica and its run whose log names a nonce, -1 and -1 if none does yet.
func (w *world) ownerOf(nonce string) (replica, run int) {
	if known, ok := w.owners.Load(nonce); ok {
		found := known.([2]int)
		return found[0], found[1]
	}
	for _, r := range w.replicas {
		if run := r.book.Names(nonce); run >= 0 {
			w.owners.Store(nonce, [2]int{r.number, run}) // to read the logs each time would take more than all else
			return r.number, run
		}
	}
	return -1, -1
}

// leasesOf reads the life of one lease's key. An owner's time runs from each renewal that the store
// took.
func leasesOf(f *findings, shard int, ttl time.Duration, revisions []revision, who func(string) (int, int)) []lease {
	var list []lease
	highest := uint64(0)
	gap := false // something was missed since the owner's last sign of life
	for i, r := range revisions {
		gap = gap || r.gap
		var current *lease
		if len(list) > 0 {
			current = &list[len(list)-1]
		}
		if r.removed {
			if current != nil {
				current.endUnseen(gap, r.at)
				if r.at.Before(current.until) {
					current.until, current.given = r.at, true
				}
			}
			gap = false
			continue
		}
		var doc struct {
			Nonce string
			Epoch uint64
		}
		if err := json.Unmarshal(r.body, &doc); err != nil {
			f.add(twoOwners, "shard %d at %d: %v", shard, r.seq, err)
			continue
		}
		if current != nil && current.nonce == doc.Nonce && (!current.given || doc.Epoch == current.epoch) {
			if doc.Epoch < current.epoch {
				f.add(overwritten, "the lease of shard %d was renewed under epoch %d, it had been %d",
					shard, doc.Epoch, current.epoch)
			}
			current.until, current.epoch, gap = r.at.Add(ttl), doc.Epoch, false
			highest = max(highest, doc.Epoch)
			continue
		}
		next := lease{shard: shard, nonce: doc.Nonce, epoch: max(doc.Epoch, r.seq), from: r.at, until: r.at.Add(ttl)}
		if current == nil || gap { // perhaps a renewal: it names the epoch itself
			next.epoch = doc.Epoch
		}
		next.earliest = next.from
		if i > 0 && gap {
			next.earliest = revisions[i-1].at
		}
		next.replica, next.run = who(doc.Nonce)
		if current != nil && r.at.Before(current.until) && !gap {
			f.add(twoOwners, "shard %d was taken by replica %d at %s, replica %d held it until %s", shard, next.replica,
				r.at.UTC(), current.replica, current.until.UTC())
		}
		if next.epoch <= highest && !gap {
			f.add(twoOwners, "shard %d was taken under epoch %d, there had been %d", shard, next.epoch, highest)
		}
		if current != nil {
			current.endUnseen(gap, r.at)
			current.until = earlier(current.until, r.at)
		}
		highest = max(highest, next.epoch)
		list, gap = append(list, next), false
	}
	return list
}

// endUnseen takes in that the next revision that was seen is no renewal. If some were missed before
// it, renewals may be among them.
func (l *lease) endUnseen(missed bool, next time.Time) {
	if missed && next.After(l.until) {
		l.latest = next
	}
}

// over returns when the lease was over at the latest, for all that was seen.
func (l *lease) over() time.Time {
	if l.latest.After(l.until) {
		return l.latest
	}
	return l.until
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// holding returns the shards that a replica held at a given time.
func holding(all map[int][]lease, replica int, at time.Time) []int {
	var shards []int
	for shard, list := range all {
		if slices.ContainsFunc(list, func(l lease) bool {
			return l.replica == replica && !at.Before(l.from) && at.Before(l.until)
		}) {
			shards = append(shards, shard)
		}
	}
	slices.Sort(shards)
	return shards
}
