package cluster

import (
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// TestFaults is the short suite: every kind of death once.
func TestFaults(t *testing.T) {
	w := newWorld(t, options{
		replicas: replicasNow, sites: 16, probes: 12,
		vendor: sandbox.Config{Seed: 3, AccessTokenLifetime: 10 * time.Second},
	})
	w.newReceivers()
	w.start()
	l, o := w.startLoad(3, 100*time.Millisecond), w.operator()
	w.awaitShares()
	pass(2 * time.Second)
	w.kill(0)
	w.killNode("KV_relay_owners", time.Second)
	w.stop(len(w.replicas) - 1)
	w.cut(len(w.replicas)/2, 3*time.Second)
	pass(time.Second)
	l.end()
	w.finish(o)
}

// finish waits for rest, ends the relays and tells what the checks found.
func (w *world) finish(o *background) {
	w.t.Helper()
	var f findings
	w.verify(&f, o)
	f.tell(w.t)
}

// verify waits for rest, ends the relays gracefully and checks everything.
func (w *world) verify(f *findings, o *background) {
	w.t.Helper()
	a := w.rest(f, restPatience)
	o.end()
	w.checkWell(f)
	for _, r := range w.replicas {
		w.change(r.stop)
	}
	w.checkDelivery(f, a)
	leases := w.leases(f)
	late := w.checkOwners(f, leases)
	revisions := w.checkEpochs(f)
	overlapping := w.checkPolls(f)
	tokens, spent := w.checkTokens(f)
	w.checkLogs(f)

	var g figures
	g.addFailovers(w, leases)
	for _, line := range g.lines() {
		w.t.Log(line)
	}
	repeats, deliveries := w.repeats()
	counters := w.vendor.Counters()
	w.t.Logf("notifications handed out: %d", counters.NotificationsHandedOut)
	w.t.Logf("events in the log: %d", len(a.events))
	w.t.Logf("deliveries: %d", deliveries)
	w.t.Logf("repeats: %d", repeats)
	w.t.Logf("answers lost and told: %d", len(w.lostAnswers(a)))
	w.t.Logf("acts within %s of the end of their lease: %d", startSlack, late)
	w.t.Logf("polls overlapping: %d", overlapping)
	w.t.Logf("refreshes: %d, interrupted %d, spent refresh tokens used %d", tokens.begun, tokens.interrupted, spent)
	w.t.Logf("revisions checked: %d (missed of all: %s)", revisions, w.missed())
}

// restPatience is how long the cluster may take to come to rest after the last hurt.
const restPatience = 90 * time.Second

// checkLogs: what the relays wrote is JSON line by line, and tells of no panic.
func (w *world) checkLogs(f *findings) {
	for _, r := range w.replicas {
		for _, problem := range r.book.Malformed() {
			f.add(relayMisspoke, "replica %d: %s", r.number, problem)
		}
	}
}
