package resolver_test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/resolver"
	"github.com/audatex-relay/relay/internal/store"
)

func vendorError(o audatex.Outcome) error {
	return &audatex.Error{Operation: audatex.OpOrder, Outcome: o}
}

// clock is the time plus what a test puts it forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

// What waits for one order shares one reading, which begins after the last of it has arrived.
func TestSharedReading(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	order := orderID(1)
	r.vendor.set(order, "New")
	underWay, goOn := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	var blocked atomic.Bool
	r.vendor.during = func(string, string) {
		if blocked.CompareAndSwap(false, true) {
			close(underWay)
			<-goOn
		}
	}
	r.run(r.config(r.store))
	t.Cleanup(release) // after run's own, so that a failure does not wait for ever
	r.page("leeds", "leeds", created(order))
	<-underWay
	var last uint64
	for range 5 {
		last = r.page("leeds", "leeds", updated(order), updated(order))
	}
	arrived := time.Now()
	r.vendor.set(order, "Confirmed")
	// The runner must have read them before the first reading ends; another order shows that it has.
	other := orderID(2)
	r.vendor.set(other, "New")
	r.page("leeds", "leeds", created(other))
	eventually(t, "the other order's event", func() bool { return len(r.events("leeds", other)) == 1 })
	release()
	r.settled("leeds", last)

	if n := len(r.events("leeds", order)); n != 11 {
		t.Errorf("%d events, want 11", n)
	}
	var gets []get
	r.vendor.mu.Lock()
	for _, g := range r.vendor.gets {
		if g.order == order {
			gets = append(gets, g)
		}
	}
	r.vendor.mu.Unlock()
	if len(gets) != 2 || !gets[1].began.After(arrived) {
		t.Errorf("%d readings, want 2, the second after the last arrival", len(gets))
	}
}

// An order that is larger than the store takes is set aside at once, whether that shows when it is read or when its event is published:
// trying again would read the same.
func TestAnOrderThatIsTooLargeIsSetAsideAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	unread, unpublished := orderID(1), orderID(2)
	r.vendor.set(unread, "New")
	r.vendor.set(unpublished, strings.Repeat("x", r.store.MaxMessage()))
	r.vendor.fail = func(_, order string) error {
		if order == unread {
			return vendorError(audatex.TooLarge)
		}
		return nil
	}
	defer r.run(r.config(r.store))()
	page := r.page("leeds", "leeds", updated(unread), updated(unpublished))
	r.settled("leeds", page)
	u := r.unresolved()
	if len(u) != 2 || r.vendor.count() != 2 {
		t.Fatalf("%d readings, unresolved: %+v", r.vendor.count(), u)
	}
	for _, doc := range u {
		if doc.Reason != "too-large" || !strings.Contains(doc.Detail, fmt.Sprintf("NATS takes %d bytes", r.store.MaxMessage())) {
			t.Errorf("%s: %s", doc.Reason, doc.Detail)
		}
	}
}

func TestRefusedForAnHour(t *testing.T) {
	t.Parallel()
	for _, outcome := range []audatex.Outcome{audatex.NotFound, audatex.Forbidden, audatex.Malformed} {
		t.Run(outcome.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.connect("leeds", "leeds")
			missing, fine := orderID(1), orderID(2)
			r.vendor.set(fine, "New")
			r.vendor.set(missing, "New")
			var back atomic.Bool
			r.vendor.fail = func(_, order string) error {
				if order == missing && !back.Load() {
					return vendorError(outcome)
				}
				return nil
			}
			c := r.config(r.store)
			clk, reg := &clock{}, prometheus.NewRegistry()
			c.Now, c.Metrics = clk.now, resolver.NewMetrics(reg)
			stop := r.run(c)
			first := r.page("leeds", "leeds", updated(missing), updated(fine))
			eventually(t, "the other order's event", func() bool { return len(r.events("leeds", fine)) == 1 })
			tried := r.vendor.count()
			eventually(t, "more tries", func() bool { return r.vendor.count() > tried+3 })
			clk.forward(59 * time.Minute)
			tried = r.vendor.count()
			eventually(t, "more tries", func() bool { return r.vendor.count() > tried+3 })
			if n := len(r.unresolved()); n != 0 {
				t.Fatalf("%d set aside before the hour", n)
			}
			clk.forward(2 * time.Minute)
			r.settled("leeds", first)
			stop()
			u := r.unresolved()
			if len(u) != 1 || u[0].Reason != outcome.String() || u[0].ID != fmt.Sprintf("leeds.%d-0", first) || u[0].Order != missing || !strings.Contains(string(u[0].Raw), "PARTS.ORDER") {
				t.Fatalf("unresolved: %+v", u)
			}
			if n := r.operational(relay.KindOrderUnresolved); n != 1 {
				t.Errorf("%d operational events, want 1", n)
			}
			if lint, err := testutil.GatherAndLint(reg); err != nil || len(lint) > 0 {
				t.Errorf("metrics: %v %v", lint, err)
			}

			// An operator's retry resolves it once the vendor has it.
			res := resolver.New(c)
			if got, err := res.Retry(t.Context(), u[0].ID); got != relay.RetryRefused || err == nil {
				t.Errorf("retry while refused: %v, %v", got, err)
			}
			back.Store(true)
			if got, err := res.Retry(t.Context(), u[0].ID); got != relay.RetryResolved {
				t.Errorf("retry: %v, %v", got, err)
			}
			if got, _ := res.Retry(t.Context(), u[0].ID); got != relay.RetryNotFound {
				t.Errorf("second retry: %v", got)
			}
			if events := r.events("leeds", missing); len(events) != 1 || len(r.unresolved()) != 0 {
				t.Errorf("%d events, want 1", len(events))
			}
		})
	}
}

// An outage holds everything, probes the vendor instead of hammering it, and loses nothing; after ten days the waiting ends visibly.
func TestOutage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	var down atomic.Bool
	down.Store(true)
	r.vendor.fail = func(string, string) error {
		if down.Load() {
			return vendorError(audatex.Unavailable)
		}
		return nil
	}
	c := r.config(r.store)
	clk := &clock{}
	c.Now = clk.now
	c.Schedule = []time.Duration{20 * time.Millisecond}
	stop := r.run(c)
	const orders, each = 20, 12
	var last uint64
	for range each {
		var page []string
		for o := range orders {
			r.vendor.set(orderID(o), "New")
			page = append(page, updated(orderID(o)))
		}
		last = r.page("leeds", "leeds", page...)
	}
	eventually(t, "an open circuit", func() bool {
		d, _, err := r.store.Cursors.Get(t.Context(), store.InboxCursors.Key("leeds"))
		return err == nil && d.Health.Open
	})
	stop() // and a restart in the middle of it
	before := r.vendor.count()
	r.run(c)
	eventually(t, "probes", func() bool { return r.vendor.count() >= before+5 })
	clk.forward(9 * 24 * time.Hour)
	before = r.vendor.count()
	eventually(t, "probes", func() bool { return r.vendor.count() >= before+5 })
	if n := len(r.unresolved()); n != 0 {
		t.Fatalf("%d set aside in an outage of nine days", n)
	}
	down.Store(false)
	r.settled("leeds", last)
	for o := range orders {
		events := r.events("leeds", orderID(o))
		if len(events) != each {
			t.Errorf("order %d: %d events, want %d", o, len(events), each)
		}
		for i := 1; i < len(events); i++ {
			if events[i].Inbox.Seq <= events[i-1].Inbox.Seq {
				t.Errorf("order %d: page %d after %d", o, events[i].Inbox.Seq, events[i-1].Inbox.Seq)
			}
		}
	}

	down.Store(true)
	held := r.page("leeds", "leeds", updated(orderID(1)))
	clk.forward(11 * 24 * time.Hour)
	r.settled("leeds", held)
	if u := r.unresolved(); len(u) != 1 || u[0].Reason != "held-too-long" {
		t.Errorf("unresolved after ten days: %+v", u)
	}
}

// An outage of the vendor's is not made much longer by our waits.
func TestWaitsForTheVendorGrowWithItsOutage(t *testing.T) {
	t.Parallel()
	away := time.Duration(0)
	for i, wait := range resolver.DefaultSchedule {
		if wait > 5*time.Minute || i > 0 && wait > 2*away {
			t.Errorf("wait %d is %s, after %s without an answer", i+1, wait, away)
		}
		away += wait
	}
}

// More of one order than a lane lists: the rest is read from the inbox again.
func TestLongLane(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	order := orderID(1)
	r.vendor.set(order, "New")
	var down atomic.Bool
	down.Store(true)
	r.vendor.fail = func(string, string) error {
		if down.Load() {
			return vendorError(audatex.NotFound)
		}
		return nil
	}
	stop := r.run(r.config(r.store))
	r.page("leeds", "leeds", created(order))
	eventually(t, "a lane", func() bool { l, err := r.lanes("leeds"); return err == nil && len(l) == 1 })
	var last uint64
	const pages, each = 25, 13
	for range pages {
		var page []string
		for range each {
			page = append(page, updated(order))
		}
		last = r.page("leeds", "leeds", page...)
	}
	eventually(t, "a lane with more than it lists", func() bool {
		l, err := r.lanes("leeds")
		return err == nil && len(l) == 1 && l[0].Value.OpenFrom > 0 && len(l[0].Value.Entries) == cursor.LaneEntries
	})
	stop()
	down.Store(false)
	r.run(r.config(r.store))
	r.settled("leeds", last)
	if n := len(r.events("leeds", order)); n != 1+pages*each {
		t.Errorf("%d events, want %d", n, 1+pages*each)
	}
	if n := r.vendor.count(); n > 60 {
		t.Errorf("%d readings for one order", n)
	}
}

// Two connections of one site: each has its own notifications of the same orders, and neither loses or repeats one.
func TestTwoConnectionsOfOneSite(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("garage", "leeds")
	r.connect("office", "leeds")
	r.run(r.config(r.store))
	const rounds, orders = 12, 3
	last := map[string]uint64{}
	for n := range rounds {
		var page []string
		for o := range orders {
			r.vendor.set(orderID(o), fmt.Sprint("Status", n))
			page = append(page, updated(orderID(o)))
		}
		for _, c := range []string{"garage", "office"} {
			last[c] = r.page(c, "leeds", page...)
		}
	}
	for c, seq := range last {
		r.settled(c, seq)
	}
	for o := range orders {
		events := r.events("leeds", orderID(o))
		seen := map[store.InboxRef]bool{}
		for i, e := range events {
			if seen[e.Inbox] || e.data.Revision != i+1 {
				t.Errorf("order %d: event %d of %v, revision %d", o, i, e.Inbox, e.data.Revision)
			}
			seen[e.Inbox] = true
			if i > 0 {
				was, now := relay.StatusOf(events[i-1].data.Order), relay.StatusOf(e.data.Order)
				if *e.data.PreviousStatus != was || (was != now) != (len(e.data.Changes) > 0) {
					t.Errorf("order %d: event %d from %s to %s: %d changes, previousStatus %s", o, i, was, now, len(e.data.Changes), *e.data.PreviousStatus)
				}
			}
		}
		if len(events) != 2*rounds {
			t.Errorf("order %d: %d events, want %d", o, len(events), 2*rounds)
		}
	}
}

func TestWhatCannotBeResolved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("group", "")
	order := orderID(1)
	r.vendor.set(order, "New")
	body := "[" + strings.Join([]string{
		notification(order, "PARTS.ORDER.UPDATED", "4711"), // mapped
		notification(order, "PARTS.ORDER.UPDATED", "9999"), // not mapped
		`{"Topic":"ASSESSMENT.MAIL.SENT","SiteId":"4711"}`,
		notification(order, "ASSESSMENT.STATUS.UPDATED", "4711"), // another topic, and yet an order: as an update
		`7`,
	}, ",") + `,{"Topic":"PARTS.ORDER.UPD`
	seq, err := r.store.Inbox.Append(t.Context(), store.Page{
		PollID: relay.NewID(), Connection: "group", Generation: "g-group", ReceivedAt: time.Now(), Sites: map[string]string{"4711": "leeds"},
		Truncated: true, Body: []byte(body),
	})
	if err != nil {
		t.Fatal(err)
	}
	const encoded = "[\x00,\x8b,\xff]"
	last, err := r.store.Inbox.Append(t.Context(), store.Page{
		PollID: relay.NewID(), Connection: "group", Generation: "g-group", ReceivedAt: time.Now(), Encoding: "exi", Body: []byte(encoded),
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := r.run(r.config(r.store))
	r.settled("group", last)
	stop()
	if n := len(r.events("leeds", order)); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
	reasons := map[string]string{}
	for _, u := range r.unresolved() {
		if u.ID == "group.foreign."+foreignHash(encoded) { // all bytes, and what is needed to understand them
			if u.Reason != "malformed" || string(u.Raw) != encoded || !strings.Contains(u.Detail, "exi") {
				t.Errorf("the page that is still encoded: %+v", u)
			}
			continue
		}
		reasons[u.ID] = u.Reason
		if !strings.Contains(body, string(u.Raw)) || len(u.Raw) == 0 {
			t.Errorf("%s: raw bytes %q", u.ID, u.Raw)
		}
	}
	at := func(i int) string { return fmt.Sprintf("group.%d-%d", seq, i) }
	want := map[string]string{at(1): "site-unknown", at(2): "topic", "group.foreign." + foreignHash("7"): "malformed", at(5): "malformed"}
	for id, reason := range want {
		if reasons[id] != reason {
			t.Errorf("%s: reason %q, want %q", id, reasons[id], reason)
		}
	}
	if len(reasons) != len(want) || r.operational(relay.KindSiteUnknown) != 1 || r.operational(relay.KindOrderUnresolved) != 4 {
		t.Errorf("%d unresolved, %d and %d operational events", len(reasons), r.operational(relay.KindSiteUnknown), r.operational(relay.KindOrderUnresolved))
	}

	// The site is mapped; the notification can be retried.
	c, rev, err := r.store.Connections.Get(t.Context(), "group")
	if err != nil {
		t.Fatal(err)
	}
	c.Sites = map[string]string{"9999": "york"}
	if _, err := r.store.Connections.Update(t.Context(), "group", c, rev); err != nil {
		t.Fatal(err)
	}
	if got, err := resolver.New(r.config(r.store)).Retry(t.Context(), fmt.Sprintf("group.%d-1", seq)); got != relay.RetryResolved {
		t.Errorf("retry: %v, %v", got, err)
	}
	if n := len(r.events("york", order)); n != 1 {
		t.Errorf("%d events at the site mapped later, want 1", n)
	}
}

// A reading under way when the program ends is published, and its notification settled.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	order := orderID(1)
	r.vendor.set(order, "New")
	underWay, goOn := make(chan struct{}), make(chan struct{})
	r.vendor.during = func(string, string) { close(underWay); <-goOn }
	stop := r.run(r.config(r.store))
	seq := r.page("leeds", "leeds", created(order))
	<-underWay
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	close(goOn)
	<-stopped
	if n := len(r.events("leeds", order)); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	d, _, err := r.store.Cursors.Get(t.Context(), store.InboxCursors.Key("leeds"))
	if err != nil || d.Position != relay.PackEntry(seq, relay.LastIndex) {
		t.Errorf("cursor %+v, %v", d, err)
	}
}

// A store that takes no writes stops everything and loses nothing.
func TestStoreTrouble(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	var down atomic.Bool
	var refused atomic.Int32
	s := r.open(store.Gate{Before: func(store.Write) error {
		if down.Load() {
			refused.Add(1)
			return store.ErrUnavailable
		}
		return nil
	}})
	down.Store(true)
	r.run(r.config(s))
	var last uint64
	for o := range 5 {
		r.vendor.set(orderID(o), "New")
		last = r.page("leeds", "leeds", created(orderID(o)), `{}`)
	}
	eventually(t, "refused writes", func() bool { return refused.Load() > 8 })
	if n := r.vendor.count(); n > 60 {
		t.Errorf("%d readings while nothing could be stored", n)
	}
	down.Store(false)
	r.settled("leeds", last)
	for o := range 5 {
		if n := len(r.events("leeds", orderID(o))); n != 1 {
			t.Errorf("order %d: %d events, want 1", o, n)
		}
	}
	if docs := r.unresolved(); len(docs) != 1 || docs[0].Count != 5 {
		t.Errorf("unresolved %+v, want one that came 5 times", docs)
	}
}

func TestConnectionMadeAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	r.run(r.config(r.store))
	r.vendor.set(orderID(1), "New")
	r.settled("leeds", r.page("leeds", "leeds", created(orderID(1))))
	if err := r.store.Connections.Delete(t.Context(), "leeds", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := r.store.Connections.Create(t.Context(), "leeds", relay.Connection{ID: "leeds", Site: "york", Generation: "another"}); err != nil {
		t.Fatal(err)
	}
	r.vendor.set(orderID(2), "New")
	seq, err := r.store.Inbox.Append(t.Context(), store.Page{
		PollID: "p", Connection: "leeds", Generation: "another", ReceivedAt: time.Now(), Site: "york", Body: []byte(created(orderID(2))),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.settled("leeds", seq)
	if a, b, c := len(r.events("leeds", orderID(1))), len(r.events("york", orderID(1))), len(r.events("york", orderID(2))); a != 1 || b != 0 || c != 1 {
		t.Errorf("%d, %d and %d events, want 1, 0 and 1", a, b, c)
	}
	d, _, err := r.store.Cursors.Get(t.Context(), store.InboxCursors.Key("leeds"))
	if err != nil || d.Generation != "another" {
		t.Errorf("cursor %+v, %v", d, err)
	}
}

// A cursor beyond the inbox's end, as after a restore, would pass over what comes next.
func TestCursorBeyondTheInbox(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	d := cursor.New(cursor.Policy{}).Document()
	d.Position, d.Generation, d.Epoch = relay.PackEntry(500, relay.LastIndex), "g-leeds", 1
	if _, err := r.store.Cursors.Create(t.Context(), store.InboxCursors.Key("leeds"), d); err != nil {
		t.Fatal(err)
	}
	res := resolver.New(r.config(r.store))
	if err := res.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.vendor.set(orderID(1), "New")
	seq := r.page("leeds", "leeds", created(orderID(1)))
	r.work(res, 1)
	eventually(t, "the event", func() bool { return len(r.events("leeds", orderID(1))) == 1 })
	r.settled("leeds", seq)
	if n := r.operational(relay.KindLogClamped); n != 1 {
		t.Errorf("%d operational events, want 1", n)
	}
}

// A cursor under a higher epoch belongs to somebody else.
func TestSuperseded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	r.connect("york", "york")
	d := cursor.New(cursor.Policy{}).Document()
	d.Generation, d.Epoch = "g-leeds", 2
	if _, err := r.store.Cursors.Create(t.Context(), store.InboxCursors.Key("leeds"), d); err != nil {
		t.Fatal(err)
	}
	r.vendor.set(orderID(1), "New")
	r.page("leeds", "leeds", created(orderID(1)))
	stop := r.run(r.config(r.store))
	r.settled("york", r.page("york", "york", created(orderID(1))))
	stop()
	if n := len(r.events("leeds", orderID(1))); n != 0 {
		t.Errorf("%d events by an owner that was superseded", n)
	}
}

// A consent that has ended, or a client the token endpoint refuses, says nothing about an order: it is held past the hour.
func TestConsentHolds(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"consent": &audatex.ConsentRequiredError{Connection: "leeds"}, "client": &audatex.Error{Operation: audatex.OpToken, Outcome: audatex.Forbidden},
		"throttled": &audatex.Error{Operation: audatex.OpOrder, Outcome: audatex.Throttled, RetryAfter: 20 * time.Millisecond}, "unknown": errors.New("network"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.connect("leeds", "leeds")
			r.vendor.set(orderID(1), "New")
			var ended atomic.Bool
			ended.Store(true)
			r.vendor.fail = func(string, string) error {
				if ended.Load() {
					return err
				}
				return nil
			}
			c := r.config(r.store)
			clk := &clock{}
			c.Now = clk.now
			r.run(c)
			seq := r.page("leeds", "leeds", created(orderID(1)))
			eventually(t, "tries", func() bool { return r.vendor.count() > 3 })
			clk.forward(3 * time.Hour)
			before := r.vendor.count()
			eventually(t, "tries", func() bool { return r.vendor.count() > before+3 })
			if u := r.unresolved(); len(u) != 0 {
				t.Fatalf("set aside: %+v", u)
			}
			ended.Store(false)
			r.settled("leeds", seq)
			if n := len(r.events("leeds", orderID(1))); n != 1 {
				t.Errorf("%d events, want 1", n)
			}
		})
	}
}

// The store's trouble has a line of its own: orders that wait for it add none. Those that wait for the vendor do.
func TestOrdersHeldByTheStoresTroubleAreNotToldOneByOne(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"store": {fmt.Errorf("token of connection leeds: %w", store.ErrUnavailable), "DEBUG"}, "vendor": {errors.New("network"), "WARN"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.connect("leeds", "leeds")
			r.vendor.fail = func(string, string) error { return c.err }
			config, told := r.config(r.store), make(chan string, 100)
			config.Log = slog.New(slog.NewTextHandler(lines(told), &slog.HandlerOptions{Level: slog.LevelDebug}))
			r.run(config)
			r.page("leeds", "leeds", created(orderID(1)))
			eventually(t, "the order is held", func() bool {
				select {
				case line := <-told:
					if !strings.Contains(line, "order cannot be read yet") {
						return false
					}
					if !strings.Contains(line, "level="+c.want) {
						t.Errorf("want level %s: %s", c.want, line)
					}
					return true
				default:
					return false
				}
			})
		})
	}
}

// lines is a log: each line is handed on, as long as there is room.
type lines chan<- string

func (l lines) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default:
	}
	return len(b), nil
}

// Many sites at once: every notification has its event, in its order's order.
func TestManySites(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.config(r.store)
	c.Total = 8
	r.run(c)
	const sites, pages = 12, 5
	last := map[string]uint64{}
	for s := range sites {
		r.connect(fmt.Sprint("s", s), fmt.Sprint("s", s))
	}
	for range pages {
		for s := range sites {
			site := fmt.Sprint("s", s)
			var page []string
			for o := range 4 {
				r.vendor.set(orderID(o), "New")
				page = append(page, updated(orderID(o)), updated(orderID(o)))
			}
			last[site] = r.page(site, site, page...)
		}
	}
	for site, seq := range last {
		r.settled(site, seq)
		for o := range 4 {
			events := r.events(site, orderID(o))
			sorted := slices.IsSortedFunc(events, func(a, b told) int {
				return int(int64(relay.PackEntry(a.Inbox.Seq, a.Inbox.Index)) - int64(relay.PackEntry(b.Inbox.Seq, b.Inbox.Index)))
			})
			if len(events) != 2*pages || !sorted {
				t.Errorf("%s, order %d: %d events, want %d; in order: %v", site, o, len(events), 2*pages, sorted)
			}
		}
	}
}
