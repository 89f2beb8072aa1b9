package browser

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

const (
	asks      = "Allow access to your parts orders at Audatex"
	begin     = "button[name=begin]"
	startOver = "a.main"
)

// TestConsentInChromium goes through everything that a user of the vendor may do with a link. All of it runs on three
// relays, of which each request meets another one.
func TestConsentInChromium(t *testing.T) {
	if chromium == "" {
		t.Skip("there is no Chromium here: install it, or name it in RELAY_CHROMIUM")
	}
	w := newWorld(t)
	t.Run("users", func(t *testing.T) {
		for name, user := range map[string]func(*testing.T, *world){
			"from link to stored token with scripts": func(t *testing.T, w *world) {
				consents(t, w, w.browser(t).tab("scripts"))
			},
			"from link to stored token without scripts": func(t *testing.T, w *world) {
				consents(t, w, w.browser(t).tab("no scripts").withoutScripts())
			},
			"on a wide screen": func(t *testing.T, w *world) {
				consents(t, w, w.browser(t).tab("wide", chromedp.EmulateViewport(1280, 800)))
			},
			"scanners spend nothing":           scannersSpendNothing,
			"two tabs at once":                 twoTabs,
			"callback loaded twice":            callbackTwice,
			"another browser":                  anotherBrowser,
			"denied, then allowed":             denied,
			"another site":                     anotherSite,
			"pages of links that lead nowhere": leadNowhere,
			"what the API is":                  readsDocs,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				user(t, w)
			})
		}
	})
	// Last, as a host that asks for quiet gets it from everybody.
	t.Run("while the vendor wants quiet", func(t *testing.T) { quiet(t, w) })
}

// consents goes the way that everybody should.
func consents(t *testing.T, w *world, b *tab) {
	s := w.newSite(t)
	b.open(s.link)
	b.wants(asks)
	b.says(s.connection, s.number, "Company Code", "User Name", "Password",
		strings.TrimPrefix(w.public, "http://"), "parts orders")
	b.judge("consent")
	b.press(begin)
	b.wants("Sign in")
	b.login(s, "a wrong password")
	b.says("wrong")
	b.login(s, password)
	b.press("#allow")
	b.wants("Connected: " + s.connection + " (Audatex site " + s.number + ")")
	b.says("Back to your application")
	b.judge("connected")
	if state := w.state(t, s); state != "used begun 1" {
		t.Errorf("the link is %s", state)
	}
	w.connected(t, s)
	b.open(s.link)
	b.wants("This link has been used: consent was given")
	b.judge("used")
}

// scannersSpendNothing loads the link as the programs do that look at mail before its reader does.
func scannersSpendNothing(t *testing.T, w *world) {
	s := w.newSite(t)
	for range 20 {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			request, err := http.NewRequestWithContext(t.Context(), method, s.link, nil)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := w.api.Client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				t.Fatalf("%s is answered %d", method, answer.StatusCode)
			}
		}
	}
	scanner := w.browser(t).tab("scanner")
	for range 3 {
		scanner.open(s.link)
		scanner.wants(asks)
		// What a scanner with scripts does: it moves, scrolls, and loads whatever the page links to.
		ask(scanner, chromedp.Evaluate[int](`window.scrollTo(0, document.body.scrollHeight); document.dispatchEvent(new MouseEvent("mousemove"));
			Promise.all([...document.querySelectorAll("[href],[src],form")].map(e => fetch(e.href || e.src || e.action).catch(() => 0))).then(() => 1)`, chromedp.EvalAwaitPromise))
	}
	if state := w.state(t, s); state != "open begun 0" {
		t.Fatalf("after scanners the link is %s", state)
	}
	b := w.browser(t).tab("after scanners")
	b.open(s.link)
	b.press(begin)
	b.signIn(s)
	b.wants("Connected: " + s.connection + " (Audatex site " + s.number + ")")
	w.connected(t, s)
}

// twoTabs goes the way in two tabs of one browser at the same time.
func twoTabs(t *testing.T, w *world) {
	s := w.newSite(t)
	b := w.browser(t)
	tabs := []*tab{b.tab("tab one"), b.tab("tab two")}
	for _, tab := range tabs {
		tab.open(s.link)
		tab.press(begin)
		if tab.heading() == "Sign in" { // the vendor knows the second tab by the first
			tab.login(s, password)
		}
	}
	var both sync.WaitGroup
	for _, tab := range tabs {
		both.Go(func() { tab.press("#allow") })
	}
	both.Wait()
	connected := 0
	for _, tab := range tabs {
		if tab.heading() == "Sign in" { // the decision in the other tab has ended the sign-in for both
			tab.signIn(s)
		}
		heading := tab.heading()
		switch {
		case strings.HasPrefix(heading, "Connected: "):
			connected++
		case heading != "Consent had been given already":
			t.Errorf("%s ends at %q: %s", tab.name, heading, tab.text())
		}
		tab.judge("result")
	}
	if connected != 1 {
		t.Errorf("%d tabs connected the site, want 1", connected)
	}
	w.connected(t, s)
}

// callbackTwice loads the address that the vendor sends the browser to again, as a reload or a prefetch does.
func callbackTwice(t *testing.T, w *world) {
	s := w.newSite(t)
	b := w.browser(t)
	first := b.tab("callback")
	first.open(s.link)
	first.press(begin)
	first.signIn(s)
	result := "Connected: " + s.connection + " (Audatex site " + s.number + ")"
	first.wants(result)
	callback := first.callback()
	first.load(chromedp.Reload())
	first.wants(result)
	first.open(callback)
	first.wants(result)
	again := b.tab("callback in another tab")
	again.open(callback)
	again.wants(result)
	if state := w.state(t, s); state != "used begun 1" {
		t.Errorf("the link is %s", state)
	}
	w.connected(t, s)
}

// anotherBrowser begins in one browser and ends in another.
func anotherBrowser(t *testing.T, w *world) {
	s := w.newSite(t)
	one := w.browser(t).tab("the browser that began")
	one.open(s.link)
	one.press(begin)
	portal := ask(one, chromedp.Location())
	other := w.browser(t).tab("another browser")
	other.open(portal)
	other.signIn(s)
	other.wants("This was begun in another browser")
	other.judge("other browser")
	if state := w.state(t, s); state != "open begun 1" {
		t.Fatalf("the link is %s", state)
	}
	other.press(startOver)
	other.wants(asks)
	other.press(begin)
	other.signIn(s)
	other.wants("Connected: " + s.connection + " (Audatex site " + s.number + ")")
	w.connected(t, s)
	// The link itself, in the first browser, once it is used.
	one.open(s.link)
	one.wants("This link has been used: consent was given")
}

func denied(t *testing.T, w *world) {
	s := w.newSite(t)
	b := w.browser(t).tab("denied")
	b.open(s.link)
	b.press(begin)
	b.login(s, password)
	b.press("#deny")
	b.wants("You did not allow the access")
	b.judge("denied")
	b.press(startOver)
	b.wants(asks)
	b.press(begin)
	b.signIn(s)
	b.wants("Connected: " + s.connection + " (Audatex site " + s.number + ")")
}

func anotherSite(t *testing.T, w *world) {
	s, stranger := w.newSite(t), w.newSite(t)
	b := w.browser(t).tab("another site")
	b.open(s.link)
	b.press(begin)
	b.signIn(stranger)
	b.wants("You logged in for another site")
	b.says(s.number, stranger.number)
	b.judge("another site")
	b.press(startOver)
	b.press(begin)
	b.signIn(s)
	b.wants("Connected: " + s.connection + " (Audatex site " + s.number + ")")
}

// leadNowhere looks at the pages that explain why nothing can be done here.
func leadNowhere(t *testing.T, w *world) {
	b := w.browser(t).tab("nowhere")
	b.open(w.public + "/consent/" + strings.Repeat("A", 43))
	b.wants("This link is not known")
	b.judge("unknown")
	b.open(w.public + "/oauth/callback?code=abc&state=" + strings.Repeat("A", 43))
	b.wants("Nobody here has asked Audatex for this")
	b.judge("never seen")
	b.open(w.public + "/oauth/callback")
	b.judge("nothing given")
	s := w.newSite(t)
	w.api.Must(t, http.MethodDelete, "/v1/connections/"+s.connection+"/consent-links/"+s.linkID, nil, nil)
	b.open(s.link)
	b.wants("This link is no longer valid")
	b.judge("withdrawn")
}

// quiet looks at the page while a 429 stops the vendor's host.
func quiet(t *testing.T, w *world) {
	s := w.newSite(t)
	w.control.Must(t, http.MethodPut, "/faults",
		[]map[string]any{{"share429": 1, "retryAfterSeconds": 600, "operations": []string{"poll"}}}, nil)
	b := w.browser(t).tab("quiet")
	harness.Eventually(t, "the button is off", func() string {
		b.open(s.link)
		b.wants(asks)
		if ask(b, chromedp.Evaluate[int](`document.querySelectorAll("`+begin+`[disabled]").length`)) == 1 {
			return ""
		}
		return "it is on"
	})
	b.says("Audatex has asked this relay to wait until")
	b.judge("quiet")
	if state := w.state(t, s); state != "open begun 0" {
		t.Errorf("the link is %s", state)
	}
}
