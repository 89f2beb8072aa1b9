package httpapi

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// What a reading of the log asks the store for is as narrow as what was asked for, and never more
// than the store does cheaply.
func TestAReadingAsksForWhatItsFilterSelects(t *testing.T) { //nolint:paralleltest // only its own allocations count
	var sites, orders []string
	for i := range 1000 {
		sites, orders = append(sites, fmt.Sprintf("site-%d", i)), append(orders, fmt.Sprintf("order-%d", i))
	}
	two := caller{client: relay.Client{ID: "acme", Sites: sites[:2]}}
	all := caller{client: relay.Client{ID: "acme", AllSites: true}}
	many := caller{client: relay.Client{ID: "acme", Sites: sites}}
	for name, c := range map[string]struct {
		caller caller
		filter relay.Filter
		want   []string // sorted; nil: everything is read
	}{
		"everything there is": {all, relay.Filter{}, []string{"audatex.*.parts.order.*.*"}},
		"one type": {all, relay.Filter{Types: []string{relay.TypeOrderUpdated}},
			[]string{"audatex.*.parts.order.updated.*"}},
		"one kind": {all, relay.Filter{Types: []string{"audatex.relay.log-clamped"}},
			[]string{"audatex.*.relay.log-clamped.*"}},
		"all kinds": {all, relay.Filter{Types: []string{"audatex.relay.*"}}, []string{"audatex.*.relay.*.*"}},
		"sites": {two, relay.Filter{},
			[]string{"audatex.site-0.parts.order.*.*", "audatex.site-1.parts.order.*.*"}},
		"a site and an order": {two, relay.Filter{Sites: sites[:1], Orders: orders[:1]},
			[]string{"audatex.site-0.parts.order.*.order-0"}},
		"a kind of one's own": {two, relay.Filter{Types: []string{"audatex.relay.callback-disabled"}},
			[]string{"audatex._.relay.callback-disabled.*", "audatex.site-0.relay.callback-disabled.*",
				"audatex.site-1.relay.callback-disabled.*"}},
		"a kind of others": {two, relay.Filter{Types: []string{"audatex.relay.log-clamped"}},
			[]string{"audatex.site-0.relay.log-clamped.*", "audatex.site-1.relay.log-clamped.*"}},
		"sites twice": {two, relay.Filter{Sites: []string{"site-0", "site-0"}},
			[]string{"audatex.site-0.parts.order.*.*"}},
		"many sites, one order": {many, relay.Filter{Orders: orders[:1]}, []string{"audatex.*.parts.order.*.order-0"}},
		"many sites":            {many, relay.Filter{}, nil},
		"many of both": {many,
			relay.Filter{Sites: sites, Orders: orders, Types: []string{"*", "audatex.relay.*"}}, nil},
	} {
		var got []string
		allocated := testing.AllocsPerRun(1, func() { got = subjects(c.caller, c.filter) })
		if !slices.Equal(got, c.want) || allocated > 150 {
			t.Errorf("%s: %d allocations, %q\nwant %q", name, int(allocated), got, c.want)
		}
	}
	if got := subjects(all, relay.Filter{Orders: orders[:100]}); len(got) != 100 {
		t.Errorf("100 orders: %d filters", len(got))
	}
}

// One request reads so many messages and so many bytes, in few goes.
func TestOneRequestReadsALimitedPartOfALog(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ wanted, size, messages, goes int }{
		"small messages, few wanted":  {1, 100, maxScanned, 9},
		"small messages, many wanted": {1000, 100, maxScanned, 6},
		"large messages":              {1000, 1 << 20, firstChunk, 1},
		"middling messages":           {1000, 64 << 10, 128, 2},
	} {
		var s scan
		goes := 0
		for n := s.next(c.wanted); n > 0; n = s.next(c.wanted) {
			for range n {
				s.add(c.size)
			}
			goes++
		}
		if s.messages != c.messages || goes > c.goes {
			t.Errorf("%s: %d messages in %d goes, want %d in %d", name, s.messages, goes, c.messages, c.goes)
		}
	}
}

// A page of large events, or of a log that has much for others, ends early; read on by its cursor
// nothing is missed and nothing repeats.
func TestPagesThatEndEarlyAreReadOn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleRead, "alpha")
	const events = 70
	filler := strings.Repeat("x", maxScannedBytes/firstChunk+10<<10) // the first chunk is a page
	for i := range events {
		now := time.Now()
		order := fmt.Sprintf("%08d-6a64-4a2c-9d55-0a3f3a9f7b11", i)
		ev, err := relay.NewOrderEvent(publicURL, "alpha", order, relay.TypeOrderCreated, relay.NextSequence(now, 0),
			now,
			relay.OrderData{
				Order: json.RawMessage(`{"Filler":"` + filler + `"}`), ReadAt: now.UTC(), Revision: 1,
				Origin: relay.OriginReconciliation,
			})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.store.Events.Publish(t.Context(), ev, store.InboxRef{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	pages, next := 0, ""
	for {
		var page EventPage
		answer := a.get("/v1/events?limit=1000" + next).want(200).into(&page)
		if len(answer.body) > 2*maxScannedBytes+firstChunk*300<<10 {
			t.Errorf("a page of %d bytes", len(answer.body))
		}
		if len(page.Items) == 0 {
			break
		}
		pages++
		for _, item := range page.Items {
			got = append(got, memberOf(item, "id"))
		}
		next = "&after=" + page.Next
	}
	if len(got) != events || pages < 2 || len(slices.Compact(slices.Sorted(slices.Values(got)))) != events {
		t.Errorf("%d events in %d pages", len(got), pages)
	}
}

// Messages that are read for nothing are charged to the key, by the hundred.
func TestReadingForNothingIsCharged(t *testing.T) {
	t.Parallel()
	l := newLimits(0.001, 10)
	if !l.allow("a") || !l.allow("b") {
		t.Fatal("a fresh key is refused")
	}
	l.charge("a", 5*siftedPerRequest)
	l.charge("b", siftedPerRequest-1)
	l.charge("", maxScanned)
	for key, want := range map[string]int{"a": 4, "b": 9} {
		n := 0
		for l.allow(key) {
			n++
		}
		if n != want {
			t.Errorf("%s has %d requests left, want %d", key, n, want)
		}
	}
	l.charge("a", 1_000_000)
}

// Whose a document is is known from its first bytes: the rest of another client's is not read.
func TestWhoseADocumentIsCostsNothing(t *testing.T) { //nolint:paralleltest // only its own allocations count
	cb := relay.Callback{ID: "cb", Client: "acme", Description: strings.Repeat("x", 1<<20)}
	raw, err := relay.Encode(cb)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := memberOf(raw, "client")
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; got != "acme" || allocated > 16<<10 {
		t.Errorf("%q at the cost of %d bytes", got, allocated)
	}
	for _, other := range []string{``, `[]`, `{`, `{"id":"client"}`, `{"id":{"client":"x"}}`, `{"client":1}`,
		`{"client":null}`, `null`} {
		if got := memberOf([]byte(other), "client"); got != "" {
			t.Errorf("%s: %q", other, got)
		}
	}
	if got := memberOf([]byte(`{"a":{"client":"no"},"b":["client"],"client":"yes"}`), "client"); got != "yes" {
		t.Error(got)
	}
}

// What happens at sites that a caller may not see is not looked for.
func TestEventsOfForeignSitesAreNotLookedFor(t *testing.T) {
	t.Parallel()
	a := caller{client: relay.Client{ID: "acme", Sites: []string{"alpha"}}}
	for id, want := range map[string]int{
		"alpha-" + orderA + "-1": 1, "beta-" + orderA + "-1": 0, "alpha-gap-suspected-con-1": 1,
		"beta-gap-suspected-con-1": 0, "_-log-clamped-events-1": 0,
		"_-callback-disabled-cb-1": 1, "nothing": 0,
	} {
		if got := candidates(a, id); len(got) != want {
			t.Errorf("%s: %q", id, got)
		}
		if got := candidates(caller{admin: "admin"}, id); len(got) == 0 && id != "nothing" {
			t.Errorf("%s is not looked for by the admin", id)
		}
	}
}
