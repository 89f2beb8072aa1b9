package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/ledger"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

// crash is a crash test under way and what is known of it.
type crash struct {
	*world
	archive *archive
	remains []remains       // after each run
	ended   []time.Time     // when each run was gone
	missing map[string]bool // correlation ids of responses that no run has stored, and none will

	suspected map[string]map[string]bool // starts of interrupted polls, by connection
	refreshes map[string]map[string]bool // ids of interrupted refreshes, by connection
	costly    int                        // interrupted polls that lost a page
}

func newCrash(t *testing.T, sites int, vendor sandbox.Config) *crash {
	t.Helper()
	return &crash{
		world: newWorld(t, sites, vendor, nil), archive: newArchive(),
		missing: map[string]bool{}, suspected: map[string]map[string]bool{}, refreshes: map[string]map[string]bool{},
	}
}

// TestCrash kills the relay with SIGKILL at random moments under load.
func TestCrash(t *testing.T) {
	t.Parallel()
	kills := 5
	if s := os.Getenv("RELAY_CRASH_KILLS"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil || kills < 1 {
			t.Fatalf("RELAY_CRASH_KILLS=%q is not a number of kills", s)
		}
	}
	seed := rand.Uint64()
	if s := os.Getenv("RELAY_CRASH_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("RELAY_CRASH_SEED=%q: %v", s, err)
		}
	}
	t.Logf("RELAY_CRASH_KILLS=%d RELAY_CRASH_SEED=%d", kills, seed)
	dice := rand.New(rand.NewPCG(seed, 2))

	// Access tokens live so short that refreshes are always under way somewhere; latency makes
	// calls long enough to be hit.
	c := newCrash(t, 10, sandbox.Config{Seed: seed, AccessTokenLifetime: 2 * time.Second})
	if err := c.sandbox.SetFaults(
		sandbox.Faults{ShareLatency: 0.5, Latency: 15 * time.Millisecond,
			Operations: []sandbox.Operation{sandbox.OpPoll}},
		sandbox.Faults{ShareLatency: 1, Latency: 250 * time.Millisecond,
			Operations: []sandbox.Operation{sandbox.OpToken}},
		sandbox.Faults{ShareLatency: 0.2, Latency: 10 * time.Millisecond,
			Operations: []sandbox.Operation{sandbox.OpReadOrder}},
	); err != nil {
		t.Fatal(err)
	}
	c.newReceiver("quick", relaytest.Healthy, map[string]any{"concurrency": 8})
	c.newReceiver("steady", relaytest.Slow(10*time.Millisecond),
		map[string]any{"concurrency": 4, "types": []string{"audatex.parts.order.*", "audatex.relay.*"}})
	c.newReceiver("flaky", relaytest.OneInTen, map[string]any{"concurrency": 4})
	p := c.start()
	c.connect()
	c.register()
	l := c.startLoad(seed, 12*time.Millisecond)
	stopOperator := c.operator()
	for kill := range kills {
		if kill > 0 {
			p = c.begin()
		}
		moment := time.After(time.Duration(dice.IntN(300)) * time.Millisecond)
		if dice.IntN(5) > 0 { // else it is hit while it starts
			select {
			case <-p.Serves:
			case <-p.Exited:
				t.Fatalf("the relay ended by itself: %v\n%s", p.Err, c.book.Tail(40))
			}
			moment = time.After(time.Duration(100+dice.IntN(1400)) * time.Millisecond)
		}
		<-moment
		if code := c.end(syscall.SIGKILL); code != -1 {
			t.Fatalf("the relay ended with code %d before it was killed\n%s", code, c.book.Tail(40))
		}
		c.autopsy()
		t.Log(c.tellRun(len(c.remains) - 1))
	}
	c.start()
	settled := time.After(2 * time.Second) // some normal life at the end
	<-settled
	l.end()
	c.awaitDrained()
	stopOperator()
	if code := c.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	c.autopsy()
	c.verify(t)
}

// autopsy reads what the run that has just ended had stored.
func (c *crash) autopsy() {
	c.t.Helper()
	r := c.examine(c.archive)
	c.remains, c.ended = append(c.remains, r), append(c.ended, time.Now())
	// pages that this end cost: by connection, by correlation id, when they were handed out
	lost := map[string]map[string]time.Time{}
	for _, o := range c.sandbox.Ledger().Orders {
		for _, n := range o.Notifications {
			if _, stored := c.archive.pages[n.CorrelationID]; stored || n.HandedOutAt.IsZero() ||
				c.missing[n.CorrelationID] {
				continue
			}
			put(lost, siteOf(n.Site), n.CorrelationID, n.HandedOutAt)
		}
	}
	for _, site := range c.sites {
		intent, was := r.interrupted(site, c.archive)
		if was {
			put(c.suspected, site, relay.FormatTime(intent.At), true)
		}
		for id, at := range lost[site] {
			c.missing[id] = true
			c.costly++
			if !was || at.Before(intent.At) || len(lost[site]) > 1 {
				c.t.Errorf("run %d: the answer %s to connection %s, handed out at %s, is not stored, and the "+
					"interrupted poll (%t) of %s does not explain it",
					len(c.remains)-1, id, site, at.UTC(), was, intent.At.UTC())
			}
		}
		if id := r.refreshes[site]; id != "" {
			put(c.refreshes, site, id, true)
		}
	}
}

func put[V any](m map[string]map[string]V, a, b string, v V) {
	if m[a] == nil {
		m[a] = map[string]V{}
	}
	m[a][b] = v
}

// siteOf is our name of a vendor's site.
func siteOf(vendor string) string { return "site-" + strings.TrimPrefix(vendor, "V") }

// awaitDrained waits until everything that was handed out and stored has been published and
// delivered.
func (c *crash) awaitDrained() {
	c.t.Helper()
	harness.Eventually(c.t, "everything drains", func() string {
		counters := c.sandbox.Counters()
		if counters.NotificationsWaiting > 0 {
			return fmt.Sprintf("%d notifications wait at the vendor's", counters.NotificationsWaiting)
		}
		want := 0
		for _, list := range ledger.HandedOut(c.sandbox.Ledger(), c.isMissing) {
			want += len(list)
		}
		for _, r := range c.receivers {
			if got := r.AcceptedEvents(); got < want { // cheap: most turns end here
				return fmt.Sprintf("callback %s has %d of %d events", r.ID, got, want)
			}
			orders := 0
			for _, list := range r.Events(c.t) {
				orders += len(list)
			}
			if orders < want {
				return fmt.Sprintf("callback %s has %d of %d events", r.ID, orders, want)
			}
		}
		var cb harness.Callback
		for _, r := range c.receivers {
			c.api().Must(c.t, http.MethodGet, "/v1/callbacks/"+r.ID, nil, &cb)
			if cb.Backlog == nil || *cb.Backlog > 0 {
				return fmt.Sprintf("callback %s: health %s, backlog %v", r.ID, cb.Health, cb.Backlog)
			}
		}
		connections, err := harness.Items[harness.Connection](c.api(), "/v1/connections?limit=500")
		if err != nil {
			return err.Error()
		}
		for _, conn := range connections {
			if conn.State != "active" {
				return fmt.Sprintf("connection %s is %s", conn.ID, conn.State)
			}
			if left := conn.Unreconciled(); left != "" {
				return left
			}
		}
		return ""
	})
}

func (c *crash) isMissing(n sandbox.NotificationRecord) bool { return c.missing[n.CorrelationID] }
