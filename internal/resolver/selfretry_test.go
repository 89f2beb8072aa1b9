package resolver_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/resolver"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// company makes a connection of the company's level with a table of sites.
func (r *rig) company(id string, sites map[string]string) {
	r.t.Helper()
	if _, err := r.store.Connections.Create(r.t.Context(), id,
		relay.Connection{ID: id, Level: relay.LevelCompany, Sites: sites, Generation: "g-" + id}); err != nil {
		r.t.Fatal(err)
	}
}

// table gives a connection another table of sites.
func (r *rig) table(id string, sites map[string]string) {
	r.t.Helper()
	eventually(r.t, "the connection is changed", func() bool {
		c, revision, err := r.store.Connections.Get(r.t.Context(), id)
		if err != nil {
			return false
		}
		c.Sites = sites
		_, err = r.store.Connections.Update(r.t.Context(), id, c, revision)
		return err == nil
	})
}

// mapped stores a page whose sites are mapped by a table.
func (r *rig) mapped(connection string, sites map[string]string, notifications ...string) uint64 {
	r.t.Helper()
	return r.stored(r.pageOf(connection, sites, notifications...))
}

func (*rig) pageOf(connection string, sites map[string]string, notifications ...string) store.Page {
	return store.Page{
		PollID: relay.NewID(), Connection: connection, Generation: "g-" + connection, ReceivedAt: time.Now(),
		Sites: sites, Body: []byte("[" + strings.Join(notifications, ",") + "]"), Entries: len(notifications),
	}
}

func (r *rig) stored(page store.Page) uint64 {
	r.t.Helper()
	var seq uint64
	eventually(r.t, "a page is stored", func() bool {
		var err error
		seq, err = r.store.Inbox.Append(r.t.Context(), page)
		return err == nil
	})
	return seq
}

// A notification of the older form names no site. By the consent of a site whose table has one site it is of that; by
// that of a company nobody knows. One that names a site which the table does not have waits until it does.
func TestNotificationsThatNameNoSite(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, two, other := orderID(1), orderID(2), orderID(3)
	for _, o := range []string{one, two, other} {
		r.vendor.set(o, "New")
	}
	table := map[string]string{"4711": "leeds"}
	r.company("group", table)
	if _, err := r.store.Connections.Create(t.Context(), "single",
		relay.Connection{ID: "single", Level: relay.LevelSite, Sites: table, Generation: "g-single"}); err != nil {
		t.Fatal(err)
	}
	r.run(r.config(r.store))
	at := func(order, site string) string { return notification(order, "PARTS.ORDER.UPDATED", site) }
	put := func(connection string, level relay.Level, notifications ...string) {
		t.Helper()
		page := r.pageOf(connection, table, notifications...)
		page.Level = level
		r.settled(connection, r.stored(page))
	}
	put("single", relay.LevelSite, at(one, ""), at(other, "9999"))
	put("group", relay.LevelCompany, at(one, ""))
	if got := len(r.inboxRefs("leeds", one)); got != 1 {
		t.Errorf("%d events of the order, want that of the site's consent", got)
	}
	waiting := map[string]string{} // by connection: the vendor's site
	for _, u := range r.unresolved() {
		waiting[u.Connection] += u.VendorSite + " " + u.Reason
	}
	if want := map[string]string{"single": "9999 site-unknown", "group": " site-unknown"}; !maps.Equal(waiting, want) {
		t.Errorf("%v wait, want %v", waiting, want)
	}
	// A page that does not name whose consent it came by: the connection does, and it is retried by itself.
	put("single", "", at(two, ""))
	eventually(t, "it is resolved", func() bool { return len(r.inboxRefs("leeds", two)) == 1 })
}

func (r *rig) none(what string) {
	r.t.Helper()
	eventually(r.t, "nothing is unresolved: "+what, func() bool { return len(r.unresolved()) == 0 })
}

func (r *rig) inboxRefs(site, order string) (refs []store.InboxRef) {
	r.t.Helper()
	for _, e := range r.events(site, order) {
		refs = append(refs, e.Inbox)
	}
	return refs
}

// siteUnknown returns which vendor sites were reported as unknown.
func (r *rig) siteUnknown(connection string) (sites []string) {
	r.t.Helper()
	stored, _, err := r.store.Events.Scan(r.t.Context(), 0,
		[]string{topology.OperationalSubject("_", string(relay.KindSiteUnknown), connection)}, 10_000)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range stored {
		_, rest, _ := strings.Cut(string(s.Body), `"vendorSite":"`)
		site, _, _ := strings.Cut(rest, `"`)
		sites = append(sites, site)
	}
	slices.Sort(sites)
	return sites
}

func TestNotificationsOfASiteThatIsMappedLaterAreRetriedByThemselvesInOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, two, other := orderID(1), orderID(2), orderID(3)
	for _, o := range []string{one, two, other} {
		r.vendor.set(o, "New")
	}
	r.company("group", nil)
	r.run(r.config(r.store))
	at := func(order, site string) string { return notification(order, "PARTS.ORDER.UPDATED", site) }
	first := r.mapped("group", nil, notification(one, "PARTS.ORDER.CREATED", "9999"), at(two, "9999"), at(other, "7"))
	second := r.mapped("group", nil, at(one, "9999"))
	r.settled("group", second)
	if n := len(r.unresolved()); n != 4 {
		t.Fatalf("%d unresolved, want 4", n)
	}
	// An edit that does not map the site touches nothing.
	r.table("group", map[string]string{"1": "hull"})
	r.table("group", map[string]string{"1": "hull", "9999": "york"})
	ref := func(page uint64, i int) store.InboxRef {
		return store.InboxRef{Connection: "group", Seq: page, Index: i}
	}
	eventually(t, "the site's are resolved", func() bool { return len(r.unresolved()) == 1 })
	if got, want := r.inboxRefs("york", one),
		[]store.InboxRef{ref(first, 0), ref(second, 0)}; !slices.Equal(got, want) {
		t.Errorf("events of %v, want %v", got, want)
	}
	if got := r.inboxRefs("york", two); len(got) != 1 {
		t.Errorf("events of the second order: %v", got)
	}
	if left := r.unresolved()[0]; left.VendorSite != "7" || left.Reason != "site-unknown" || left.RetriedAt != nil {
		t.Errorf("what is left: %+v", left)
	}
	if n := r.vendor.count(); n != 2 {
		t.Errorf("%d readings, want one for each order", n)
	}
	// A default site maps every id.
	eventually(t, "the connection is changed", func() bool {
		c, revision, err := r.store.Connections.Get(t.Context(), "group")
		if err != nil {
			return false
		}
		c.Site = "leeds"
		_, err = r.store.Connections.Update(t.Context(), "group", c, revision)
		return err == nil
	})
	r.none("the rest")
	if got := r.inboxRefs("leeds", other); len(got) != 1 {
		t.Errorf("events at the default site: %v", got)
	}
	if got := r.siteUnknown("group"); !slices.Equal(got, []string{"7", "9999"}) {
		t.Errorf("told of %v", got)
	}
	// Taking an id out of the table changes nothing of what is there.
	r.table("group", nil)
	last := r.mapped("group", map[string]string{"9999": "york"}, at(one, "9999"))
	r.settled("group", last)
	if got := len(r.inboxRefs("york", one)); got != 3 {
		t.Errorf("%d events, want 3: a page counts by its own table", got)
	}
}

// What comes later for the same order, with its site mapped, takes along what lies aside, and what was read and is not
// set aside yet: whatever the vendor's trouble held up meanwhile.
func TestNothingOfAnOrderPassesWhatLiesAside(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	order := orderID(1)
	r.vendor.set(order, "New")
	var away atomic.Bool
	r.vendor.fail = func(string, string) error {
		if away.Load() {
			return vendorError(audatex.Unavailable)
		}
		return nil
	}
	r.company("group", nil)
	now := map[string]string{"9999": "york"}
	at := func(site string) string { return notification(order, "PARTS.ORDER.UPDATED", site) }
	stop := r.run(r.config(r.store))
	first := r.mapped("group", nil, notification(order, "PARTS.ORDER.CREATED", "9999"))
	r.settled("group", first)
	// The vendor goes away; the table is changed, and what comes for the order waits.
	away.Store(true)
	r.table("group", now)
	second := r.mapped("group", now, at("9999"))
	third := r.mapped("group", nil, at("9999")) // of a replica that had not heard of the change
	before := r.vendor.count()
	eventually(t, "the order is asked for", func() bool { return r.vendor.count() > before+2 })
	if n := len(r.unresolved()); n < 1 {
		t.Fatalf("%d unresolved", n)
	}
	away.Store(false)
	r.none("all of the order")
	eventually(t, "three events", func() bool { return len(r.events("york", order)) == 3 })
	stop()
	var want []store.InboxRef
	for _, page := range []uint64{first, second, third} {
		want = append(want, store.InboxRef{Connection: "group", Seq: page})
	}
	if got := r.inboxRefs("york", order); !slices.Equal(got, want) {
		t.Errorf("events of %v, want them in the order of %v", got, want)
	}
}

func TestAnUnknownSiteIsToldOnceOverRestartsAndReplicas(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.company("group", nil)
	at := func(n int, site string) string { return notification(orderID(n), "PARTS.ORDER.UPDATED", site) }
	for epoch := range uint64(4) {
		stop := r.work(resolver.New(r.config(r.store)), epoch+1)
		r.settled("group",
			r.mapped("group", nil, at(int(epoch)*2, "9999"), at(int(epoch)*2+1, "9999"), at(100, "8888")))
		stop()
	}
	if got := r.siteUnknown("group"); !slices.Equal(got, []string{"8888", "9999"}) {
		t.Errorf("told of %v, want each once", got)
	}
	if n := len(r.unresolved()); n != 12 {
		t.Errorf("%d unresolved, want 12", n)
	}
}

// A vendor that sends ever other ids must not fill the log.
func TestUnknownSitesThatAreToldAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.company("group", nil)
	r.run(r.config(r.store))
	var last uint64
	for page := range 5 {
		var many []string
		for i := range 30 {
			many = append(many, notification(orderID(1), "PARTS.ORDER.UPDATED", fmt.Sprint(1000*page+i)))
		}
		last = r.mapped("group", nil, many...)
	}
	r.settled("group", last)
	if got := r.siteUnknown("group"); len(got) != 101 || !slices.Contains(got, "others") {
		t.Errorf("%d events, want 100 and one for all others", len(got))
	}
}

// refusedAside leaves an order's notification aside as forbidden, at a time.
func (r *rig) refusedAside(connection, site string, n int, at time.Time, why string) relay.Unresolved {
	r.t.Helper()
	raw := updated(orderID(n))
	doc := relay.Unresolved{
		ID: fmt.Sprintf("%s.0-%d", connection, n), Connection: connection, Site: site, VendorSite: "4711",
		Order: orderID(n), Reason: why, Raw: []byte(raw), Size: len(raw), InboxEntry: relay.PackEntry(0, n),
		ReceivedAt: at, UnresolvedAt: at, Count: 1, LastReceivedAt: at,
	}
	if _, err := r.store.Unresolved.Create(r.t.Context(), doc.ID, doc); err != nil {
		r.t.Fatal(err)
	}
	return doc
}

func (r *rig) consent(connection string, at time.Time) {
	r.t.Helper()
	_, revision, err := r.store.Tokens.Token(r.t.Context(), connection)
	if err != nil {
		revision = 0
	}
	if _, err := r.store.Tokens.SaveToken(r.t.Context(), connection, relay.TokenRecord{
		RefreshToken: relay.NewSecret("r"), Generation: "g-" + connection, ConsentAt: at,
	}, revision); err != nil {
		r.t.Fatal(err)
	}
}

func TestWhatWasRefusedForWantOfConsentIsRetriedAfterANewOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	for n := range 4 {
		r.vendor.set(orderID(n+1), "New")
	}
	r.vendor.fail = func(_, order string) error {
		if order == orderID(3) {
			return vendorError(audatex.Forbidden)
		}
		return nil
	}
	long := time.Now().Add(-time.Hour)
	r.refusedAside("leeds", "leeds", 1, long, "forbidden")
	r.refusedAside("leeds", "leeds", 2, long, "held-too-long")
	r.refusedAside("leeds", "leeds", 3, long, "forbidden") // still
	r.refusedAside("leeds", "leeds", 4, long, "not-found") // no word on a consent
	r.consent("leeds", long.Add(-time.Hour))
	res := resolver.New(r.config(r.store))
	r.work(res, 1)
	r.settled("leeds", r.page("leeds", "leeds", updated(orderID(2)))) // takes the older one along
	eventually(t, "what lay aside of the order is resolved with it", func() bool { return len(r.unresolved()) == 3 })
	if n := len(r.events("leeds", orderID(1))); n != 0 {
		t.Fatalf("%d events before there was a new consent", n)
	}
	consented := time.Now()
	r.consent("leeds", consented)
	c, revision, err := r.store.Connections.Get(t.Context(), "leeds")
	if err == nil {
		c.Consent = &relay.Consent{ID: "new", At: consented}
		_, err = r.store.Connections.Update(t.Context(), "leeds", c, revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the order is resolved", func() bool { return len(r.events("leeds", orderID(1))) == 1 })
	eventually(t, "what is still refused says so", func() bool {
		doc, _, err := r.store.Unresolved.Get(t.Context(), "leeds.0-3")
		return err == nil && doc.RetriedAt != nil && doc.Reason == "forbidden"
	})
	left := r.unresolved()
	if len(left) != 2 {
		t.Errorf("%d unresolved, want those of orders 3 and 4", len(left))
	}
	if got := r.events("leeds", orderID(2)); len(got) != 2 || got[0].Inbox.Seq != 0 {
		t.Errorf("events of the second order: %v", r.inboxRefs("leeds", orderID(2)))
	}
}

// A self-retry is cut off before and after each of its writes: nothing is lost, nothing comes twice, and nothing of an
// order passes another.
func TestSelfRetryIsCutOffAtEveryWrite(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after=%v", after), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			g := &gate{}
			gated := r.open(g.store())
			now := map[string]string{"9999": "york"}
			for at := 1; ; at++ {
				c := &cutter{at: at, after: after, died: make(chan struct{})}
				id := fmt.Sprintf("g%d", at)
				one, two := uuidOf(relay.NewID()), uuidOf(relay.NewID())
				r.vendor.set(one, "New")
				r.vendor.set(two, "New")
				of := func(order string) string { return notification(order, "PARTS.ORDER.UPDATED", "9999") }
				r.company(id, nil)
				g.set(&cutter{at: -1, died: make(chan struct{})})
				stop := r.run(r.config(gated))
				first := r.mapped(id, nil, of(one), of(two), of(one))
				r.settled(id, first)
				g.set(c)
				r.table(id, now)
				second := r.mapped(id, now, of(one))
				eventually(t, "it is through or cut", func() bool {
					select {
					case <-c.died:
						return true
					default:
					}
					return len(r.unresolved()) == 0 && len(r.events("york", one)) == 3
				})
				stop()
				stop = r.run(r.config(r.store))
				r.settled(id, second)
				r.none("after the restart")
				ref := func(page uint64, i int) store.InboxRef {
					return store.InboxRef{Connection: id, Seq: page, Index: i}
				}
				name := fmt.Sprintf("write %d at %s", at, c.where)
				eventually(t, name+": all events", func() bool {
					return len(r.events("york", one)) >= 3 && len(r.events("york", two)) >= 1
				})
				stop()
				r.verify(name, "york", one, []store.InboxRef{ref(first, 0), ref(first, 2), ref(second, 0)}, "New")
				r.verify(name, "york", two, []store.InboxRef{ref(first, 1)}, "New")
				if got := r.siteUnknown(id); len(got) != 1 {
					t.Errorf("%s: told of %v", name, got)
				}
				if err := r.store.Connections.Delete(t.Context(), id, 0); err != nil {
					t.Fatal(err)
				}
				if !c.dead {
					if at < 6 {
						t.Errorf("only %d writes were cut", at-1)
					}
					return
				}
			}
		})
	}
}
