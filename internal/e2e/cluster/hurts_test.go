package cluster

import (
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/relay"
)

// What is done to the cluster.
const (
	killRelay    = "kill of a relay"
	stopRelay    = "graceful stop of a relay"
	suspendRelay = "suspension of a relay"
	cutRelay     = "cut of a relay's links"
	silenceRelay = "silence on a relay's links"
	delayRelay   = "delay on a relay's links"
	killNode     = "kill of a NATS server"
	rollNodes    = "rolling of the NATS servers"
)

func (w *world) hurtsSoFar() []hurt {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.hurts)
}

// begin records that something is done; the function that it returns records the end of it.
func (w *world) begin(kind string, replica int) (end func()) {
	w.t.Helper()
	w.t.Logf("%s: %s %d", time.Now().UTC().Format("15:04:05.000"), kind, replica)
	w.mu.Lock()
	defer w.mu.Unlock()
	at := len(w.hurts)
	w.hurts = append(w.hurts, hurt{kind: kind, replica: replica, began: time.Now()})
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.hurts[at].ended = time.Now()
	}
}

// dead records that a relay whose kill was begun last is gone: until then it may still have taken a
// response.
func (w *world) dead(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.hurts) - 1; i >= 0; i-- {
		if w.hurts[i].replica == n {
			w.hurts[i].dead = time.Now()
			return
		}
	}
}

// kill ends a relay with SIGKILL, waits until others have its shards, and starts it again.
func (w *world) kill(n int) {
	w.t.Helper()
	end := w.begin(killRelay, n)
	w.change(w.replicas[n].kill)
	w.dead(n)
	w.awaitTaken(n)
	end()
	w.restart(n)
}

// stop ends a relay with SIGTERM and starts it again.
func (w *world) stop(n int) {
	w.t.Helper()
	end := w.begin(stopRelay, n)
	w.change(w.replicas[n].stop)
	w.awaitTaken(n)
	end()
	w.restart(n)
}

func (w *world) restart(n int) {
	w.t.Helper()
	w.change(w.replicas[n].begin)
	w.replicas[n].awaitServing()
}

// suspend stops a relay where it is and lets it go on after a while.
func (w *world) suspend(n int, d time.Duration) {
	w.t.Helper()
	end := w.begin(suspendRelay, n)
	w.change(w.replicas[n].suspend)
	pass(d)
	w.change(w.replicas[n].resume)
	end()
}

// cut breaks a relay's links to NATS for a while, silence lets nothing through them, delay makes
// everything slow.
func (w *world) cut(n int, d time.Duration) {
	w.t.Helper()
	end := w.begin(cutRelay, n)
	w.change(func() { w.replicas[n].away = true })
	w.links.cut(n)
	pass(d)
	w.links.mend(n)
	w.change(func() { w.replicas[n].away = false })
	end()
}

func (w *world) silence(n int, d time.Duration) {
	w.t.Helper()
	end := w.begin(silenceRelay, n)
	w.change(func() { w.replicas[n].away = true })
	w.links.hurt(n, "timeout", `{"timeout":0}`)
	pass(d)
	w.links.heal(n)
	w.change(func() { w.replicas[n].away = false })
	end()
}

func (w *world) delay(n int, d time.Duration) {
	w.t.Helper()
	end := w.begin(delayRelay, n)
	w.links.hurt(n, "latency", `{"latency":150,"jitter":100}`)
	pass(d)
	w.links.heal(n)
	end()
}

// killNode ends the NATS server that leads a stream, starts it again after a while and waits until
// it has caught up.
func (w *world) killNode(stream string, away time.Duration) {
	w.t.Helper()
	n := w.bus.leader(stream)
	end := w.begin(killNode, -1)
	w.bus.kill(n)
	pass(away)
	w.bus.start(n)
	w.bus.awaitCurrent(n)
	end()
}

// restartAll ends all relays with SIGKILL and starts them again, all at once.
func (w *world) restartAll() {
	w.t.Helper()
	ends := make([]func(), 0, len(w.replicas))
	for n := range w.replicas {
		ends = append(ends, w.begin(killRelay, n))
	}
	for n, r := range w.replicas {
		w.change(r.kill)
		w.dead(n)
	}
	for n, r := range w.replicas {
		ends[n]()
		w.change(r.begin)
	}
	for _, r := range w.replicas {
		r.awaitServing()
	}
}

// roll ends and starts the NATS servers one after the other with SIGTERM, as an upgrade does, each
// once the one before has caught up.
func (w *world) roll() {
	w.t.Helper()
	end := w.begin(rollNodes, -1)
	for n := range w.bus.nodes {
		w.bus.end(n, syscall.SIGTERM)
		w.bus.start(n)
		w.bus.awaitCurrent(n)
	}
	end()
}

// awaitTaken waits until somebody else holds what a relay that has gone held. With one relay there
// is nobody else.
func (w *world) awaitTaken(n int) {
	w.t.Helper()
	if len(w.replicas) == 1 {
		return
	}
	harness.Eventually(w.t, fmt.Sprintf("the shards of replica %d are taken by others", n), func() string {
		var f findings
		all, now := w.leases(&f), time.Now()
		for shard := range relay.Shards {
			list := all[shard]
			if len(list) == 0 {
				return fmt.Sprintf("nobody has ever held shard %d", shard)
			}
			if last := list[len(list)-1]; last.replica == n || now.After(last.until) {
				return fmt.Sprintf("shard %d is replica %d's until %s", shard, last.replica, last.until.UTC())
			}
		}
		return ""
	})
}

// awaitFlow waits until something that has happened since has come to every callback.
func (w *world) awaitFlow() {
	w.t.Helper()
	now := time.Now()
	harness.Eventually(w.t, "deliveries go on everywhere", func() string {
		for _, r := range w.receivers {
			if r.Latest().Before(now) {
				return "nothing came to callback " + r.ID
			}
		}
		return ""
	})
}

// awaitShares waits until every relay holds about its share of the shards.
func (w *world) awaitShares() {
	w.t.Helper()
	if len(w.replicas) == 1 {
		return
	}
	harness.Eventually(w.t, "the relays share the shards", func() string {
		var f findings
		all, now := w.leases(&f), time.Now()
		for _, r := range w.replicas {
			if held := len(holding(all, r.number, now)); held < relay.Shards/len(w.replicas)-1 {
				return fmt.Sprintf("replica %d holds %d", r.number, held)
			}
		}
		return ""
	})
}
