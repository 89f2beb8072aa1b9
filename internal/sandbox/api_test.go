package sandbox_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

func TestCallsAndTheirAnswers(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{Tame: true})
	site := v.site("4711")
	_, company := v.login(sandbox.Consent{Level: sandbox.Company, Sites: []string{"4711", "4712"}})
	_, user := v.login(sandbox.Consent{Level: sandbox.User, Sites: []string{"4711"}, User: "ann"})
	_, basic := v.login(sandbox.Consent{Sites: []string{"4711"}, Scopes: []string{sandbox.ScopeBasic}})
	_, orders := v.login(sandbox.Consent{Sites: []string{"4711"}, Scopes: []string{sandbox.ScopePartsOrders}})
	o := v.create("4711", sandbox.OrderOptions{})
	foreign := v.create("4799", sandbox.OrderOptions{})
	assessment := api + "/assessments/originator/C4711/assessments/A000001"

	const unauthorised = "Unauthorised. Please provide valid user credentials."
	// Rows build on one another: subscriptions come and go.
	for _, row := range []struct {
		name, method, path, token string
		status                    int
		body                      string // whole, or its beginning if it ends in …
	}{
		{"no token", "GET", api + "/whoami", "", 401, unauthorised},
		{"unknown token", "GET", api + "/whoami", "at-0", 401, unauthorised},
		{"who the token is", "GET", api + "/whoami", user, 200, `"ann"`},
		{"topics", "GET", api + "/topics", site, 200,
			`[{"TopicCode":"PARTS","Description":"Parts"},{"TopicCode":"PARTS.ORDER","Description":"Parts order"},…`},
		{"basic scope missing", "GET", api + "/topics", orders, 403, "Forbidden…"},
		{"no subscriptions yet", "GET", api + "/site/subscriptions", site, 204, ""},
		{"no topic", "POST", api + "/site/subscriptions", site, 400, "Invalid topic format."},
		{"bad topic", "POST", api + "/site/subscriptions?topicCode=parts..order", site, 400, "Invalid topic format."},
		{"no such topic", "POST", api + "/site/subscriptions?topicCode=PARTS.ORDERS", site, 404,
			"The topic does not exist."},
		{"subscribe", "POST", api + "/site/subscriptions?topicCode=PARTS.ORDER", site, 200, `{"SubscriptionId":"…`},
		{"subscribe again", "POST", api + "/site/subscriptions?topicCode=PARTS.ORDER", site, 409,
			"The site is already subscribed to this topic."},
		{"another grant of the site", "POST", api + "/site/subscriptions?topicCode=PARTS.ORDER",
			basic, 409, "The site is…"},
		{"another topic", "POST", api + "/site/subscriptions?topicCode=ASSESSMENT.MAIL.SENT", site, 200,
			`{"SubscriptionId":"…`},
		{"list", "GET", api + "/site/subscriptions", basic, 200, `[{"SubscriptionId":"…`},
		{"a company has its own", "GET", api + "/company/subscriptions", company, 204, ""},
		{"company subscribes", "POST", api + "/company/subscriptions?topicCode=PARTS.ORDER", company, 200,
			`{"SubscriptionId":"…`},
		{"user subscribes", "POST", api + "/user/subscriptions?topicCode=PARTS.ORDER", user,
			200, `{"SubscriptionId":"…`},
		{"company call with a site grant", "GET", api + "/company/subscriptions", site, 403, "Forbidden…"},
		{"site call with a user grant", "GET", api + "/site/subscriptions", user, 403, "Forbidden…"},
		{"poll of no subscription", "GET",
			api + "/site/subscriptions/00000000-0000-4000-8000-000000000000/notifications",
			site, 404, "The subscription does not exist."},
		{"delete of no subscription", "DELETE", api + "/site/subscriptions/00000000-0000-4000-8000-000000000000", site,
			404,
			"The subscription does not exist."},
		{"order", "GET", api + "/partsorders/" + o.ID, site, 200, "[" + string(o.JSON) + "]"},
		{"order in capitals", "GET", api + "/partsorders/" + strings.ToUpper(o.ID), site, 200,
			"[" + string(o.JSON) + "]"},
		{"order by company", "GET", api + "/partsorders/" + o.ID, company, 200, "[" + string(o.JSON) + "]"},
		{"order without its scope", "GET", api + "/partsorders/" + o.ID, basic, 403,
			"Forbidden. The scope BMS.PartsOrders is required."},
		{"order of another site", "GET", api + "/partsorders/" + foreign.ID, site, 403, "Forbidden…"},
		{"no such order", "GET", api + "/partsorders/00000000-0000-4000-8000-000000000000", site, 404,
			"The parts order does not exist."},
		{"order without a uuid", "GET", api + "/partsorders/17", site, 404, "The parts order does not exist."},
		{"assessment", "GET", assessment, site, 200, `"` + o.AssessmentID + `"`},
		{"no such assessment", "GET", assessment + "9", site, 404, "No such assessment."},
		{"assessment needs basic", "GET", assessment, orders, 403, "Forbidden…"},
		{"no such path", "GET", api + "/nothing", site, 404, "Not found."},
	} {
		got := v.do(row.method, row.path, row.token)
		want, prefix := strings.CutSuffix(row.body, "…")
		if got.status != row.status || prefix && !strings.HasPrefix(got.body, want) || !prefix && got.body != want {
			t.Errorf("%s: got %d %q, want %d %q", row.name, got.status, got.body, row.status, row.body)
		}
		if id := got.header.Get("Correlation-Id"); !uuid.MatchString(id) {
			t.Errorf("%s: Correlation-Id %q is not a uuid", row.name, id)
		}
		wantType := "application/json; charset=utf-8"
		if row.status >= 400 {
			wantType = "text/plain; charset=utf-8"
		}
		if row.status == 204 {
			wantType = ""
		}
		if is := got.header.Get("Content-Type"); is != wantType {
			t.Errorf("%s: Content-Type %q, want %q", row.name, is, wantType)
		}
	}
}

func TestXMLIsRefusedAndAnythingElseIsJSON(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	token := v.site("4711")
	for accept, status := range map[string]int{
		"": 200, "*/*": 200, "application/json": 200, "text/csv": 200, "application/xml, application/json;q=0.5": 200,
		"application/xml": 406, "text/xml": 406,
	} {
		got, err := v.try("GET", api+"/whoami", token, http.Header{"Accept": {accept}}, "")
		if err != nil || got.status != status {
			t.Errorf("Accept %q: %d %v, want %d", accept, got.status, err, status)
		}
	}
}

func TestSubscriptionLivesAndDies(t *testing.T) {
	t.Parallel()
	for _, tame := range []bool{true, false} {
		v := start(t, sandbox.Config{Tame: tame})
		token := v.site("4711")
		missed := v.create("4711", sandbox.OrderOptions{})
		sub := v.subscribe(sandbox.Site, token)
		seen := v.create("4711", sandbox.OrderOptions{})
		v.create("4712", sandbox.OrderOptions{})

		list := v.do("GET", api+"/site/subscriptions", token)
		var subs []struct {
			SubscriptionId string
			Topic          struct{ TopicCode, Description string }
			CreatedAt      string
		}
		list.decode(t, &subs)
		if len(subs) != 1 || subs[0].SubscriptionId != sub || subs[0].Topic.TopicCode != "PARTS.ORDER" {
			t.Fatalf("tame %t: listed %s", tame, list.body)
		}
		// Only what happens to its site after it exists is queued.
		got := v.poll(sandbox.Site, token, strings.ToUpper(sub))
		if len(got) != 1 || got[0].orderID(t) != seen.ID || got[0].Topic != sandbox.TopicCreated {
			t.Fatalf("tame %t: polled %+v, want only %s and not %s", tame, got, seen.ID, missed.ID)
		}
		if again := v.poll(sandbox.Site, token, sub); len(again) != 0 {
			t.Fatalf("tame %t: a poll is destructive, but the next one carried %+v", tame, again)
		}
		// A new consent for the site finds the queue as it was.
		v.create("4711", sandbox.OrderOptions{})
		if got := v.poll(sandbox.Site, v.site("4711"), sub); len(got) != 1 {
			t.Fatalf("tame %t: a second grant polled %d", tame, len(got))
		}
		// Gone is gone, with what waited.
		dropped := v.create("4711", sandbox.OrderOptions{})
		if got := v.do("DELETE", api+"/site/subscriptions/"+sub, token); got.status != 204 || got.body != "" {
			t.Fatalf("tame %t: deleting: %d %q", tame, got.status, got.body)
		}
		if got := v.do("GET", api+"/site/subscriptions/"+sub+"/notifications", token); got.status != 404 {
			t.Fatalf("tame %t: polling what is gone: %d", tame, got.status)
		}
		if lost := v.LostOrders(); !slices.Equal(lost, []string{dropped.ID}) {
			t.Errorf("tame %t: lost orders %v, want %s", tame, lost, dropped.ID)
		}
		if second := v.subscribe(sandbox.Site, token); len(v.poll(sandbox.Site, token, second)) != 0 || second == sub {
			t.Errorf("tame %t: a new subscription starts empty under its own id", tame)
		}
		c := v.Counters()
		if c.NotificationsMissed != 2 || c.NotificationsQueued != 3 || c.NotificationsHandedOut != 2 ||
			c.NotificationsDropped != 1 {
			t.Errorf("tame %t: counters %+v", tame, c)
		}
	}
}

func TestRemovedSubscriptionIs404(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	token := v.site("4711")
	sub := v.subscribe(sandbox.Site, token)
	if err := v.RemoveSubscription(sub); err != nil {
		t.Fatal(err)
	}
	if got := v.do("GET", api+"/site/subscriptions/"+sub+"/notifications", token); got.status != 404 {
		t.Errorf("polling a removed subscription: %d", got.status)
	}
	if err := v.RemoveSubscription(sub); err == nil {
		t.Error("removing it twice went well")
	}
}

func TestForeignSubscriptionIs404(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	sub := v.subscribe(sandbox.Site, v.site("4711"))
	other := v.site("4712")
	for _, call := range []struct{ method, path string }{
		{"GET", "/site/subscriptions/" + sub + "/notifications"}, {"DELETE", "/site/subscriptions/" + sub},
	} {
		if got := v.do(call.method, api+call.path, other); got.status != 404 {
			t.Errorf("%s %s by another site: %d", call.method, call.path, got.status)
		}
	}
}

func TestCompanyGrantCoversItsSites(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	_, company := v.login(sandbox.Consent{Level: sandbox.Company, Sites: []string{"1", "2"}, CompanyCode: "ACME"})
	_, user := v.login(sandbox.Consent{Level: sandbox.User, Sites: []string{"2", "3"}, User: "ann"})
	companySub, userSub := v.subscribe(sandbox.Company, company), v.subscribe(sandbox.User, user)
	siteOf := map[string]string{}
	for _, site := range []string{"1", "2", "3"} {
		for range 20 {
			siteOf[v.create(site, sandbox.OrderOptions{}).ID] = site
		}
	}
	for _, c := range []struct {
		level      sandbox.Level
		token, sub string
		sites      []string
	}{
		{sandbox.Company, company, companySub, []string{"1", "2"}},
		{sandbox.User, user, userSub, []string{"2", "3"}},
	} {
		got := v.poll(c.level, c.token, c.sub)
		if len(got) != 40 {
			t.Fatalf("%s: polled %d, want 40", c.level, len(got))
		}
		for _, m := range got {
			if id := m.orderID(t); m.SiteId != siteOf[id] || !slices.Contains(c.sites, m.SiteId) {
				t.Fatalf("%s: order %s of site %s came as of %q", c.level, id, siteOf[id], m.SiteId)
			}
			if c.level == sandbox.Company && m.CompanyCode != "ACME" {
				t.Fatalf("company code %q", m.CompanyCode)
			}
		}
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	clock := newClock(time.Date(2026, 1, 15, 9, 30, 15, 0, time.UTC))
	v := start(t, sandbox.Config{RateLimit: 3, Now: clock.now})
	token := v.site("4711")
	for i, want := range []int{200, 200, 200, 429, 429} {
		got := v.do("GET", api+"/whoami", token)
		if got.status != want {
			t.Fatalf("call %d: %d, want %d", i+1, got.status, want)
		}
		if want == 429 && (got.header.Get("Retry-After") != "45" || got.body != "API calls quota exceeded.") {
			t.Errorf("call %d: Retry-After %q, body %q", i+1, got.header.Get("Retry-After"), got.body)
		}
	}
	clock.add(45 * time.Second)
	if got := v.do("GET", api+"/whoami", token); got.status != 200 {
		t.Errorf("in the next minute: %d", got.status)
	}
	if n := v.Counters().RateLimited; n != 2 {
		t.Errorf("rate limited: %d, want 2", n)
	}
}
