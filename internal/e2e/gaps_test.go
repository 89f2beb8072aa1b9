package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
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

// TestGapsAreRepaired cuts responses of the queue after it was drained, lets a third of the order
// look-ups fail and kills the relay. Everything in a response that arrived in full reaches every
// receiver. In the end the last event of every order that the relay has seen matches the vendor's
// state, and the suspected gaps are the cuts and the polls that a kill interrupted.
func TestGapsAreRepaired(t *testing.T) {
	t.Parallel()
	kills, share := 3, 0.03 // a few cuts also in a short run
	if s := os.Getenv("RELAY_CRASH_KILLS"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil || kills < 1 {
			t.Fatalf("RELAY_CRASH_KILLS=%q is not a number of kills", s)
		}
		share = 0.01
	}
	seed := rand.Uint64()
	t.Logf("seed %d, %d kills", seed, kills)
	dice := rand.New(rand.NewPCG(seed, 3))
	c := newCrash(t, 6, sandbox.Config{Seed: seed, Tame: true})
	c.newReceiver("quick", relaytest.Healthy,
		map[string]any{"concurrency": 8, "types": []string{"audatex.parts.order.*", "audatex.relay.*"}})
	c.newReceiver("flaky", relaytest.OneInTen, map[string]any{"concurrency": 4})
	c.start()
	c.connect()
	c.register()
	harness.Eventually(t, "every connection is polled", func() string { return c.unsettled() })
	look := sandbox.Faults{Share500: 0.1, Share503: 0.1, ShareCut: 0.1,
		Operations: []sandbox.Operation{sandbox.OpReadOrder}}
	polls := sandbox.Faults{ShareCutAfterRead: share, ShareLatency: 0.5, Latency: 15 * time.Millisecond,
		Operations: []sandbox.Operation{sandbox.OpPoll}}
	if err := c.sandbox.SetFaults(polls, look); err != nil {
		t.Fatal(err)
	}
	l := c.startLoad(seed, 10*time.Millisecond)
	interrupted := map[string]bool{} // connection and time
	for range kills {
		moment := time.After(time.Duration(1000+dice.IntN(1500)) * time.Millisecond)
		<-moment
		c.end(syscall.SIGKILL)
		c.remains = append(c.remains, c.examine(c.archive))
		for _, site := range c.sites {
			intent := c.remains[len(c.remains)-1].polls[site].Intent
			if intent == nil {
				continue
			}
			if !c.archive.polls[intent.PollID] {
				interrupted[site+" "+relay.FormatTime(intent.At)] = true
			}
			for _, p := range c.archive.pages {
				if p.PollID == intent.PollID && p.Truncated {
					interrupted[site+" "+relay.FormatTime(intent.At)] = true
				}
			}
		}
		c.start()
	}
	l.end()
	if err := c.sandbox.SetFaults(look); err != nil { // no more cuts, or it would never come to rest
		t.Fatal(err)
	}
	harness.Eventually(t, "the queues are empty", func() string {
		if n := c.sandbox.Counters().NotificationsWaiting; n > 0 {
			return fmt.Sprintf("%d notifications wait", n)
		}
		return ""
	})
	pass := time.After(time.Second)
	<-pass
	if err := c.sandbox.SetFaults(); err != nil {
		t.Fatal(err)
	}
	for _, site := range c.sites { // what is held goes now, and not when its turn comes
		c.api().Must(t, http.MethodPatch, "/v1/connections/"+site, map[string]any{"pollIntervalSeconds": 0.2}, nil)
	}
	harness.Eventually(t, "everything is resolved, reconciled and delivered", func() string { return c.unsettled() })
	c.end(syscall.SIGTERM)
	c.remains = append(c.remains, c.examine(c.archive))
	c.checkRepaired(t)
	c.checkSuspected(t, interrupted)
}

// unsettled describes what has not come to its end yet; it returns "" if everything has.
func (c *crash) unsettled() string {
	connections, err := harness.Items[harness.Connection](c.api(), "/v1/connections?limit=500")
	if err != nil {
		return err.Error()
	}
	for _, conn := range connections {
		switch left := conn.Unreconciled(); {
		case conn.State != "active":
			return fmt.Sprintf("connection %s is %s", conn.ID, conn.State)
		case conn.Waiting == nil || *conn.Waiting > 0:
			return fmt.Sprintf("connection %s has notifications that wait", conn.ID)
		case left != "":
			return left
		}
	}
	for _, r := range c.receivers {
		var cb harness.Callback
		c.api().Must(c.t, http.MethodGet, "/v1/callbacks/"+r.ID, nil, &cb)
		if cb.Backlog == nil || *cb.Backlog > 0 {
			return fmt.Sprintf("callback %s: backlog %v", r.ID, cb.Backlog)
		}
	}
	return ""
}

// checkRepaired compares what every receiver has in the end with the vendor's ledger.
func (c *crash) checkRepaired(t *testing.T) {
	t.Helper()
	lost := map[string]bool{}
	for _, id := range c.sandbox.LostOrders() {
		lost[id] = true
	}
	found, unseen, repaired := 0, 0, 0
	for i, r := range c.receivers {
		r.CheckClean(t)
		r.CheckOrdered(t)
		got := r.Events(t)
		for _, o := range c.sandbox.Ledger().Orders {
			events := got[o.ID]
			told := map[string]int{}
			for _, e := range events {
				told[strings.ToLower(e.NotificationID())]++
			}
			missing := false // a notification that a kill cost, or a cut
			for _, n := range o.Notifications {
				_, stored := c.archive.pages[n.CorrelationID]
				switch times := told[strings.ToLower(n.ID)]; {
				case times > 1:
					t.Errorf("callback %s: notification %s of order %s has %d events", r.ID, n.ID, o.ID, times)
				case times == 0 && stored && !n.Lost:
					t.Errorf("callback %s: notification %s of order %s was carried in full and has no event",
						r.ID, n.ID, o.ID)
				case times == 0:
					missing = true
				}
			}
			if len(events) == 0 {
				if unseen++; !missing {
					t.Errorf("callback %s: order %s was never seen", r.ID, o.ID)
				}
				continue
			}
			last := events[len(events)-1]
			if at, err := ledger.StateOf(o, len(o.States)-1, last); err != nil || at < 0 {
				t.Errorf("callback %s: order %s: the last of %d events is not what the vendor says (notifications "+
					"lost: %t): %v", r.ID, o.ID, len(events), missing, err)
			}
			if i == 0 {
				found += ledger.Reconciled(events)
				if missing {
					repaired++
				}
			}
		}
	}
	counters := c.sandbox.Counters()
	t.Logf("%d orders, %d notifications handed out, %d lost in cut answers (%d orders by the vendor's count); %d "+
		"changes found by reading again, %d orders repaired, %d not seen by either receiver",
		counters.OrdersCreated, counters.NotificationsHandedOut, counters.NotificationsLost, len(lost), found,
		repaired, unseen/len(c.receivers))
}

// checkSuspected compares the suspected gaps with the cuts and the polls that were interrupted.
func (c *crash) checkSuspected(t *testing.T, interrupted map[string]bool) {
	t.Helper()
	told := map[string]bool{}
	runs := map[string]bool{}
	for site, starts := range c.details(t, relay.KindGapSuspected, "since") {
		for since, times := range starts {
			told[site+" "+since] = true
			if times > 1 {
				t.Errorf("connection %s: the gap since %s was told %d times", site, since, times)
			}
		}
	}
	for site, starts := range c.details(t, relay.KindReconciled, "startedAt") {
		for at, times := range starts {
			runs[site+" "+at] = true
			if times > 1 {
				t.Errorf("connection %s: the run of %s was told %d times", site, at, times)
			}
		}
	}
	for poll := range interrupted {
		if !told[poll] {
			t.Errorf("the poll %s was interrupted, and nobody was told", poll)
		}
	}
	cuts := int(c.sandbox.Counters().Faults["cutAfterRead"])
	if len(told) < cuts || len(told) > cuts+len(interrupted) {
		t.Errorf("%d gaps told for %d answers that were cut and %d polls that were interrupted:\n%s", len(told), cuts,
			len(interrupted), strings.Join(slices.Sorted(maps.Keys(told)), "\n"))
	}
	if len(told) > 0 && len(runs) == 0 {
		t.Error("no run was told")
	}
	t.Logf("%d answers cut, %d polls interrupted, %d gaps told, %d runs told",
		cuts, len(interrupted), len(told), len(runs))
}
