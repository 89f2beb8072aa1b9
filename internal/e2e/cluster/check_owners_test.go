package cluster

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// startSlack is how long after the end of a lease what was started under it may still arrive: a
// busy machine delays what is already on its way.
const startSlack = 1500 * time.Millisecond

// act is something that a replica did to a connection or a callback.
type act struct {
	replica int
	shard   int
	what    string
	at      time.Time
}

// acts returns everything that needs a shard's lease: polls, readings of orders, attempts.
func (w *world) acts() []act {
	connections := map[string]string{} // by subscription, and by order
	for _, s := range w.vendor.Subscriptions() {
		connections[strings.ToLower(s.ID)] = siteOf(s.Owner)
	}
	for _, o := range w.vendor.Ledger().Orders {
		connections[strings.ToLower(o.ID)] = siteOf(o.Site)
	}
	var list []act
	for _, c := range w.vendor.all() {
		id := connections[strings.ToLower(c.subject)]
		if (c.what == pollCall || c.what == orderCall) && id != "" {
			what := "poll of " + id
			if c.what == orderCall {
				what = "reading of order " + c.subject + " for " + id
			}
			list = append(list, act{c.replica, relay.ShardOf(id), what, c.began})
		}
	}
	for _, r := range w.receivers {
		for _, a := range r.Deliveries() {
			list = append(list,
				act{replicaOf(a.Sender), relay.ShardOf(r.ID), "attempt of " + a.Event + " at callback " + r.ID, a.At})
		}
	}
	slices.SortFunc(list, func(a, b act) int { return a.at.Compare(b.at) })
	return list
}

// checkOwners: nobody works on a shard without holding it, and no shard has two holders. It returns
// how many acts came late, but within the slack.
func (w *world) checkOwners(f *findings, all map[int][]lease) (late int) {
	for _, list := range all {
		for _, l := range list {
			if l.replica < 0 {
				f.add(twoOwners, "shard %d was held under the nonce %s, which is in no relay's log", l.shard, l.nonce)
			}
		}
	}
	for _, a := range w.acts() {
		best := time.Duration(1<<63 - 1) // how far the act is from the nearest lease of its replica's
		for _, l := range all[a.shard] {
			if l.replica != a.replica {
				continue
			}
			switch {
			case a.at.Before(l.earliest):
				best = min(best, l.earliest.Sub(a.at))
			case a.at.After(l.over()):
				best = min(best, a.at.Sub(l.over()))
			default:
				best = 0
			}
		}
		switch {
		case best == 0:
		case best <= startSlack:
			late++
		default:
			f.add(outsideLease, "replica %d, %s: %s (shard %d) is %s away from every lease of its own", a.replica,
				a.at.UTC(), a.what, a.shard, best)
		}
	}
	return late
}

// killedWithin is how soon the shards of a relay that was killed must be another's.
const killedWithin = 20 * time.Second

// takeovers returns how long the shards of a hurt relay had no owner, or the hurt one, before the
// next.
func takeovers(all map[int][]lease, h hurt) (list []time.Duration) {
	for _, shard := range holding(all, h.replica, h.began) {
		for _, l := range all[shard] {
			if l.from.After(h.began) {
				list = append(list, l.from.Sub(h.began))
				break
			}
		}
	}
	return list
}

// checkTakeovers: what a killed relay held is taken in time.
func (w *world) checkTakeovers(f *findings, all map[int][]lease) {
	for _, h := range w.hurtsSoFar() {
		if h.kind != killRelay {
			continue
		}
		if list := takeovers(all, h); len(list) > 0 && slices.Max(list) > killedWithin {
			f.add(takenLate, "replica %d was killed at %s; the last of its shards was taken after %s", h.replica,
				h.began.UTC(), slices.Max(list))
		}
	}
}

// checkEpochs: the epochs of a document never go down. Tokens that an operator puts carry none.
func (w *world) checkEpochs(f *findings) (revisions int) {
	for _, bucket := range watched {
		if bucket == "owners" {
			continue // leases(…) has looked at those
		}
		for key, list := range w.history.bucket(bucket) {
			highest := uint64(0)
			for _, r := range list {
				revisions++
				if r.removed || bucket == "tokens" && r.epoch == 0 {
					continue
				}
				if r.epoch < highest {
					f.add(overwritten, "%s of bucket %s was written at %s under epoch %d, it had carried %d", key,
						bucket, r.at.UTC(), r.epoch, highest)
				}
				highest = max(highest, r.epoch)
			}
		}
	}
	return revisions
}

// overlap is two polls of one connection that were under way at the same time.
type overlap struct {
	connection string
	first      call
	second     call
	length     time.Duration
}

// overlaps returns them all. A process that was killed ends its polls with it.
func (w *world) overlaps() []overlap {
	by := map[string][]call{}
	for _, c := range w.vendor.all() {
		if c.what == pollCall {
			if c.ended.IsZero() {
				c.ended = time.Now()
			}
			for _, h := range w.hurtsSoFar() {
				if h.kind == killRelay && h.replica == c.replica && h.dead.After(c.began) {
					c.ended = earlier(c.ended, h.dead)
				}
			}
			by[strings.ToLower(c.subject)] = append(by[strings.ToLower(c.subject)], c)
		}
	}
	sites := map[string]string{}
	for _, s := range w.vendor.Subscriptions() {
		sites[strings.ToLower(s.ID)] = siteOf(s.Owner)
	}
	var found []overlap
	for subscription, list := range by {
		slices.SortFunc(list, func(a, b call) int { return a.began.Compare(b.began) })
		for i, a := range list {
			for _, b := range list[i+1:] {
				if !b.began.Before(a.ended) {
					continue
				}
				if length := earlier(a.ended, b.ended).Sub(b.began); length > 0 {
					found = append(found, overlap{sites[subscription], a, b, length})
				}
			}
		}
	}
	return found
}

// checkPolls: polls of one connection overlap no longer than an intent allows it to be under way,
// and never within one replica. It returns how many did.
func (w *world) checkPolls(f *findings) int {
	bound := w.pollBound()
	found := w.overlaps()
	for _, o := range found {
		switch {
		case o.length > bound:
			f.add(pollsOverlap, "connection %s: for %s, an intent lasts %s (replicas %d and %d, at %s)", o.connection,
				o.length, bound, o.first.replica, o.second.replica, o.second.began.UTC())
		case o.first.replica == o.second.replica:
			f.add(pollsOverlap, "connection %s: replica %d began one at %s beside its own of %s", o.connection,
				o.first.replica, o.second.began.UTC(), o.first.began.UTC())
		case !w.wasSuspended(o.first.replica, o.second.began) && !w.wasSuspended(o.second.replica, o.second.began):
			f.add(pollsOverlap, "connection %s: replica %d began one at %s, replica %d had one under way since %s, "+
				"and neither had been suspended or cut off", o.connection,
				o.second.replica, o.second.began.UTC(), o.first.replica, o.first.began.UTC())
		}
	}
	return len(found)
}

// wasSuspended reports whether a replica was kept from its work within the last minute. Only such a
// one may have a call under way that its successor no longer waits for.
func (w *world) wasSuspended(replica int, at time.Time) bool {
	return slices.ContainsFunc(w.hurtsSoFar(), func(h hurt) bool {
		return h.replica == replica && h.kind != stopRelay && at.After(h.began) && at.Sub(h.began) < time.Minute
	})
}

// refreshes is what became of one connection's refreshes.
type refreshes struct {
	begun       int
	interrupted int // another intent followed, and no result
	unseen      int // revisions were missed where one may have been interrupted
}

// refreshesOf reads the life of one connection's tokens.
func refreshesOf(revisions []revision) refreshes {
	var n refreshes
	open := ""
	for _, r := range revisions {
		var doc struct {
			Intent *struct{ ID string } `json:"intent"`
		}
		if r.removed || json.Unmarshal(r.body, &doc) != nil {
			continue
		}
		switch {
		case doc.Intent == nil:
			open = ""
			if r.gap {
				n.unseen++
			}
		case doc.Intent.ID != open:
			n.begun++
			if open != "" {
				n.interrupted++
			}
			if r.gap {
				n.unseen++
			}
			open = doc.Intent.ID
		}
	}
	return n
}

// checkTokens: a spent refresh token is used at most once for each refresh whose result nobody
// stored. checkWell checks what it ended in.
func (w *world) checkTokens(f *findings) (sum refreshes, spent int64) {
	counters := w.vendor.Counters()
	for _, site := range w.sites {
		n := refreshesOf(w.history.of("tokens", site))
		used := int64(0)
		w.mu.Lock()
		for _, id := range w.grants[site] {
			used += counters.Grants[id].SpentRefreshTokens
		}
		w.mu.Unlock()
		if used > int64(n.interrupted+n.unseen) {
			f.add(tokensMisused, "connection %s: %d times; %d of its %d refreshes were interrupted", site,
				used, n.interrupted, n.begun)
		}
		sum.begun, sum.interrupted, sum.unseen = sum.begun+n.begun, sum.interrupted+n.interrupted, sum.unseen+n.unseen
		spent += used
	}
	return sum, spent
}
