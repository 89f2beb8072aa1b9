package cluster

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/ledger"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

// findings gathers what the checks found wrong: a mutant must make them find something, and nothing
// else may.
type findings struct {
	list []string
	by   map[string]int
}

// most is how many findings of a kind are reported.
const most = 5

func (f *findings) add(kind, format string, a ...any) {
	if f.by == nil {
		f.by = map[string]int{}
	}
	if f.by[kind]++; f.by[kind] <= most {
		f.list = append(f.list, kind+": "+fmt.Sprintf(format, a...))
	}
}

// The kinds of findings.
const (
	notDelivered   = "an event was not delivered"
	notStored      = "what the vendor handed out is lost"
	notOnce        = "a notification has not exactly one event"
	outOfOrder     = "events of one order came in the wrong order"
	unrepaired     = "an order that the relay has seen is not up to date"
	unlikeLedger   = "events differ from what the vendor said"
	badDelivery    = "a delivery was no good"
	outsideLease   = "a replica worked on a shard that it did not hold"
	twoOwners      = "two replicas held one shard"
	takenLate      = "the shards of a killed replica were taken late"
	overwritten    = "a document was overwritten under a lower epoch"
	pollsOverlap   = "two polls of one connection overlapped"
	tokensMisused  = "a spent refresh token was used too often"
	notWell        = "a connection did not end well"
	relayMisspoke  = "a relay's log is not well-formed"
	calledTheTrap  = "an address that came in a message was called"
	neverQuietened = "the cluster did not come to rest"
)

func (f *findings) tell(t *testing.T) {
	t.Helper()
	for _, line := range f.list {
		t.Error(line)
	}
	for kind, n := range f.by {
		if n > most {
			t.Errorf("%s: … and %d more", kind, n-most)
		}
	}
}

// lost is a response of the vendor's that carried something and did not get into the inbox, or not
// as a whole.
type lost struct {
	call
	connection string
	cut        bool // it did not go out whole
}

// lostAnswers returns them all.
func (w *world) lostAnswers(a archive) []lost {
	calls := map[string]call{}
	for _, c := range w.vendor.all() {
		calls[c.answer] = c
	}
	seen := map[string]bool{}
	var list []lost
	for _, o := range w.vendor.Ledger().Orders {
		for _, n := range o.Notifications {
			if _, stored := a.answer[n.CorrelationID]; stored && !n.Lost ||
				n.HandedOutAt.IsZero() || seen[n.CorrelationID] {
				continue
			}
			seen[n.CorrelationID] = true
			list = append(list, lost{calls[n.CorrelationID], siteOf(n.Site), n.Lost})
		}
	}
	return list
}

// lossWindow is how long after a response its relay may have been killed, or its network cut, to be
// the reason for its loss: as long as the store may take no writes while NATS servers come and go.
const lossWindow = 45 * time.Second

// explained returns why a response may be lost, "" if it may not be. Only the death of the process
// that held it excuses a loss, or the wire itself, and it must have been reported as a suspected
// gap.
func (w *world) explained(l lost, gaps map[string][]time.Time) (why string, unexplained string) {
	switch {
	case l.cut:
		why = "cut on the wire"
	default:
		for _, h := range w.hurtsSoFar() {
			if h.replica == l.replica && h.kind == killRelay && h.dead.After(l.began) &&
				h.began.Sub(l.ended) < lossWindow {
				why = "its relay was killed"
			}
		}
	}
	if why == "" {
		return "",
			fmt.Sprintf("the answer %s, given to replica %d for connection %s at %s, is in no inbox, and its relay "+
				"was not killed", l.answer, l.replica, l.connection, l.began.UTC())
	}
	bound := w.pollBound()
	for _, since := range gaps[l.connection] {
		if !since.After(l.began.Add(time.Millisecond)) && l.began.Sub(since) < bound {
			return why, ""
		}
	}
	return why,
		fmt.Sprintf("the answer %s, given to replica %d for connection %s at %s, is lost (%s), and no suspected gap "+
			"tells of it (told: %v)", l.answer, l.replica, l.connection, l.began.UTC(), why, gaps[l.connection])
}

// pollBound is the longest time that an intent to poll claims for itself.
func (w *world) pollBound() time.Duration {
	bound := time.Second
	for _, list := range w.history.bucket("polls") {
		for _, r := range list {
			var doc struct {
				Intent *struct{ At, Deadline time.Time } `json:"intent"`
			}
			if !r.removed && json.Unmarshal(r.body, &doc) == nil && doc.Intent != nil {
				bound = max(bound, doc.Intent.Deadline.Sub(doc.Intent.At))
			}
		}
	}
	return bound
}

// matches reports whether a callback should get an event.
func matches(r *harness.Receiver, e logged) bool {
	if sites, ok := r.Settings["sites"].([]string); ok && !slices.Contains(sites, e.site) {
		return false
	}
	return e.kind == "" || r.Settings["types"] != nil
}

// unrest describes what has not come to its end yet; it returns "" if everything has.
func (w *world) unrest(a archive) string {
	if n := w.vendor.Counters().NotificationsWaiting; n > 0 {
		return fmt.Sprintf("%d notifications wait at the vendor's", n)
	}
	gaps := a.said(w.t, "gap-suspected", "since")
	for _, l := range w.lostAnswers(a) {
		if _, unexplained := w.explained(l, gaps); unexplained != "" {
			return unexplained
		}
	}
	entries := 0
	for _, p := range a.answer {
		entries += p.entries
	}
	published := 0
	for _, e := range a.events {
		if e.inbox != "" {
			published++
		}
	}
	if published < entries {
		return fmt.Sprintf("%d of %d notifications are published", published, entries)
	}
	for _, r := range w.receivers {
		accepted := acceptedBy(r)
		missing := 0
		for _, e := range a.events {
			if matches(r, e) && !accepted[e.id] {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Sprintf("callback %s lacks %d events", r.ID, missing)
		}
	}
	api, ok := w.anyAPI()
	if !ok {
		return "no relay serves"
	}
	connections, err := harness.Items[harness.Connection](api, "/v1/connections?limit=500")
	if err != nil {
		return err.Error()
	}
	for _, c := range connections {
		if c.State != "active" {
			return fmt.Sprintf("connection %s is %s", c.ID, c.State)
		}
		if left := c.Unreconciled(); left != "" {
			return left
		}
	}
	return ""
}

func acceptedBy(r *harness.Receiver) map[string]bool {
	accepted := map[string]bool{}
	for _, a := range r.Deliveries() {
		if a.Status/100 == 2 {
			accepted[a.Event] = true
		}
	}
	return accepted
}

// rest waits until everything that was handed out and stored has been published and delivered, and
// returns what the logs hold then. What is still missing when patience ends is a finding.
func (w *world) rest(f *findings, patience time.Duration) archive {
	w.t.Helper()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		a, err := w.readArchive()
		var missing string
		if err != nil {
			missing = err.Error()
		} else {
			missing = w.unrest(a)
		}
		if missing == "" { // what was published while it was looked at belongs to it
			if a, err = w.readArchive(); err == nil {
				return a
			}
			missing = err.Error()
		}
		if time.Now().After(deadline) {
			f.add(neverQuietened, "within %s: %s", patience, missing)
			return a
		}
	}
}

// checkDelivery compares the logs with the vendor's ledger, and every callback with the log.
func (w *world) checkDelivery(f *findings, a archive) {
	gaps := a.said(w.t, "gap-suspected", "since")
	for _, l := range w.lostAnswers(a) {
		if _, unexplained := w.explained(l, gaps); unexplained != "" {
			f.add(notStored, "%s", unexplained)
		}
	}
	w.checkOneEventEach(f, a)
	for _, r := range w.receivers {
		checkReceived(f, r, a)
	}
	w.checkLedger(f, a)
	if n := w.vendor.Counters().TrapCalls; n > 0 {
		f.add(calledTheTrap, "%d times", n)
	}
}

// checkOneEventEach: every notification of every stored page has exactly one event.
func (w *world) checkOneEventEach(f *findings, a archive) {
	events := map[string]string{}
	for _, e := range a.events {
		if e.inbox == "" {
			continue
		}
		if other, twice := events[e.inbox]; twice {
			f.add(notOnce, "%s has two: %s and %s", e.inbox, other, e.id)
		}
		events[e.inbox] = e.id
	}
	for _, p := range a.answer {
		for index := range p.entries {
			ref := fmt.Sprintf("%s/%d/%d", p.connection, p.seq, index)
			if events[ref] == "" {
				f.add(notOnce, "%s has none", ref)
			}
			delete(events, ref)
		}
	}
	for ref, id := range events {
		f.add(notOnce, "event %s is of %s, which is not in the inbox", id, ref)
	}
}

// checkReceived: a callback has accepted all that it should get, byte for byte, and nothing else,
// each order's events first in the order of their sequences.
func checkReceived(f *findings, r *harness.Receiver, a archive) {
	accepted := acceptedBy(r)
	bodies := r.Bodies()
	for _, e := range a.events {
		switch {
		case !matches(r, e):
		case !accepted[e.id]:
			f.add(notDelivered, "callback %s never accepted %s, which stands in the log at %d since %s",
				r.ID, e.id, e.seq, e.at.UTC())
		case string(bodies[e.id]) != string(e.body):
			f.add(badDelivery, "callback %s: event %s differs from the log:\n%s\n%s", r.ID, e.id, bodies[e.id], e.body)
		}
	}
	first := map[string]time.Time{}
	for _, arrival := range r.Deliveries() {
		if _, known := first[arrival.Event]; !known {
			first[arrival.Event] = arrival.At
		}
	}
	for id := range bodies {
		// Polls go on while nothing happens, and one whose response is lost may be reported at any
		// time.
		if first[id].After(a.read) {
			continue
		}
		if e, known := a.byID[id]; !known || !matches(r, e) {
			f.add(badDelivery, "callback %s was sent %s, which is not in the log (%t) or not for it", r.ID, id, !known)
		}
	}
	for _, problem := range r.Problems() {
		f.add(badDelivery, "callback %s: %s", r.ID, problem)
	}
	for subject, list := range relaytest.Firsts(r.Deliveries()) {
		for i := 1; i < len(list); i++ {
			if list[i].Sequence <= list[i-1].Sequence { // sixteen digits each
				f.add(outOfOrder, "callback %s: order %s: event %s (from %s at %s) came after %s (from %s at %s)", r.ID,
					subject, list[i].Event, list[i].Sender, list[i].At.UTC(), list[i-1].Event,
					list[i-1].Sender, list[i-1].At.UTC())
			}
		}
	}
}

// checkLedger compares the events with what the vendor did to each order. Notifications are taken
// in the order of the inbox: a relay that was suspended may store a page after its successor has
// stored a later one.
func (w *world) checkLedger(f *findings, a archive) {
	records := w.vendor.Ledger()
	answers := map[string][]sandbox.NotificationRecord{}
	for _, o := range records.Orders {
		for _, n := range o.Notifications {
			if _, stored := a.answer[n.CorrelationID]; stored && !n.HandedOutAt.IsZero() {
				answers[n.CorrelationID] = append(answers[n.CorrelationID], n)
			}
		}
	}
	given := map[string][]sandbox.NotificationRecord{}
	for _, p := range slices.SortedFunc(maps.Values(a.answer), func(x, y page) int {
		return cmp.Compare(x.seq, y.seq)
	}) {
		list := answers[p.answer]
		slices.SortStableFunc(list, func(x, y sandbox.NotificationRecord) int { return x.QueuedAt.Compare(y.QueuedAt) })
		for _, n := range list[:min(len(list), p.entries)] { // of a response that was cut, the first ones came whole
			given[n.Order] = append(given[n.Order], n)
		}
	}
	got := map[string][]ledger.Event{}
	for _, e := range a.events {
		if e.kind != "" {
			continue
		}
		parsed, err := ledger.ParseEvent(e.body)
		if err != nil {
			f.add(unlikeLedger, "event %s: %v", e.id, err)
			continue
		}
		got[e.subject] = append(got[e.subject], parsed)
	}
	for _, o := range records.Orders {
		slices.SortFunc(got[o.ID], func(x, y ledger.Event) int { return strings.Compare(x.Sequence, y.Sequence) })
		if err := ledger.CheckOrder(o, given[o.ID], got[o.ID]); err != nil {
			f.add(unlikeLedger, "order %s: %v", o.ID, err)
		}
		if n := len(got[o.ID]); n > 0 {
			if at, err := ledger.StateOf(o, len(o.States)-1, got[o.ID][n-1]); err != nil || at < 0 {
				f.add(unrepaired, "order %s: the last of %d events is not what the vendor says: %v", o.ID, n, err)
			}
		}
		delete(got, o.ID)
	}
	for id, list := range got {
		f.add(unlikeLedger, "%d events of order %s, which the vendor does not have", len(list), id)
	}
}

// checkWell: every connection is active in the end.
func (w *world) checkWell(f *findings) {
	api, ok := w.anyAPI()
	if !ok {
		f.add(notWell, "no relay serves")
		return
	}
	for _, site := range w.sites {
		var c harness.Connection
		answer, err := api.Call(http.MethodGet, "/v1/connections/"+site, nil)
		if err != nil || answer.Status != http.StatusOK ||
			json.Unmarshal(answer.Body, &c) != nil || c.State != "active" {
			f.add(notWell, "%s: %v, %d, %s", site, err, answer.Status, answer.Body)
		}
	}
}
