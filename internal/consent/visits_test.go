package consent

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/audatex-relay/relay/internal/relay"
)

// Opening a link without pressing its button starts nothing, no matter how often or by which
// client.
func TestLookingAtALinkSpendsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.link(NewLink{Connection: w.connection("con-a", "4711")})
	b := w.browser()
	b.send(http.MethodHead, made.URL, nil)
	if l := w.stored(made.ID); l.LastOpenedAt != nil {
		t.Error("a HEAD has opened the link")
	}
	revision := uint64(0)
	for i := range 20 {
		if page := b.get(made.URL); page.status != http.StatusOK {
			t.Fatalf("%d %s", page.status, page.title())
		}
		if page := b.send(http.MethodHead, made.URL, nil); page.status != http.StatusOK || page.body != "" {
			t.Fatalf("HEAD: %d %q", page.status, page.body)
		}
		_, at, err := w.any().load(t.Context(), made.ID)
		if err != nil || i > 0 && at != revision {
			t.Fatalf("look %d has written the link again: %d after %d, %v", i, at, revision, err)
		}
		revision = at
	}
	l := w.stored(made.ID)
	if len(l.Attempts) != 0 || l.State(time.Now()) != relay.ConsentLinkOpen || l.LastOpenedAt == nil {
		t.Errorf("the link is %+v", l)
	}
	if requests := w.box.Counters().Requests; len(requests) > 0 {
		for op, n := range requests {
			if n > 0 {
				t.Errorf("the vendor was asked %d times for %s", n, op)
			}
		}
	}
}

// Only a button on the relay's own pages begins a consent.
func TestOnlyOurOwnButtonBegins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.link(NewLink{Connection: w.connection("con-a", "4711")})
	b := w.browser()
	form := url.Values{"begin": {"1"}}
	for name, headers := range map[string][]string{
		"another site":              {"Sec-Fetch-Site", "cross-site"},
		"another origin, same site": {"Sec-Fetch-Site", "same-site", "Origin", "null"},
		"typed in":                  {"Sec-Fetch-Site", "none"},
		"an old browser elsewhere":  {"Origin", "https://evil.example"},
		"an old browser, no origin": {"Referer", "https://evil.example/"},
		"no form":                   {"Sec-Fetch-Site", "same-origin", "Content-Type", "text/plain"},
	} {
		if got := b.send(http.MethodPost, made.URL, form, headers...); got.status != http.StatusForbidden ||
			got.location != "" {
			t.Errorf("%s: %d %q", name, got.status, got.location)
		}
	}
	for name, body := range map[string]url.Values{"without the button": {},
		"too long": {"begin": {"1"}, "x": {strings.Repeat("x", maxBody)}}} {
		if got := b.send(http.MethodPost, made.URL, body, "Sec-Fetch-Site",
			"same-origin"); got.status != http.StatusForbidden {
			t.Errorf("%s: %d", name, got.status)
		}
	}
	if l := w.stored(made.ID); len(l.Attempts) != 0 {
		t.Errorf("%d were begun", len(l.Attempts))
	}
	for name, headers := range map[string][]string{
		"a browser of today":        {"Sec-Fetch-Site", "same-origin", "Origin", "null"},
		"an old browser":            {"Origin", "null"},
		"an old browser, by origin": {"Origin", w.public},
		"no browser":                nil,
	} {
		got := b.send(http.MethodPost, made.URL, form, headers...)
		if got.status != http.StatusSeeOther || !strings.HasPrefix(got.location, w.vendor) {
			t.Errorf("%s: %d %q", name, got.status, got.location)
		}
	}
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
		if got := b.send(method, made.URL, nil); got.status != http.StatusMethodNotAllowed ||
			got.header.Get("Allow") != "GET, HEAD, POST" {
			t.Errorf("%s: %d %q", method, got.status, got.header.Get("Allow"))
		}
	}
	if got := b.send(http.MethodPost, callbackPath+"?state=x", form); got.status != http.StatusMethodNotAllowed {
		t.Errorf("POST of the way back: %d", got.status)
	}
}

// What goes to the vendor, and the cookie that stays.
func TestTheButtonSendsToTheVendor(t *testing.T) {
	t.Parallel()
	for _, pkce := range []bool{true, false} {
		w := newWorld(t, func(c *Config) { c.PKCE = pkce })
		made := w.link(NewLink{Connection: w.connection("con-a", "4711")})
		at := w.browser().press(made.URL)
		to, err := url.Parse(at.location)
		if err != nil || at.status != http.StatusSeeOther {
			t.Fatalf("%d %q", at.status, at.location)
		}
		q := to.Query()
		state := q.Get("state")
		if c, ok := readCredential(state); !ok || c.link != made.ID || c.attempt == "" {
			t.Errorf("the state is %q", state)
		}
		if q.Get("redirect_uri") != w.public+callbackPath || q.Get("response_type") != "code" ||
			q.Get("scope") != "BMS.Basic BMS.PartsOrders ReferenceData.Company" {
			t.Errorf("the vendor is asked %v", q)
		}
		if (len(q.Get("code_challenge")) == 43 && q.Get("code_challenge_method") == "S256") != pkce || !pkce &&
			q.Has("code_challenge") {
			t.Errorf("PKCE %v: %v", pkce, q)
		}
		cookie := at.header.Get("Set-Cookie")
		for _, want := range []string{"consent-" + attemptID(state)[:16] + "=", "HttpOnly", "SameSite=Lax", "Path=/",
			"Max-Age=1800"} {
			if !strings.Contains(cookie, want) {
				t.Errorf("the cookie %q lacks %q", cookie, want)
			}
		}
		if strings.Contains(cookie, "Secure") || strings.Contains(cookie, "Domain") {
			t.Errorf("the cookie of http on loopback is %q", cookie)
		}
		if l := w.stored(made.ID); strings.Contains(string(l.Attempts[0].Cookie), cookie) ||
			len(l.Attempts[0].Sealed) == 0 {
			t.Errorf("stored: %+v", l.Attempts[0])
		}
	}
}

// By https the cookie is bound to the host and to TLS.
func TestTheCookieOfHTTPS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.PublicURL = "https://relay.example/base/" })
	made := w.link(NewLink{Connection: w.connection("con-a", "4711")})
	if !strings.HasPrefix(made.URL, "https://relay.example/base/consent/") {
		t.Fatalf("the link is %s", made.URL)
	}
	b := w.browser()
	path := strings.TrimPrefix(made.URL, "https://relay.example/base")
	page := b.get(path)
	for _, want := range []string{`action="/base/consent/`, `href="/base/consent/style.css"`} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page lacks %s: %s", want, page.body)
		}
	}
	at := b.press(path)
	cookie := at.header.Get("Set-Cookie")
	if !strings.HasPrefix(cookie, "__Host-consent-") || !strings.Contains(cookie, "; Secure") ||
		!strings.Contains(cookie, "Path=/;") || strings.Contains(cookie, "Domain") {
		t.Errorf("the cookie is %q", cookie)
	}
}

// While a 429 stops requests to the vendor's host, the button is disabled and the page explains
// why.
func TestTheButtonWaitsForTheVendor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.link(NewLink{Connection: w.connection("con-a", "4711")})
	b := w.browser()
	w.any().budget.Observe(http.StatusTooManyRequests, http.Header{"Retry-After": {"600"}})
	page := b.get(made.URL)
	if page.status != http.StatusOK || !strings.Contains(page.body, " disabled>") ||
		!strings.Contains(page.body, "asked this relay to wait until") {
		t.Errorf("%d %s", page.status, page.body)
	}
	pressed := b.press(made.URL)
	if pressed.status != http.StatusServiceUnavailable || pressed.header.Get("Retry-After") == "" ||
		len(w.stored(made.ID).Attempts) != 0 {
		t.Errorf("pressed: %d %v", pressed.status, pressed.header)
	}
}

// A code that comes back while the vendor has asked for more quiet than a code lives is not waited
// for.
func TestACodeThatWouldBeTooOldIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("4711")
	made := w.link(NewLink{Connection: w.connection("con-a", "4711")})
	b := w.browser()
	back := b.toVendor(made.URL, "4711")
	w.any().budget.Observe(http.StatusTooManyRequests, http.Header{"Retry-After": {"600"}})
	result := b.finish(back)
	if result.title() != "Audatex did not answer" || w.box.Counters().CodesExchanged != 0 {
		t.Fatalf("%d %s", result.status, result.title())
	}
	if page := b.get(mainLink(result)); !strings.Contains(page.body, " disabled>") {
		t.Errorf("start again: %s", page.body)
	}
}

// A user who goes back and presses the button again and again is not kept out; no more than ten are
// open.
func TestTenConsentsAreOpenAtMost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("4711")
	made := w.link(NewLink{Connection: w.connection("con-a", "4711")})
	b := w.browser()
	first := b.toVendor(made.URL, "4711")
	for range relay.MaxOpenConsents {
		if at := b.press(made.URL); at.status != http.StatusSeeOther {
			t.Fatalf("%d", at.status)
		}
	}
	if n := len(w.stored(made.ID).Attempts); n != relay.MaxOpenConsents {
		t.Errorf("%d are open", n)
	}
	if page := b.get(first); page.status != http.StatusNotFound {
		t.Errorf("the first of eleven: %d %s", page.status, page.title())
	}
	if result := b.consent(made.URL, "4711"); !strings.HasPrefix(result.title(), "Connected") {
		t.Errorf("the last one: %s", result.title())
	}
}

// Every way of coming back, or of opening a link, that leads to nothing has a page of its own with
// what to do next.
func TestPagesOfWhatLeadsNowhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("4711")
	c := w.connection("con-a", "4711")
	b, other := w.browser(), w.browser()
	begun := func() (Made, string) {
		made := w.link(NewLink{Connection: c})
		return made, b.toVendor(made.URL, "4711")
	}
	elsewhere, back := begun()
	late, lateBack := begun()
	withdrawn, withdrawnBack := begun()
	w.edit(late.ID, func(l *relay.ConsentLink) {
		l.Attempts[0].StartedAt = l.Attempts[0].StartedAt.Add(-relay.ConsentAttemptLife)
	})
	expired := w.link(NewLink{Connection: c})
	w.edit(expired.ID, func(l *relay.ConsentLink) { l.ExpiresAt = time.Now() })
	if err := w.any().Withdraw(t.Context(), c, withdrawn.ID); err != nil {
		t.Fatal(err)
	}
	gone := w.connection("con-b", "4711")
	goneLink := w.link(NewLink{Connection: gone})
	if err := w.any().store.Connections.Delete(t.Context(), "con-b", 0); err != nil {
		t.Fatal(err)
	}
	w.connection("con-b", "4711") // another one of the same id
	stranger := newState(elsewhere.ID)

	for name, tt := range map[string]struct {
		got    shown
		status int
		title  string
		again  bool
	}{
		"a link that there is not": {b.get(pagesPath + newSecret()), 404, "This link is not known", false},
		"a link cut short": {b.get(elsewhere.URL[:len(elsewhere.URL)-1]), 404, "This link is not known",
			false},
		"something else":                 {b.get(pagesPath + "x/y"), 404, "This link is not known", false},
		"a link's token as a result":     {b.get(elsewhere.URL + resultPath), 404, "This link is not known", false},
		"an expired link":                {b.get(expired.URL), 410, "This link has expired", false},
		"an expired link's button":       {b.press(expired.URL), 410, "This link has expired", false},
		"a withdrawn link":               {b.get(withdrawn.URL), 410, "This link is no longer valid", false},
		"a withdrawn link's button":      {b.press(withdrawn.URL), 410, "This link is no longer valid", false},
		"a link of a removed connection": {b.get(goneLink.URL), 410, "This link is no longer valid", false},
		"back without a state": {b.get(callbackPath + "?code=x"), 404, "Nobody here has asked Audatex for this",
			false},
		"back with a token for a state": {b.get(callbackPath + "?code=x&state=" + newSecret()), 404,
			"Nobody here has asked Audatex for this", false},
		"back with a state never given": {b.get(callbackPath + "?code=x&state=" + stranger), 404,
			"Nobody here has asked Audatex for this", false},
		"a result never given":    {b.get(pagesPath + stranger + resultPath), 404, "This link is not known", false},
		"back in another browser": {other.get(back), 403, "This was begun in another browser", true},
		"the result in another browser": {other.get(pagesPath + stateOf(back) + resultPath), 403,
			"This was begun in another browser", true},
		"back too late": {b.get(lateBack), 410, "That took too long", true},
		"back without a code": {b.get(callbackPath + "?state=" + stateOf(back)), 400,
			"The answer from Audatex is not complete", true},
		"back by a link that is withdrawn": {b.finish(withdrawnBack), 200, "This link is no longer valid", false},
	} {
		if tt.got.status != tt.status || tt.got.title() != tt.title {
			t.Errorf("%s: %d %q, want %d %q", name, tt.got.status, tt.got.title(), tt.status, tt.title)
		}
		if !strings.Contains(tt.got.body, "What to do next") && mainLink(tt.got) == "" {
			t.Errorf("%s does not say what to do next:\n%s", name, tt.got.body)
		}
		if again := mainLink(tt.got); (again != "") != tt.again {
			t.Errorf("%s: start again leads to %q", name, again)
		} else if tt.again {
			if page := other.get(again); page.status != 200 ||
				page.title() != "Allow access to your parts orders at Audatex" {
				t.Errorf("%s: start again leads to %d %s", name, page.status, page.title())
			}
		}
	}
	// Nothing of this has spent anything.
	if n := w.box.Counters().CodesExchanged; n != 0 {
		t.Errorf("%d codes were exchanged", n)
	}
	if result := b.finish(back); !strings.HasPrefix(result.title(), "Connected") {
		t.Errorf("the right browser, after all that: %s", result.title())
	}
	if page := other.get(back); page.status != 410 || !strings.Contains(page.title(), "consent was given") {
		t.Errorf("used, in another browser: %d %s", page.status, page.title())
	}
	if page := b.press(pagesPath + stateOf(back)); page.status != 410 {
		t.Errorf("begin again by a used link: %d %s", page.status, page.title())
	}
}

// Callers that guess are slowed, and callers with a valid link never are.
func TestGuessesAreSlowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.link(NewLink{Connection: w.connection("con-a", "4711")})
	b := w.browser()
	slowed := 0
	for range 40 {
		if got := b.get(pagesPath + newSecret()); got.status == http.StatusTooManyRequests &&
			got.header.Get("Retry-After") != "" {
			slowed++
		}
	}
	if slowed == 0 {
		t.Error("forty guesses went on as the first")
	}
	if page := b.get(made.URL); page.status != http.StatusOK {
		t.Errorf("a link that there is: %d", page.status)
	}
}

// A user who returns from the vendor is let in even if the same network sends many other requests:
// the code is valid for a minute only.
func TestTheWayBackHasARateOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.link(NewLink{Connection: w.connection("con-a", "4711")})
	w.account("4711")
	b := w.browser()
	back := b.toVendor(made.URL, "4711")
	g := w.any().guards
	g.mu.Lock()
	for _, at := range g.rates.Keys() {
		g.rates.Add(lane{at.network, false}, rate.NewLimiter(0, 0))
	}
	g.mu.Unlock()
	for name, get := range map[string]func() shown{
		"a link":                  func() shown { return b.get(made.URL) },
		"the way back, no cookie": func() shown { return w.browser().get(back) },
		"the way back, other state": func() shown {
			return b.get(callbackPath + "?code=x&state=" + newState(made.ID))
		},
		"a result, no cookie":        func() shown { return w.browser().get(pagesPath + stateOf(back) + resultPath) },
		"the way back by the button": func() shown { return b.press(back) },
	} {
		if page := get(); page.status != http.StatusTooManyRequests || page.header.Get("Retry-After") != "1" ||
			!strings.Contains(page.body, "Wait a few seconds") {
			t.Errorf("%s: %d, Retry-After %q", name, page.status, page.header.Get("Retry-After"))
		}
	}
	if page := b.finish(back); page.status != http.StatusOK || w.stored(made.ID).UsedAt == nil {
		t.Errorf("the way back: %d %s", page.status, page.title())
	}
}
