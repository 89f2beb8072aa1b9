package night

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/e2e/prom"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// rules is the directory of the rules, and of the program that checks them.
func rules(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join(root, "deploy", "prometheus"))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// rulesProgram builds what checks and scales the rules. It is a module of its own.
func rulesProgram(t testing.TB) func(args ...string) (string, error) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "rules")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = rules(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", build.Dir, err, out)
	}
	return func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir = rules(t)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

// troubled makes a house on a cluster in which everything has happened that a metric shows only then.
func troubled(t testing.TB, cluster *natstest.Cluster) *house {
	t.Helper()
	h := newHouse(t, 1, clustered(t, cluster))
	h.sites = append(h.sites, "ripon", "whitby", "filey")
	h.start()
	h.furnish(5 * 24 * time.Hour)
	h.madeLongAgo(cluster)
	h.callback("orders", newReceiver(t, nil))
	h.callback("failing", newReceiver(t, nil)).status.Store(http.StatusServiceUnavailable)
	h.callback("gone", newReceiver(t, nil)).status.Store(http.StatusGone)
	h.callback("paused", newReceiver(t, nil))
	h.api().Must(t, http.MethodPatch, "/v1/callbacks/paused", map[string]any{"paused": true}, nil)
	h.callback("busy", newReceiver(t, nil)).busy.Store(true)
	ending := newReceiver(t, h.by)
	ending.shows.Store(h.by.certificate(t, 10*24*time.Hour))
	h.callback("ending", ending)
	h.keepBusy(100 * time.Millisecond)
	h.api().Must(t, http.MethodPatch, "/v1/connections/whitby", map[string]any{"paused": true}, nil)
	if err := h.sandbox.RevokeGrant(h.grants["ripon"]); err != nil {
		t.Fatal(err)
	}
	h.foreign()
	h.refuse("filey")
	return h
}

// madeLongAgo has the client's keys made months ago: what has just been made for a few days does not end soon.
func (h *house) madeLongAgo(cluster *natstest.Cluster) {
	h.t.Helper()
	js, err := jetstream.New(cluster.Connect(h.t))
	if err != nil {
		h.t.Fatal(err)
	}
	clients, err := js.KeyValue(h.t.Context(), "relay_clients")
	if err != nil {
		h.t.Fatal(err)
	}
	entry, err := clients.Get(h.t.Context(), clientID)
	if err != nil {
		h.t.Fatal(err)
	}
	var client relay.Client
	if err := json.Unmarshal(entry.Value(), &client); err != nil {
		h.t.Fatal(err)
	}
	for i := range client.Keys {
		client.Keys[i].CreatedAt = client.Keys[i].CreatedAt.AddDate(0, -6, 0)
	}
	document, err := json.Marshal(client)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := clients.Update(h.t.Context(), clientID, document, entry.Revision()); err != nil {
		h.t.Fatal(err)
	}
}

// refuse has the vendor respond with 503 to every poll of a site's connection, and to every reading of an order of
// another site.
func (h *house) refuse(site string) {
	h.t.Helper()
	path := sandbox.APIPath + "/v1/bmsapi/site/subscriptions/"
	for _, subscription := range h.sandbox.Subscriptions() {
		if subscription.Owner == vendorSite(site) {
			path += subscription.ID + "/"
		}
	}
	const order = "5f0c0000-0000-4000-8000-000000000001"
	if err := h.sandbox.SetFaults(
		sandbox.Faults{Share503: 1, Paths: []string{path}},
		sandbox.Faults{Share503: 1, Paths: []string{sandbox.APIPath + "/v1/bmsapi/partsorders/" + order}},
	); err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.sandbox.CreateOrder(vendorSite("leeds"), sandbox.OrderOptions{ID: order}); err != nil {
		h.t.Fatal(err)
	}
}

// foreign has something in a queue that is no notification.
func (h *house) foreign() {
	h.t.Helper()
	if n := h.sandbox.QueueRaw(vendorSite("leeds"), json.RawMessage(`{"Maintenance":"tonight"}`)); n == 0 {
		h.t.Fatal("no queue has it")
	}
}

// TestARelayInTrouble: the rules name what a relay has, and the commands of the runbook run, while a relay on a NATS
// cluster is under load and has all kinds of trouble.
func TestARelayInTrouble(t *testing.T) {
	t.Parallel()
	prom.Program(t, "prometheus")
	check := rulesProgram(t)
	cluster := natstest.NewCluster(t)
	h := troubled(t, cluster)
	limitEvents(t, cluster)
	alone := newHouse(t, 1, embedded(filepath.Join(t.TempDir(), "data"))) // it has a disk
	alone.start()
	s := prom.Start(t, prom.Config{
		Jobs: []prom.Job{
			{Name: "relay", Targets: h.targets(), Token: h.token},
			{Name: "alone", Targets: alone.targets(), Token: alone.token},
		},
		Rules: []string{filepath.Join(rules(t), "rules", "*.yaml")},
	})
	s.AwaitUp(t, "relay", 1)
	s.AwaitUp(t, "alone", 1)
	began := time.Now()
	h.tryRules(t, alone, check)
	h.tryRunbook(t, s, began)
}

// limitEvents sets a limit to the log of events by hand, as an operator may. It grows, so there is a time when it is
// full.
func limitEvents(t *testing.T, cluster *natstest.Cluster) {
	t.Helper()
	js, err := jetstream.New(cluster.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "relay_events")
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxBytes = 1 << 30
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}

// tryRules holds the rules to scrapes until these have every metric and label. Growth is reported after a minute, and a
// late poll as well.
func (h *house) tryRules(t *testing.T, alone *house, check func(...string) (string, error)) {
	t.Helper()
	dir := t.TempDir()
	scrapes := []string{filepath.Join(dir, "embedded.txt")}
	for deadline := time.Now().Add(3 * time.Minute); ; pass(5 * time.Second) {
		file := filepath.Join(dir, fmt.Sprintf("scrape-%d.txt", len(scrapes)))
		if err := os.WriteFile(file, h.scrape(0), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(scrapes[0], alone.scrape(0), 0o600); err != nil {
			t.Fatal(err)
		}
		scrapes = append(scrapes, file)
		out, err := check(append([]string{"lint"}, scrapes...)...)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("the rules and %d scrapes: %v\n%s", len(scrapes), err, out)
			return
		}
	}
}
