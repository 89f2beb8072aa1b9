package cluster

import (
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/topology"
)

// restPatience is how long the cluster may take to come to rest after the last hurt.
const restPatience = 90 * time.Second

// rounds returns how many rounds the long suite has, 0 for the short one, and the seed of its
// order.
func rounds(t *testing.T) (int, uint64) {
	t.Helper()
	n, seed := uint64(0), rand.Uint64()
	for name, into := range map[string]*uint64{"RELAY_FAULT_ROUNDS": &n, "RELAY_FAULT_SEED": &seed} {
		if s := os.Getenv(name); s != "" {
			var err error
			if *into, err = strconv.ParseUint(s, 10, 64); err != nil {
				t.Fatalf("%s=%q: %v", name, s, err)
			}
		}
	}
	return int(n), seed
}

// TestFaults hurts relays and NATS servers under load. In short: a relay killed, the NATS server
// killed that leads the leases, a relay stopped gracefully, a relay cut off for a few seconds.
// RELAY_FAULT_ROUNDS makes it so many rounds of everything.
func TestFaults(t *testing.T) {
	t.Parallel()
	n, seed := rounds(t)
	if n > 0 {
		t.Logf("RELAY_FAULT_ROUNDS=%d RELAY_FAULT_SEED=%d", n, seed)
		long(t, n, seed)
		return
	}
	w := newWorld(t, options{
		replicas: replicas, sites: 16, probes: 12,
		vendor: sandbox.Config{Seed: 3, AccessTokenLifetime: 10 * time.Second},
		faults: []sandbox.Faults{
			{ShareCutAfterRead: 0.01, Operations: []sandbox.Operation{sandbox.OpPoll}},
			{ShareLatency: 0.5, Latency: 100 * time.Millisecond, Operations: []sandbox.Operation{sandbox.OpReadOrder}},
		},
	})
	w.newReceivers()
	w.start()
	l, o := w.startLoad(3, 100*time.Millisecond), w.operator()
	w.awaitShares()
	pass(2 * time.Second)
	w.reconcileAll() // what replica 0 does of it, others must take to its end
	w.kill(0)
	w.awaitFlow()
	w.killNode("KV_relay_owners", time.Second)
	w.awaitFlow()
	w.stop(1)
	w.awaitFlow()
	w.cut(2, 3*time.Second)
	w.awaitFlow()
	l.end()
	if err := w.vendor.SetFaults(); err != nil { // else responses are cut for ever
		t.Fatal(err)
	}
	w.finish(o)
	w.checkReconciled()
}

// reconcileAll asks for every connection's open orders to be read again.
func (w *world) reconcileAll() {
	w.t.Helper()
	for _, site := range w.sites {
		harness.Eventually(w.t, "reconcile "+site, func() string {
			api, ok := w.anyAPI()
			if !ok {
				return "no relay serves"
			}
			a, err := api.Call(http.MethodPost, "/v1/connections/"+site+"/reconcile?delivered=true", nil)
			switch {
			case err != nil:
				return err.Error()
			case a.Status != http.StatusAccepted:
				return string(a.Body)
			}
			return ""
		})
	}
}

// checkReconciled fails unless every connection's reconciliation was reported, each once.
func (w *world) checkReconciled() {
	w.t.Helper()
	a, err := w.readArchive()
	if err != nil {
		w.t.Fatal(err)
	}
	runs := a.said(w.t, "reconciled", "startedAt")
	for _, site := range w.sites {
		if len(runs[site]) == 0 {
			w.t.Errorf("connection %s was never reconciled", site)
		}
		told := map[time.Time]bool{}
		for _, at := range runs[site] {
			if told[at] {
				w.t.Errorf("connection %s: the run of %s was told twice", site, at)
			}
			told[at] = true
		}
	}
}

// long hurts everything, several times, and looks after each time.
func long(t *testing.T, rounds int, seed uint64) {
	w := newWorld(t, options{
		replicas: replicas, sites: 24, probes: 20,
		vendor: sandbox.Config{Seed: seed, AccessTokenLifetime: 5 * time.Second},
		faults: []sandbox.Faults{
			{ShareLatency: 0.2, Latency: 300 * time.Millisecond, ShareCutAfterRead: 0.002,
				Operations: []sandbox.Operation{sandbox.OpPoll}},
			{ShareLatency: 0.5, Latency: 400 * time.Millisecond, Operations: []sandbox.Operation{sandbox.OpToken}},
			{ShareLatency: 0.2, Latency: 50 * time.Millisecond, Operations: []sandbox.Operation{sandbox.OpReadOrder}},
		},
	})
	w.newReceivers()
	w.start()
	l, o := w.startLoad(seed, 100*time.Millisecond), w.operator()
	dice := rand.New(rand.NewPCG(seed, 2))
	streams := []string{"KV_relay_owners", "relay_events", "KV_relay_cursors", "relay_inbox", "KV_relay_polls"}
	for round := range rounds {
		hurts := []func(){
			func() { w.kill(dice.IntN(replicas)) },
			func() { w.stop(dice.IntN(replicas)) },
			func() { w.suspend(dice.IntN(replicas), 2*topology.LeaseTTL) },
			func() { w.cut(dice.IntN(replicas), 3*time.Second) },
			func() { w.cut(dice.IntN(replicas), topology.LeaseTTL+10*time.Second) },
			func() { w.silence(dice.IntN(replicas), topology.LeaseTTL+10*time.Second) },
			func() { w.delay(dice.IntN(replicas), 10*time.Second) },
			func() { w.killNode(streams[dice.IntN(len(streams))], time.Duration(dice.IntN(8000))*time.Millisecond) },
			w.restartAll,
			w.roll,
		}
		dice.Shuffle(len(hurts), func(i, j int) { hurts[i], hurts[j] = hurts[j], hurts[i] })
		for _, hurt := range hurts {
			w.awaitShares()
			pass(time.Duration(500+dice.IntN(2000)) * time.Millisecond)
			hurt()
			w.awaitFlow()
			l.paused.Store(true)
			var f findings
			w.look(&f, w.rest(&f, restPatience))
			if f.tell(t); t.Failed() {
				t.Fatalf("round %d", round)
			}
			l.paused.Store(false)
		}
	}
	l.end()
	w.finish(o)
}

// finish waits for rest, ends the relays and reports what the checks found, and the figures.
func (w *world) finish(o *background) {
	w.t.Helper()
	var f findings
	a := w.rest(&f, restPatience)
	o.end()
	w.checkWell(&f)
	for _, r := range w.replicas {
		w.change(r.stop)
	}
	seen := w.look(&f, a)
	f.tell(w.t)

	var g figures
	g.addFailovers(w, w.leases(&f))
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
	w.t.Logf("acts within %s of the end of their lease: %d", startSlack, seen.late)
	w.t.Logf("polls overlapping: %d", seen.overlapping)
	w.t.Logf("refreshes: %d, interrupted %d, spent refresh tokens used %d",
		seen.refreshes.begun, seen.refreshes.interrupted, seen.spent)
	w.t.Logf("revisions checked: %d (missed: %s)", seen.revisions, w.history.missed())
}

// seen is what the checks counted on their way.
type seen struct {
	late, revisions, overlapping int
	refreshes                    refreshes
	spent                        int64
}

// look makes all checks of what has happened so far; a is what the logs hold.
func (w *world) look(f *findings, a archive) seen {
	var s seen
	w.checkDelivery(f, a)
	leases := w.leases(f)
	s.late = w.checkOwners(f, leases)
	w.checkTakeovers(f, leases)
	s.revisions = w.checkEpochs(f)
	s.overlapping = w.checkPolls(f)
	s.refreshes, s.spent = w.checkTokens(f)
	w.checkLogs(f)
	return s
}

// checkLogs: what the relays wrote is JSON line by line, and has no panic.
func (w *world) checkLogs(f *findings) {
	for _, r := range w.replicas {
		for _, problem := range r.book.Malformed() {
			f.add(relayMisspoke, "replica %d: %s", r.number, problem)
		}
	}
}
