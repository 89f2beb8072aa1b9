package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/ledger"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/relaytest"
)

// A NATS of somebody else's comes back from a power cut without the end of both logs, under relays that
// live. Each of them ends, and says why. Started again they deliver every later change of every order,
// in order, and read again what had waited in pages that are lost.
func TestLivingRelaysEndWhenTheirNATSHasLostTheEndOfTheLogs(t *testing.T) {
	t.Parallel()
	for _, relays := range []int{1, 2} {
		t.Run(fmt.Sprint(relays), func(t *testing.T) {
			t.Parallel()
			loseTheEndOfTheLogs(t, relays)
		})
	}
}

func loseTheEndOfTheLogs(t *testing.T, relays int) {
	t.Helper()
	const payload, sites, orders = 8 << 20, 2, 6
	odd := &oddVendor{}
	w := newWorld(t, sites, sandbox.Config{Seed: 31, Tame: true}, odd.wrap)
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	server := natstest.StartLimited(t, payload)
	delete(w.env, "RELAY_DATA_DIR")
	delete(w.env, "RELAY_NATS_LISTEN")
	w.env["RELAY_NATS_URL"], w.env["RELAY_STREAM_REPLICAS"], w.env["RELAY_ENCRYPTION_KEYS"] = server.URL(), "1",
		string(keys)
	healthy := w.newReceiver("healthy", relaytest.Healthy, map[string]any{"types": []string{"audatex.parts.order.*"}})
	start := func() (all []*harness.Process) {
		for range relays {
			all = append(all, w.start())
		}
		return all
	}
	living := start()
	w.connect()
	w.register()
	ids := w.createOrders(orders)
	change := func() {
		t.Helper()
		for _, id := range ids {
			if _, err := w.sandbox.ChangeOrder(id, sandbox.Change{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	harness.AwaitAccepted(t, orders, healthy)
	js, err := jetstream.New(server.Conn())
	if err != nil {
		t.Fatal(err)
	}
	ends := map[string]uint64{}
	for _, log := range []string{"relay_inbox", "relay_events"} {
		ends[log] = lastOf(t, js, log)
	}
	before := server.Copy()

	// What is lost: events that were delivered, and pages that wait for the vendor.
	change()
	harness.AwaitAccepted(t, 2*orders, healthy)
	harness.Eventually(t, "the callback's position is stored", func() string {
		if at := highestPosition(t, js); at <= ends["relay_events"] {
			return fmt.Sprintf("it is %d, and the log ended at %d", at, ends["relay_events"])
		}
		return ""
	})
	odd.refuse.Store(true)
	change()
	harness.Eventually(t, "what comes now waits", func() string {
		waiting := 0
		connections, err := harness.Items[harness.Connection](w.api(), "/v1/connections")
		for _, c := range connections {
			if c.Waiting != nil {
				waiting += *c.Waiting
			}
		}
		if err != nil || waiting < orders {
			return fmt.Sprintf("%d wait, %v", waiting, err)
		}
		return ""
	})
	left := server.Copy()
	for log := range ends {
		at := filepath.Join("jetstream", "$G", "streams", log)
		if err := os.RemoveAll(filepath.Join(left, at)); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(filepath.Join(left, at), os.DirFS(filepath.Join(before, at))); err != nil {
			t.Fatal(err)
		}
	}
	server.Lose(payload, left)
	for _, p := range living {
		if code := p.ExitCode(t); code != 1 {
			t.Errorf("exit code %d, want 1", code)
		}
	}
	last := bytes.TrimSpace(w.book.Tail(2)) // behind the last line end is nothing
	if !bytes.HasPrefix(last, []byte("relay: the logs: NATS has lost what was stored last")) ||
		!bytes.Contains(last, []byte("start it again")) {
		t.Errorf("the last line is %s", last)
	}
	if at := highestPosition(t, js); at > ends["relay_events"] {
		t.Errorf("a position is %d, beyond the end of the log at %d", at, ends["relay_events"])
	}

	odd.refuse.Store(false)
	start()
	change()
	harness.Eventually(t, "every order's last state is delivered", func() string {
		events := healthy.Events(t)
		for _, o := range w.sandbox.Ledger().Orders {
			of := events[o.ID]
			last := of[len(of)-1]
			if at, err := ledger.StateOf(o, len(o.States)-1, last); err != nil || at < 0 ||
				!strings.EqualFold(last.NotificationID(), o.Notifications[len(o.Notifications)-1].ID) {
				return fmt.Sprintf("the last of %d events of order %s is not of its last change: %v", len(of), o.ID, err)
			}
		}
		return ""
	})
	published := func(kind string) (n int, connections map[string]bool) {
		t.Helper()
		connections = map[string]bool{}
		events, err := harness.Items[struct {
			Data struct{ Details struct{ Connection string } }
		}](w.api(), "/v1/events?types=audatex.relay."+kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			connections[e.Data.Details.Connection] = true
		}
		return len(events), connections
	}
	if n, _ := published("log-clamped"); n == 0 {
		t.Error("log-clamped is not published")
	}
	harness.Eventually(t, "the gaps are published, and what they name is read again", func() string {
		if n, of := published("gap-suspected"); len(of) != sites { // a poll may have been announced as well
			return fmt.Sprintf("%d gaps of %v", n, of)
		}
		connections, err := harness.Items[harness.Connection](w.api(), "/v1/connections")
		if err != nil {
			return err.Error()
		}
		for _, c := range connections {
			if left := c.Unreconciled(); left != "" {
				return left
			}
		}
		return ""
	})
	healthy.CheckOrdered(t)
	healthy.CheckClean(t)
	var connection harness.Connection
	w.api().Must(t, http.MethodGet, "/v1/connections/"+w.sites[0], nil, &connection)
	if connection.GapSuspectedAt.IsZero() {
		t.Error("the connection shows no gap")
	}
	if code := w.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}

// lastOf returns where a stream ends.
func lastOf(t *testing.T, js jetstream.JetStream, stream string) uint64 {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

// highestPosition returns up to where some callback has read the log of events, by what is stored.
func highestPosition(t *testing.T, js jetstream.JetStream) (highest uint64) {
	t.Helper()
	kv, err := js.KeyValue(t.Context(), "relay_cursors")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := kv.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if !strings.Contains(key, ".callback.") && !strings.Contains(key, ".watermark.") {
			continue
		}
		var doc struct {
			Position uint64 `json:"position"`
		}
		e, err := kv.Get(t.Context(), key)
		if err != nil || json.Unmarshal(e.Value(), &doc) != nil {
			t.Fatalf("%s: %v", key, err)
		}
		highest = max(highest, doc.Position)
	}
	return highest
}
