package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/relaytest"
)

// toll is the effect of one end of the relay on one callback.
type toll struct {
	inFlight int // attempts that the receiver was still busy with
	unstored int // events it had accepted, that came in this run, and that the stored cursor does not know of
	repeats  int // events that came again in the next run though they had come before
}

// verify checks everything that the crash test promises.
func (c *crash) verify(t *testing.T) {
	t.Helper()
	c.book.CheckWellFormed(t)
	for _, r := range c.receivers {
		r.CheckClean(t)
		r.CheckOrdered(t)
		c.checkDelivered(t, r)
		c.checkRepeats(t, r)
		c.checkMemory(t, r)
	}
	// Every notification that was stored has exactly one event, with what the vendor sent. The
	// receivers have the same bytes as the log (checkDelivered), so one of them stands for it.
	c.receivers[0].CheckLedger(t, c.sandbox.Ledger(), c.isMissing)
	c.checkOneEventEach(t)
	c.checkGaps(t)
	c.checkRefreshes(t)
	counters := c.sandbox.Counters()
	if counters.TrapCalls != 0 {
		t.Errorf("%d calls to addresses that came in messages", counters.TrapCalls)
	}
	t.Logf("%d ends, %d notifications handed out, %d events in the log, %d answers lost by %d interrupted polls, %d "+
		"refreshes, %d of them interrupted, %d spent refresh tokens used, %d new consents",
		len(c.remains), counters.NotificationsHandedOut, len(c.archive.events), c.costly, count(c.suspected),
		counters.TokenRefreshes,
		count(c.refreshes), counters.SpentRefreshTokens, c.consents()-len(c.sites))
}

func count[V any](m map[string]map[string]V) int {
	n := 0
	for _, inner := range m {
		n += len(inner)
	}
	return n
}

// consents returns how many consents were given in all.
func (c *crash) consents() int {
	n := 0
	for _, list := range c.grants {
		n += len(list)
	}
	return n
}

// wants reports whether a callback should get an entry of the log.
func wants(r *harness.Receiver, e logged) bool {
	return r.ID == "steady" || !strings.HasPrefix(e.Type, "audatex.relay.")
}

// checkDelivered fails unless a callback has accepted every entry of the log that it wants, byte
// for byte, and nothing else. Nothing that a stored cursor was through with may have been missing
// then.
func (c *crash) checkDelivered(t *testing.T, r *harness.Receiver) {
	t.Helper()
	accepted := map[string]int{} // the first run in which an event was accepted
	for _, a := range r.Deliveries() {
		if _, ok := accepted[a.Event]; !ok && a.Status/100 == 2 {
			accepted[a.Event] = a.Run
		}
	}
	bad, bodies := 0, r.Bodies()
	fail := func(format string, a ...any) {
		if bad++; bad <= 5 {
			t.Errorf("callback %s: "+format, append([]any{r.ID}, a...)...)
		}
	}
	for _, e := range c.archive.events {
		id := e.id
		if !wants(r, e) {
			continue
		}
		run, ok := accepted[id]
		if !ok {
			fail("event %s at %d was never delivered", id, e.Seq)
			continue
		}
		if string(bodies[id]) != string(e.Body) {
			fail("event %s: the log has\n%s\ndelivered was\n%s", id, e.Body, bodies[id])
		}
		for end := range run {
			if c.remains[end].claimed(r.ID, e.Seq, e.Order) {
				fail("event %s at %d: the cursor stored in run %d was through with it, it was first delivered in "+
					"run %d", id, e.Seq, end, run)
				break
			}
		}
	}
	for _, a := range r.Deliveries() {
		if _, known := c.archive.byID[a.Event]; !known {
			fail("event %s was delivered and is not in the log", a.Event)
		}
	}
	if bad > 5 {
		t.Errorf("callback %s: … and %d more", r.ID, bad-5)
	}
}

// checkRepeats fails if anything came again that need not: within one run nothing that was
// accepted, and in a later one nothing that the stored cursor was through with. What is left are
// the attempts in flight at the end of a run and what was settled since the cursor's last write.
func (c *crash) checkRepeats(t *testing.T, r *harness.Receiver) {
	t.Helper()
	tolls := c.tolls(r)
	seen := map[string]bool{} // accepted, or not known to be refused, in an earlier run
	accepted := map[string]bool{}
	arrivals := r.Deliveries()
	run := 0
	for _, a := range arrivals {
		if a.Run != run {
			run = a.Run
			accepted = map[string]bool{}
		}
		if accepted[a.Event] {
			t.Errorf("callback %s: event %s came again in run %d, in which it had been accepted", r.ID, a.Event, a.Run)
		}
		e := c.archive.byID[a.Event]
		if a.Run > 0 && c.remains[a.Run-1].settled(r.ID, e.Seq, e.Order) {
			t.Errorf("callback %s: event %s at %d came in run %d, though the cursor stored before was through with "+
				"it (seen before: %t): %s", r.ID, a.Event, e.Seq, a.Run, seen[a.Event],
				c.remains[a.Run-1].tell(r.ID, e.Order))
		}
		if accepted[a.Event] = a.Status/100 == 2; accepted[a.Event] {
			seen[a.Event] = true
		}
	}
	var sum toll
	for end, toll := range tolls {
		sum.inFlight, sum.unstored, sum.repeats = sum.inFlight+toll.inFlight,
			sum.unstored+toll.unstored, sum.repeats+toll.repeats
		concurrency, _ := r.Settings["concurrency"].(int)
		if toll.inFlight > concurrency {
			t.Errorf("callback %s: %d attempts in flight at the end of run %d, its concurrency is %d",
				r.ID, toll.inFlight, end, concurrency)
		}
		if limit := maxUnstored(concurrency); toll.unstored > limit {
			t.Errorf("callback %s: %d settlements were not stored at the end of run %d; at most %d can be",
				r.ID, toll.unstored, end, limit)
		}
	}
	t.Logf("callback %s: %d repeats; in flight at the ends %d, settled since the cursor's last write %d",
		r.ID, sum.repeats, sum.inFlight, sum.unstored)
	if sum.repeats > sum.inFlight+sum.unstored {
		t.Errorf("callback %s: more repeats than attempts in flight and settlements not stored", r.ID)
	}
}

// checkMemory fails if what is stored of a callback ever forgets: an entry that it was through with
// after one run stays so.
func (c *crash) checkMemory(t *testing.T, r *harness.Receiver) {
	t.Helper()
	for _, e := range c.archive.events {
		through := -1
		for end, remains := range c.remains {
			switch settled := remains.settled(r.ID, e.Seq, e.Order); {
			case settled && through < 0:
				through = end
			case !settled && through >= 0:
				t.Errorf("callback %s: what was stored after run %d was through with event %s at %d, what was stored "+
					"after run %d is not\n%s\n%s", r.ID, through, e.id, e.Seq, end,
					c.remains[through].tell(r.ID, e.Order), remains.tell(r.ID, e.Order))
				return
			}
		}
	}
}

// maxUnstored is the most settlements that can be unstored: a round of the flusher takes up to
// twice the window that a callback has at hand (internal/dispatcher), as many may gather while it
// is being written, and each time as many more as were in flight.
func maxUnstored(concurrency int) int {
	window := 4*concurrency + 32
	return 2 * (2*window + concurrency)
}

// tolls returns the effect of each end of the relay on a callback.
func (c *crash) tolls(r *harness.Receiver) []toll {
	tolls := make([]toll, len(c.remains))
	// The run of an event's last arrival, and whether it has ever been accepted or got no response:
	// then it counts as known.
	last, known := map[string]*relaytest.Delivery{}, map[string]bool{}
	leave := func(a *relaytest.Delivery) {
		if a.Run >= len(c.remains) || !known[a.Event] {
			return
		}
		switch e := c.archive.byID[a.Event]; {
		case a.Status == 0:
			tolls[a.Run].inFlight++
		case !c.remains[a.Run].settled(r.ID, e.Seq, e.Order):
			tolls[a.Run].unstored++
		}
	}
	for _, a := range r.Deliveries() {
		if before := last[a.Event]; before != nil && before.Run < a.Run {
			leave(before)
			if known[a.Event] {
				tolls[a.Run-1].repeats++
			}
		}
		last[a.Event] = &a
		known[a.Event] = known[a.Event] || a.Status == 0 || a.Status/100 == 2
	}
	for _, a := range last {
		leave(a)
	}
	return tolls
}

// tellRun describes what the end of a run found.
func (c *crash) tellRun(run int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "run %d:", run)
	for _, r := range c.receivers {
		toll := c.tolls(r)[run]
		fmt.Fprintf(&b, " %s: in flight %d, settled since the cursor's write %d;", r.ID, toll.inFlight, toll.unstored)
	}
	polls := 0
	for _, site := range c.sites {
		if _, was := c.remains[run].interrupted(site, c.archive); was {
			polls++
		}
	}
	fmt.Fprintf(&b, " polls interrupted %d, refreshes interrupted %d", polls, len(c.remains[run].refreshes))
	return b.String()
}
