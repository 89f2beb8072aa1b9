package httpapi

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

func idsOf(t *testing.T, items []Event) string {
	t.Helper()
	var ids []string
	for _, raw := range items {
		var ev relay.Event
		if err := json.Unmarshal(raw, &ev); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, ev.Site+"/"+ev.Subject[:1])
	}
	return strings.Join(ids, " ")
}

func TestFeed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a, all := f.client("client-a", relay.RoleRead, "alpha"), f.client("client-all", relay.RoleRead, "*")
	var page EventPage
	all.get("/v1/events").want(200).into(&page)
	empty := page.Next
	if empty == "" || len(page.Items) != 0 {
		t.Errorf("an empty log: %+v", page)
	}
	first := f.publish("alpha", orderA)
	f.publish("beta", orderB)
	f.operational("alpha", relay.KindGapSuspected, "con")
	f.publish("alpha", orderB)
	third, err := f.store.Events.Get(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	since := third.Time.Format(time.RFC3339Nano)
	for query, want := range map[string]string{
		"":                                   "alpha/a beta/b alpha/b",
		"?after=" + empty:                    "alpha/a beta/b alpha/b",
		"?sites=alpha":                       "alpha/a alpha/b",
		"?sites=alpha,beta&orders=" + orderB: "beta/b alpha/b",
		"?types=*":                           "alpha/a beta/b alpha/b",
		"?types=audatex.relay.*":             "alpha/c",
		"?types=audatex.relay.gap-suspected,audatex.parts.*&sites=alpha": "alpha/a alpha/c alpha/b",
		"?types=audatex.parts.order.updated":                             "",
		"?since=" + since:                                                "alpha/b",
		"?types=audatex.relay.*&since=" + since:                          "alpha/c",
		// beyond what nanoseconds reach
		"?since=1600-01-01T00:00:00Z":        "alpha/a beta/b alpha/b",
		"?since=0001-01-01T00:00:00Z":        "alpha/a beta/b alpha/b",
		"?since=9999-12-31T23:59:59Z":        "",
		"?orders=" + strings.ToUpper(orderA): "alpha/a",
		"?sites=nowhere":                     "",
	} {
		all.get("/v1/events" + query).want(200).into(&page)
		if got := idsOf(t, page.Items); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
		// No filter finds anything after this cursor.
		all.get("/v1/events?after=" + page.Next).want(200).into(&page)
		if len(page.Items) != 0 {
			t.Errorf("%s: read on: %s", query, page.Items)
		}
	}
	a.get("/v1/events").want(200).into(&page)
	if got := idsOf(t, page.Items); got != "alpha/a alpha/b" {
		t.Errorf("a client of one site reads %s", got)
	}

	// Page by page nothing is missed and nothing repeats.
	var got []Event
	for next := empty; ; {
		all.get("/v1/events?limit=1&types=audatex.parts.*,audatex.relay.*&after=" + next).want(200).into(&page)
		if len(page.Items) == 0 {
			break
		}
		got, next = append(got, page.Items...), page.Next
	}
	if ids := idsOf(t, got); ids != "alpha/a beta/b alpha/c alpha/b" {
		t.Errorf("page by page: %s", ids)
	}

	// The very bytes that were published.
	want, err := relay.Encode(first)
	if err != nil {
		t.Fatal(err)
	}
	if answer := a.get("/v1/events/" + first.ID).want(200); string(answer.body) != string(want) ||
		answer.header.Get("Content-Type") != relay.EventContentType {
		t.Errorf("event: %s\nwant %s", answer.body, want)
	}
	if string(got[0]) != string(want) {
		t.Errorf("event in a page: %s\nwant %s", got[0], want)
	}
	operational, _, err := f.store.Events.Scan(t.Context(), 3, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	var ev relay.Event
	if err := json.Unmarshal(operational[0].Body, &ev); err != nil {
		t.Fatal(err)
	}
	a.get("/v1/events/" + ev.ID).want(200)
	for _, id := range []string{"alpha-" + orderA + "-1", "nothing", "_-log-clamped-x-1", first.ID + "0"} {
		a.get("/v1/events/" + id).want(404)
	}
}

// A restored log uses positions a second time. A cursor from before the restore stays outdated even
// when the log has grown beyond it.
func TestCursorsFromBeforeARestore(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for range 3 {
		f.publish("alpha", orderA)
	}
	before := position('e', 2)
	f.admin().get("/v1/events?after=" + before).want(200)
	f.api.c.Restored = time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	f.admin().get("/v1/events?after=" + before).want(410).problem("cursor-outdated")
	var page EventPage
	f.admin().get("/v1/events?limit=2").want(200).into(&page)
	f.admin().get("/v1/events?after=" + page.Next).want(200).into(&page)
	if len(page.Items) != 1 {
		t.Errorf("behind a cursor of the restored log: %s", page.Items)
	}
	f.api.c.Restored = f.api.c.Restored.Add(time.Hour)
	f.admin().get("/v1/events?after=" + page.Next).want(410).problem("cursor-outdated")
}

func TestCursorsThatAreOutdated(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for range 3 {
		f.publish("alpha", orderA)
	}
	f.admin().get("/v1/events?after=" + position('e', 3)).want(200)
	// A cursor beyond the log comes from before a restore: waiting there would miss what comes
	// next.
	f.admin().get("/v1/events?after=" + position('e', 4)).want(410).problem("cursor-outdated")
	f.admin().get("/v1/events?waitSeconds=60&after=" + position('e', 99)).want(410).problem("cursor-outdated")
	if err := f.ageOut(2); err != nil {
		t.Fatal(err)
	}
	f.admin().get("/v1/events?after=" + position('e', 0)).want(410).problem("cursor-outdated")
	f.admin().get("/v1/events?after=" + position('e', 1)).want(410).problem("cursor-outdated")
	f.admin().get("/v1/events?after=" + position('e', 2)).want(200)
	var page EventPage
	f.admin().get("/v1/events").want(200).into(&page)
	if len(page.Items) != 1 {
		t.Errorf("without a cursor the feed begins with the oldest there is: %s", page.Items)
	}
}

// ageOut removes the first events of the log, as their age would.
func (f *fixture) ageOut(n int) error {
	stream, err := f.js.Stream(f.t.Context(), f.store.Topology().Events())
	for seq := 1; seq <= n && err == nil; seq++ {
		err = stream.DeleteMsg(f.t.Context(), uint64(seq))
	}
	return err
}

// A waiting request is answered by the event it waits for, soon after that is stored, and by no
// other.
func TestLongPoll(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleRead, "alpha")
	f.publish("alpha", orderA)
	var page EventPage
	a.get("/v1/events").want(200).into(&page)
	next := page.Next
	type woken struct {
		page EventPage
		at   time.Time
	}
	var slowest time.Duration
	for range 5 {
		answers := make(chan woken, 1)
		go func() {
			var w woken
			a.get("/v1/events?waitSeconds=60&after=" + next).into(&w.page)
			w.at = time.Now()
			answers <- w
		}()
		eventually(t, func() bool { return f.waiting() == 1 })
		f.publish("beta", orderA) // not for this client
		f.operational("alpha", relay.KindGapSuspected, "con")
		select {
		case w := <-answers:
			t.Fatalf("woken by what is not its business: %s", w.page.Items)
		default:
		}
		published := time.Now()
		f.publish("alpha", orderB)
		w := <-answers
		if got := idsOf(t, w.page.Items); got != "alpha/b" {
			t.Fatalf("woken by %q", got)
		}
		slowest = max(slowest, w.at.Sub(published))
		next = w.page.Next
	}
	t.Logf("slowest from publish to answer: %v", slowest)
	if slowest > time.Second {
		t.Errorf("woken after %v", slowest)
	}

	// Nothing came: the time is kept, and the cursor is past what was not for the client.
	started := time.Now()
	a.get("/v1/events?waitSeconds=1&after=" + next).want(200).into(&page)
	if took := time.Since(started); took < 900*time.Millisecond || len(page.Items) != 0 {
		t.Errorf("waited %v for nothing and got %s", took, page.Items)
	}
}

// A draining replica lets its waiting requests go at once.
func TestDrainEndsWaiting(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	done := make(chan answer, 1)
	go func() { done <- f.admin().get("/v1/events?waitSeconds=60") }()
	eventually(t, func() bool { return f.waiting() == 1 })
	f.api.Drain()
	select {
	case got := <-done:
		got.want(200)
	case <-time.After(time.Minute):
		t.Fatal("still waiting")
	}
}

// waiting counts the requests that wait for events.
func (f *fixture) waiting() int {
	f.api.feed.mu.Lock()
	defer f.api.feed.mu.Unlock()
	return len(f.api.feed.waiters)
}

func TestWaitingIsLimitedPerKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleRead, "alpha")
	done := make(chan int, maxWaiting)
	for range maxWaiting {
		go func() { done <- a.get("/v1/events?waitSeconds=60").status }()
	}
	eventually(t, func() bool { return f.waiting() == maxWaiting })
	a.get("/v1/events?waitSeconds=60").want(429).problem("too-many-requests")
	f.publish("alpha", orderA)
	for range maxWaiting {
		if status := <-done; status != 200 {
			t.Errorf("a waiting request ended with %d", status)
		}
	}
}

func TestOrders(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a, all := f.client("client-a", relay.RoleRead, "alpha"), f.client("client-all", relay.RoleRead, "*")
	f.order("alpha", orderA)
	f.order("beta", orderA)
	for i := range 5 {
		f.order("alpha", fmt.Sprintf("%08d-6a64-4a2c-9d55-0a3f3a9f7b11", i))
	}
	if err := f.store.Orders.Delete(t.Context(), "alpha.00000001-6a64-4a2c-9d55-0a3f3a9f7b11", 0); err != nil {
		t.Fatal(err)
	}
	for who, want := range map[session]int{a: 5, all: 6, f.admin(): 6} {
		for _, limit := range []int{1, 2, 50} {
			seen := map[string]bool{}
			for after := ""; ; {
				var list OrderList
				who.get(fmt.Sprintf("/v1/orders?limit=%d%s", limit, after)).want(200).into(&list)
				for _, o := range list.Items {
					seen[o.Site+o.Id] = true
				}
				if list.Next == "" {
					break
				}
				after = "&after=" + list.Next
			}
			if len(seen) != want {
				t.Errorf("limit %d: %d orders, want %d", limit, len(seen), want)
			}
		}
	}
	var o Order
	a.get("/v1/orders/" + strings.ToUpper(orderA)).want(200).into(&o)
	if o.Site != "alpha" || string(o.Order) != `{"PartsOrderId":"`+orderA+`","Status":"New","Price":10.10}` {
		t.Errorf("order: %+v %s", o, o.Order)
	}
	p := all.get("/v1/orders/" + orderA).want(409).problem("ambiguous-order")
	if !strings.Contains(p.Detail, "alpha, beta") {
		t.Errorf("detail: %s", p.Detail)
	}
	all.get("/v1/orders/" + orderA + "?site=beta").want(200).into(&o)
	if o.Site != "beta" {
		t.Errorf("order of beta: %+v", o)
	}
	f.publish("alpha", orderA)
	f.publish("beta", orderA)
	f.publish("alpha", orderA)
	var got []Event
	for after := ""; ; {
		var list EventList
		a.get("/v1/orders/" + orderA + "/events?limit=1" + after).want(200).into(&list)
		got = append(got, list.Items...)
		if list.Next == "" {
			break
		}
		after = "&after=" + list.Next
	}
	if ids := idsOf(t, got); ids != "alpha/a alpha/a" {
		t.Errorf("events of the order: %s", ids)
	}
}
