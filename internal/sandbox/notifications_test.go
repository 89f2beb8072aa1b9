package sandbox_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/audatex-relay/relay/internal/sandbox"
)

func TestPageOfAHundred(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	token := v.site("4711")
	sub := v.subscribe(sandbox.Site, token)
	var want []string
	for range 250 {
		want = append(want, v.create("4711", sandbox.OrderOptions{}).ID)
	}
	if c := v.Counters(); c.NotificationsWaiting != 250 {
		t.Errorf("waiting: %d", c.NotificationsWaiting)
	}
	var got []string
	for _, size := range []int{100, 100, 50, 0} {
		page := v.poll(sandbox.Site, token, sub)
		if len(page) != size {
			t.Fatalf("a page of %d, want %d", len(page), size)
		}
		for _, m := range page {
			got = append(got, m.orderID(t))
		}
	}
	if !slices.Equal(got, want) {
		t.Error("notifications did not come in the order of queueing")
	}
	c := v.Counters()
	if c.PagesHandedOut != 3 || c.PagesFull != 2 || c.NotificationsHandedOut != 250 || c.NotificationsLost != 0 ||
		c.Requests[sandbox.OpPoll] != 4 {
		t.Errorf("counters %+v", c)
	}
}

var (
	vendorTimes = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z?$`)
	anyUUID     = regexp.MustCompile(`(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
)

func TestNotificationsAreHostile(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	token := v.site("4711")
	sub := v.subscribe(sandbox.Site, token)
	for range 300 {
		v.create("4711", sandbox.OrderOptions{})
	}
	seen := map[string]int{}
	note := func(what string, is bool) {
		if is {
			seen[what]++
		}
	}
	for range 3 {
		got := v.do("GET", api+"/site/subscriptions/"+sub+"/notifications", token)
		var page []json.RawMessage
		got.decode(t, &page)
		for _, raw := range page {
			var m message
			var all map[string]json.RawMessage
			if json.Unmarshal(raw, &m) != nil || json.Unmarshal(raw, &all) != nil {
				t.Fatalf("reading %s", raw)
			}
			older := len(m.ResourceUris) == 1
			if older && (m.NotificationId != "" || m.SiteId != "" || m.Resources != nil) ||
				!older && (m.NotificationId == "" || m.SiteId != "4711" || !strings.EqualFold(m.SubscriptionId, sub)) {
				t.Fatalf("neither form: %s", raw)
			}
			if !vendorTimes.MatchString(m.CreatedAt) || m.Topic != sandbox.TopicCreated {
				t.Fatalf("CreatedAt %q, topic %q", m.CreatedAt, m.Topic)
			}
			if _, err := v.Order(m.orderID(t)); err != nil {
				t.Fatalf("%s: %v", raw, err)
			}
			id := anyUUID.FindAllString(string(raw), -1)
			note("older form", older)
			note("newer form", !older)
			note("upper case", slices.ContainsFunc(id, func(x string) bool { return x != strings.ToLower(x) }))
			note("no zone", !strings.HasSuffix(m.CreatedAt, "Z"))
			note("several resources", len(m.Resources) > 1)
			note("one resource of a type that says nothing", len(m.Resources) == 1 &&
				!strings.Contains(m.Resources[0].ResourceType, "rder"))
			note("foreign URL", strings.Contains(string(raw), "http://localhost:"))
			note("null parameters", string(all["Parameters"]) == "null")
			note("absent parameters", !older && all["Parameters"] == nil)
			note("unknown field", all["Schema"] != nil || all["Retries"] != nil)
			note("HTML", strings.Contains(string(raw), "<b>changed</b> &"))
			note("query behind the uuid", strings.Contains(string(raw), "?format=json"))
			if strings.Contains(string(raw), "sandbox.invalid") {
				t.Fatalf("the trap was not filled in: %s", raw)
			}
		}
	}
	for _, what := range []string{"older form", "newer form", "upper case", "no zone", "several resources",
		"one resource of a type that says nothing", "foreign URL", "null parameters", "absent parameters",
		"unknown field",
		"HTML", "query behind the uuid"} {
		if seen[what] < 3 {
			t.Errorf("%s: seen %d times in 300", what, seen[what])
		}
	}
}

func TestTameNotifications(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{Tame: true})
	token := v.site("4711")
	sub := v.subscribe(sandbox.Site, token)
	o := v.create("4711", sandbox.OrderOptions{Reference: "R1"})
	body := v.do("GET", api+"/site/subscriptions/"+sub+"/notifications", token).body
	record := v.Ledger().Orders[0].Notifications[0]
	want := fmt.Sprintf(`[{"NotificationId":%q,"SubscriptionId":%q,"EventType":"PartsOrder",`+
		`"Topic":"PARTS.ORDER.CREATED",`+
		`"Message":"Parts order R1","CompanyCode":"C4711","SiteId":"4711","CreatedAt":%q,"Parameters":[],`+
		`"Resources":[{"ResourceType":"PartsOrder","ResourceId":%q}]}]`,
		record.ID, sub, record.QueuedAt.UTC().Format("2006-01-02T15:04:05.0000000Z"), o.ID)
	if body != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
}

func TestTrapCountsWhoFollowsAMessage(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	token := v.site("4711")
	sub := v.subscribe(sandbox.Site, token)
	if n := v.QueueRaw("4711",
		json.RawMessage(`{"ResourceUris":[{"Type":"x","Value":"`+sandbox.TrapURL+`/_trap/a"}]}`)); n != 1 {
		t.Fatalf("queued %d times", n)
	}
	m := v.poll(sandbox.Site, token, sub)[0]
	if n := v.Counters().TrapCalls; n != 0 {
		t.Fatalf("trap calls before any: %d", n)
	}
	u := m.ResourceUris[0].Value
	if strings.HasPrefix(u, v.url) {
		t.Fatalf("%s is not another host than %s", u, v.url)
	}
	// The other name may be one the machine resolves to an address nobody listens
	// on; the path is what counts.
	if got := v.do("GET", u[strings.Index(u, "/_trap"):], token); got.status != 404 {
		t.Errorf("trap: %d", got.status)
	}
	if n := v.Counters().TrapCalls; n != 1 {
		t.Errorf("trap calls: %d", n)
	}
}

func TestRawMessagesCarryAnything(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	token := v.site("4711")
	sub := v.subscribe(sandbox.Site, token)
	v.QueueRaw("4711", json.RawMessage(`{"a": 1.50}`))
	v.QueueRaw("4711", json.RawMessage(`{broken`))
	if got := v.do("GET", api+"/site/subscriptions/"+sub+"/notifications", token); got.body != `[{"a": 1.50},{broken]` {
		t.Errorf("polled %q", got.body)
	}
	if n := v.QueueRaw("4712", json.RawMessage(`{}`)); n != 0 {
		t.Errorf("a site without subscription queued %d", n)
	}
	if raw := v.Ledger().Raw; len(raw) != 2 || raw[0].Form != sandbox.Raw || raw[0].HandedOutAt.IsZero() {
		t.Errorf("ledger %+v", raw)
	}
}

func TestLedgerKnowsWhoHandedOutWhat(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{Tame: true})
	token := v.site("4711")
	sub := v.subscribe(sandbox.Site, token)
	o := v.create("4711", sandbox.OrderOptions{})
	if _, err := v.AdvanceOrder(o.ID); err != nil {
		t.Fatal(err)
	}
	if err := v.Touch(o.ID); err != nil {
		t.Fatal(err)
	}
	got := v.do("GET", api+"/site/subscriptions/"+sub+"/notifications", token)
	if _, err := v.ChangeOrder(o.ID, sandbox.Change{Status: "Cancelled"}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.ChangeOrder(o.ID, sandbox.Change{Silent: true}); err != nil {
		t.Fatal(err)
	}
	l := v.Ledger()
	if len(l.Orders) != 1 || l.Orders[0].ID != o.ID || l.Orders[0].Site != "4711" {
		t.Fatalf("ledger %+v", l)
	}
	var statuses, topics []string
	for _, state := range l.Orders[0].States {
		statuses = append(statuses, state.Status)
	}
	if want := []string{"New", "Confirmed", "Cancelled", "Cancelled"}; !slices.Equal(statuses, want) {
		t.Errorf("states %v, want %v", statuses, want)
	}
	for i, n := range l.Orders[0].Notifications {
		topics = append(topics, n.Topic)
		out := i < 3
		if n.HandedOutAt.IsZero() == out || n.Lost || n.Dropped || n.Subscription != sub || n.Order != o.ID ||
			out && n.CorrelationID != got.header.Get("Correlation-Id") {
			t.Errorf("notification %d: %+v", i, n)
		}
	}
	if want := []string{"PARTS.ORDER.CREATED", "PARTS.ORDER.UPDATED", "PARTS.ORDER.UPDATED",
		"PARTS.ORDER.UPDATED"}; !slices.Equal(topics, want) {
		t.Errorf("topics %v, want %v", topics, want)
	}
}

// Many sites, writers and readers at once: every notification is handed out
// exactly once, in order per order, and the counters agree.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	const sites, orders, moves = 8, 40, 3
	v := start(t, sandbox.Config{})
	type reader struct {
		token, sub string
		seen       map[string]int // by order
	}
	readers := make([]*reader, sites)
	for i := range readers {
		token := v.site(fmt.Sprint(i))
		readers[i] = &reader{token: token, sub: v.subscribe(sandbox.Site, token), seen: map[string]int{}}
	}
	var writers, all sync.WaitGroup
	written := make(chan struct{})
	for i, r := range readers {
		writers.Go(func() {
			for range orders {
				o, err := v.CreateOrder(fmt.Sprint(i), sandbox.OrderOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				for range moves {
					if _, err := v.ChangeOrder(o.ID, sandbox.Change{}); err != nil {
						t.Error(err)
					}
				}
				v.Counters()
			}
		})
		all.Go(func() {
			path := api + "/site/subscriptions/" + r.sub + "/notifications"
			for last := false; ; {
				got, err := v.try(http.MethodGet, path, r.token, nil, "")
				var page []message
				if err != nil || json.Unmarshal([]byte(got.body), &page) != nil {
					t.Errorf("polling: %v %s", err, got.body)
					return
				}
				for _, m := range page {
					id := m.orderID(t)
					if created := m.Topic == sandbox.TopicCreated; created != (r.seen[id] == 0) {
						t.Errorf("%s came as number %d of order %s", m.Topic, r.seen[id], id)
					}
					r.seen[id]++
				}
				if len(page) > 0 {
					continue
				}
				if last {
					return
				}
				select {
				case <-written:
					last = true // one more look, as the last ones may have come in between
				default:
				}
			}
		})
	}
	writers.Wait()
	close(written)
	all.Wait()
	for i, r := range readers {
		if len(r.seen) != orders {
			t.Errorf("site %d: %d orders", i, len(r.seen))
		}
		for id, n := range r.seen {
			if n != 1+moves {
				t.Errorf("order %s: %d notifications", id, n)
			}
		}
	}
	c := v.Counters()
	if want := int64(sites * orders * (1 + moves)); c.NotificationsQueued != want || c.NotificationsHandedOut != want ||
		c.NotificationsLost != 0 || c.NotificationsWaiting != 0 || c.PollsOverlapping != 0 {
		t.Errorf("want %d of each: %+v", want, c)
	}
}
