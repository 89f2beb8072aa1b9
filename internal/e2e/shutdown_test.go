package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

// TestShutdown ends the relay with SIGTERM under load, several times: attempts under way end,
// everything that happened is stored, and the next start repeats nothing. Only the attempt at a
// receiver that does not respond within the grace time is broken off.
func TestShutdown(t *testing.T) {
	t.Parallel()
	c := newCrash(t, 5, sandbox.Config{Seed: 11, AccessTokenLifetime: 2 * time.Second})
	c.env["RELAY_SHUTDOWN_GRACE"] = "15s"
	c.newReceiver("quick", relaytest.Healthy, map[string]any{"concurrency": 8})
	c.newReceiver("steady", relaytest.Slow(250*time.Millisecond),
		map[string]any{"concurrency": 32, "types": []string{"audatex.parts.order.*", "audatex.relay.*"}})
	c.start()
	c.connect()
	c.register()
	l := c.startLoad(11, 12*time.Millisecond)
	busy := func(more int) {
		before := c.receivers[0].AcceptedEvents()
		harness.AwaitAccepted(t, before+more, c.receivers[0])
	}
	for range 3 {
		busy(80)
		c.endCleanly(t)
		c.start()
	}
	busy(80)
	l.end()
	c.awaitDrained()
	c.endCleanly(t)
	c.verify(t)
	if len(c.missing) > 0 || count(c.suspected) > 0 || count(c.refreshes) > 0 {
		t.Errorf("answers lost %d, polls interrupted %d, refreshes interrupted %d; a graceful end was to interrupt "+
			"none",
			len(c.missing), count(c.suspected), count(c.refreshes))
	}
}

// endCleanly ends the relay and fails if it left anything open: an attempt, a settlement that is
// not stored, a call of the vendor's.
func (c *crash) endCleanly(t *testing.T) {
	t.Helper()
	if code := c.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	c.autopsy()
	run := len(c.remains) - 1
	t.Log(c.tellRun(run))
	for _, r := range c.receivers {
		if toll := c.tolls(r)[run]; toll.inFlight > 0 || toll.unstored > 0 {
			t.Errorf("callback %s: at the end of run %d %d attempts were broken off and %d settlements were not "+
				"stored; want none", r.ID, run, toll.inFlight, toll.unstored)
		}
	}
}

// TestShutdownWithHangingReceiver ends the relay while a receiver does not respond. The relay waits
// for it no longer than the grace time and exits with 0 all the same. After the restart only what
// hung comes again.
func TestShutdownWithHangingReceiver(t *testing.T) {
	t.Parallel()
	c := newCrash(t, 2, sandbox.Config{Seed: 12})
	c.env["RELAY_SHUTDOWN_GRACE"] = "1s"
	quick := c.newReceiver("quick", relaytest.Healthy, map[string]any{"concurrency": 8})
	stuck := c.newReceiver("stuck", relaytest.Hanging, map[string]any{"concurrency": 3})
	c.start()
	c.connect()
	c.register()
	for n := range 20 {
		if _, err := c.sandbox.CreateOrder(vendorSite(c.sites[n%2]), sandbox.OrderOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	harness.AwaitAccepted(t, 20, quick)
	harness.Eventually(t, "attempts hang", func() string {
		if n := len(stuck.Deliveries()); n < 3 {
			return fmt.Sprintf("%d do", n)
		}
		return ""
	})
	if code := c.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	c.autopsy()
	if toll := c.tolls(stuck)[0]; toll.inFlight != 3 {
		t.Errorf("%d attempts were broken off, want the 3 that hung", toll.inFlight)
	}
	if toll := c.tolls(quick)[0]; toll.inFlight > 0 || toll.unstored > 0 {
		t.Errorf("a hanging neighbour left callback quick with %d attempts broken off and %d settlements not stored",
			toll.inFlight, toll.unstored)
	}
	stuck.Behave = relaytest.Healthy // no delivery is under way
	c.start()
	harness.AwaitAccepted(t, 20, stuck)
	c.awaitDrained()
	if code := c.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	c.autopsy()
	c.verify(t)
	if n := len(quick.Deliveries()); n != 20 {
		t.Errorf("callback quick had %d deliveries of 20 events", n)
	}
	if n := len(stuck.Deliveries()); n != 23 {
		t.Errorf("callback stuck had %d deliveries, want 20 and the 3 that hung", n)
	}
}
