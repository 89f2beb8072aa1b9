package resolver_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/resolver"
	"github.com/audatex-relay/relay/internal/store"
)

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

// An order that is larger than the store takes is set aside at once, whether that shows when it is read or when its
// event is published: trying again would read the same.
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
		if doc.Reason != "too-large" ||
			!strings.Contains(doc.Detail, fmt.Sprintf("NATS takes %d bytes", r.store.MaxMessage())) {
			t.Errorf("%s: %s", doc.Reason, doc.Detail)
		}
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
					t.Errorf("order %d: event %d from %s to %s: %d changes, previousStatus %s",
						o, i, was, now, len(e.data.Changes), *e.data.PreviousStatus)
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
		PollID: relay.NewID(), Connection: "group", Generation: "g-group", ReceivedAt: time.Now(),
		Sites: map[string]string{"4711": "leeds"}, Truncated: true, Body: []byte(body),
	})
	if err != nil {
		t.Fatal(err)
	}
	const encoded = "[\x00,\x8b,\xff]"
	last, err := r.store.Inbox.Append(t.Context(), store.Page{
		PollID: relay.NewID(), Connection: "group", Generation: "g-group", ReceivedAt: time.Now(), Encoding: "exi",
		Body: []byte(encoded),
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
	want := map[string]string{at(1): "site-unknown", at(2): "topic",
		"group.foreign." + foreignHash("7"): "malformed", at(5): "malformed"}
	for id, reason := range want {
		if reasons[id] != reason {
			t.Errorf("%s: reason %q, want %q", id, reasons[id], reason)
		}
	}
	if len(reasons) != len(want) || r.operational(relay.KindSiteUnknown) != 1 ||
		r.operational(relay.KindOrderUnresolved) != 4 {
		t.Errorf("%d unresolved, %d and %d operational events",
			len(reasons), r.operational(relay.KindSiteUnknown), r.operational(relay.KindOrderUnresolved))
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
	if got, err := resolver.New(r.config(r.store)).Retry(t.Context(),
		fmt.Sprintf("group.%d-1", seq)); got != relay.RetryResolved {
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
	if _, err := r.store.Connections.Create(t.Context(), "leeds",
		relay.Connection{ID: "leeds", Site: "york", Generation: "another"}); err != nil {
		t.Fatal(err)
	}
	r.vendor.set(orderID(2), "New")
	seq, err := r.store.Inbox.Append(t.Context(), store.Page{
		PollID: "p", Connection: "leeds", Generation: "another", ReceivedAt: time.Now(), Site: "york",
		Body: []byte(created(orderID(2))),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.settled("leeds", seq)
	if a, b, c := len(r.events("leeds", orderID(1))), len(r.events("york", orderID(1))),
		len(r.events("york", orderID(2))); a != 1 || b != 0 || c != 1 {
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
	if err := res.Prepare(t.Context(), nil); err != nil {
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
				return int(int64(relay.PackEntry(a.Inbox.Seq, a.Inbox.Index)) - int64(
					relay.PackEntry(b.Inbox.Seq, b.Inbox.Index)))
			})
			if len(events) != 2*pages || !sorted {
				t.Errorf("%s, order %d: %d events, want %d; in order: %v", site, o, len(events), 2*pages, sorted)
			}
		}
	}
}
