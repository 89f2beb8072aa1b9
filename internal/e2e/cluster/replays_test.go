package cluster

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

// replay is a replay as the API shows it, or the result of a dry run.
type replay struct {
	ID, State, Until           string
	Matched                    *int
	Delivered, Failed, Skipped int
}

const (
	replayedCallback = "replayed"
	replaysPath      = "/v1/callbacks/" + replayedCallback + "/replays"
	// leastReplayed is how many events there must be for a replay to be still running when it has been taken twice.
	leastReplayed = 100
)

// A replay goes on where its owner is killed, and where another one hands its shards over, beside new events. It
// delivers what was counted, and counts what it has delivered; events of one order come in their order.
func TestReplayWhoseOwnersGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{replicas: replicas, sites: 4, vendor: sandbox.Config{Seed: 9}})
	slow := relaytest.Slow(50 * time.Millisecond)
	w.receiver(replayedCallback, func(n int, r *http.Request) int {
		if r.Header.Get("webhook-replay") == "" {
			return http.StatusNoContent
		}
		return slow(n, r)
	}, map[string]any{"concurrency": 4})
	began := time.Now().Add(-time.Minute)
	w.start()
	w.awaitShares()
	l := w.startLoad(9, 20*time.Millisecond)
	harness.AwaitAccepted(t, leastReplayed, w.receivers[0])
	l.end()
	l = w.startLoad(10, time.Second) // new events beside it

	var plan, made replay
	w.replay(http.MethodPost, replaysPath, map[string]any{"since": began, "dryRun": true}, &plan)
	w.replay(http.MethodPost, replaysPath, map[string]any{"since": began, "until": plan.Until}, &made)
	w.progress(made.ID, 10)
	w.kill(w.ownerOfShard(relay.ShardOf(replayedCallback)))
	w.progress(made.ID, 40)
	w.stop(w.ownerOfShard(relay.ShardOf(replayedCallback)))
	var done replay
	harness.Eventually(t, "the replay ends", func() string {
		if w.replay(http.MethodGet, replaysPath+"/"+made.ID, nil, &done); done.State == "running" {
			return fmt.Sprintf("%d are delivered", done.Delivered)
		}
		return ""
	})
	l.end()
	if n := *plan.Matched; done.State != "done" || done.Matched == nil || *done.Matched != n || done.Delivered != n ||
		done.Failed+done.Skipped != 0 {
		t.Errorf("of %d events the replay has delivered: %+v", n, done)
	}
	came, last := map[string]bool{}, map[string]string{}
	for _, d := range w.receivers[0].Deliveries() {
		if d.Replay != made.ID || d.Status/100 != 2 || came[d.Event] {
			continue
		}
		if d.Sequence <= last[d.Subject] {
			t.Errorf("event %s came after %s of its order", d.Event, last[d.Subject])
		}
		came[d.Event], last[d.Subject] = true, d.Sequence
	}
	if len(came) != *plan.Matched {
		t.Errorf("%d different events came by the replay, want %d", len(came), *plan.Matched)
	}
	w.receivers[0].CheckClean(t)
}

// replay makes a request about replays, again while the response is that it cannot be done now.
func (w *world) replay(method, path string, body any, into *replay) {
	w.t.Helper()
	harness.Eventually(w.t, method+" "+path, func() string {
		api, ok := w.anyAPI()
		if !ok {
			return "no relay serves"
		}
		a, err := api.Call(method, path, body)
		switch {
		case err != nil:
			return err.Error()
		case a.Status == http.StatusServiceUnavailable:
			return string(a.Body)
		case a.Status/100 != 2:
			w.t.Fatalf("%s %s: %d %s", method, path, a.Status, a.Body)
		}
		*into = replay{}
		if err := json.Unmarshal(a.Body, into); err != nil {
			w.t.Fatal(err)
		}
		return ""
	})
}

// progress waits until a replay has delivered so many events; it must not have ended by then.
func (w *world) progress(id string, delivered int) {
	w.t.Helper()
	harness.Eventually(w.t, "the replay goes on", func() string {
		var r replay
		w.replay(http.MethodGet, replaysPath+"/"+id, nil, &r)
		if r.State != "running" {
			w.t.Fatalf("the replay has ended: %+v", r)
		}
		if r.Delivered < delivered {
			return fmt.Sprintf("%d of %d are delivered", r.Delivered, delivered)
		}
		return ""
	})
}

// ownerOfShard waits until a relay holds a shard, and returns its number.
func (w *world) ownerOfShard(shard int) (owner int) {
	w.t.Helper()
	harness.Eventually(w.t, "somebody holds the shard", func() string {
		var f findings
		list, now := w.leases(&f)[shard], time.Now()
		if len(list) == 0 || now.After(list[len(list)-1].until) {
			return "nobody does"
		}
		owner = list[len(list)-1].replica
		return ""
	})
	return owner
}
