package consent

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/relay"
)

// From the link to the stored tokens, and what is seen on the way.
func TestALinkLeadsToTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("4711")
	c := w.connection("con-a", "4711")
	made := w.link(NewLink{Connection: c, ReturnURL: returnOrigin + "/done?x=1"})
	b := w.browser()

	page := b.get(made.URL)
	if page.status != http.StatusOK {
		t.Fatalf("%d %s", page.status, page.body)
	}
	for _, want := range []string{"con-a", "site-4711", "4711", "Company Code, User Name and Password",
		"Read your parts orders", "sandbox-client", `lang="en"`, "<h1>"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page lacks %q:\n%s", want, page.body)
		}
	}
	if strings.Contains(page.body, "<script") {
		t.Error("the page has scripts")
	}
	policy := page.header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "style-src 'self'", "form-action 'self' " + w.vendor + ";",
		"frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy %q lacks %q", policy, want)
		}
	}
	for name, want := range map[string]string{"Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
		"X-Content-Type-Options": "nosniff"} {
		if got := page.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}

	back := b.toVendor(made.URL, "4711")
	at := b.get(back)
	if at.status != http.StatusSeeOther || !strings.HasPrefix(at.location, "/consent/") {
		t.Fatalf("the way back leads to %d %q", at.status, at.location)
	}
	result := b.get(at.location)
	if result.title() != "Connected: site-4711 (Audatex site 4711)" ||
		!strings.Contains(result.body, `href="https://bms.example/done?x=1"`) {
		t.Errorf("the result is\n%s", result.body)
	}

	rec := w.token("con-a")
	if rec.RefreshToken.Empty() || rec.AccessToken.Empty() || rec.Generation != c.Generation ||
		!rec.ExpiresAt.After(time.Now()) {
		t.Errorf("the record is %+v", rec)
	}
	stored, _, err := w.any().store.Connections.Get(t.Context(), "con-a")
	if err != nil || stored.Consent == nil || !stored.Consent.Checked || stored.Consent.SiteID != "4711" ||
		stored.Consent.CompanyCode != "C4711" {
		t.Errorf("the connection is %+v, %v", stored.Consent, err)
	}
	l := w.stored(made.ID)
	if l.State(time.Now()) != relay.ConsentLinkUsed || l.LastOpenedAt == nil || l.Attempts[0].Sealed != nil ||
		l.Attempts[0].Phase != relay.ConsentDone {
		t.Errorf("the link is %+v", l)
	}
	if again := b.get(made.URL); again.status != http.StatusGone ||
		!strings.Contains(again.title(), "consent was given") {
		t.Errorf("the used link: %d %s", again.status, again.title())
	}
	if reloaded := b.finish(back); reloaded.title() != result.title() {
		t.Errorf("loaded again: %s", reloaded.title())
	}
	for _, secret := range []string{strings.TrimPrefix(made.URL, w.public+pagesPath), rec.RefreshToken.Reveal(),
		rec.AccessToken.Reveal(), back[strings.Index(back, "?"):]} {
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}

// The stored state of a running consent is useless to a reader of the store.
func TestNothingIsStoredInTheClear(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("4711")
	made := w.link(NewLink{Connection: w.connection("con-a", "4711")})
	b := w.browser()
	back := b.toVendor(made.URL, "4711")
	state := stateOf(back)
	public, err := url.Parse(w.public)
	if err != nil {
		t.Fatal(err)
	}
	secrets := []string{strings.TrimPrefix(made.URL, w.public+pagesPath), strings.Split(state, ".")[0]}
	for _, c := range b.http.Jar.Cookies(public) {
		secrets = append(secrets, c.Value)
	}
	l := w.stored(made.ID)
	open, err := w.any().store.OpenConsent(l.ID, l.Attempts[0].ID, l.Attempts[0].Sealed)
	if err != nil || len(open.Verifier) != 43 || len(secrets) != 3 {
		t.Fatalf("%v, %d secrets", err, len(secrets))
	}
	secrets = append(secrets, open.Verifier)
	// A sealed secret is bound to its place: another attempt's cannot be put there.
	if _, err := w.any().store.OpenConsent(l.ID, attemptID("other"), l.Attempts[0].Sealed); err == nil {
		t.Error("a secret can be moved to another attempt")
	}
	// The tokens while they are pending.
	dying := w.any()
	crashed := dying.crash(3, false)
	b.get(back)
	eventually(t, crashed)
	dying.gate.Store(nil)
	js, err := jetstream.New(w.conn)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), "relay_consents")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	look := func() {
		e, err := kv.Get(t.Context(), made.ID)
		if err != nil {
			t.Fatal(err)
		}
		seen++
		for _, secret := range append(secrets, w.token("con-a").RefreshToken.Reveal(),
			w.token("con-a").AccessToken.Reveal()) {
			if secret != "" && strings.Contains(string(e.Value()), secret) {
				t.Errorf("%q is stored: %s", secret, e.Value())
			}
		}
	}
	look()
	eventually(t, func() bool { look(); return w.stored(made.ID).Attempts[0].Phase == relay.ConsentDone })
	for _, secret := range secrets {
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}

// While the relay starts, a page explains that.
func TestThePageOfAStart(t *testing.T) {
	t.Parallel()
	page := httptest.NewRecorder()
	Starting("https://relay.example/base").ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/consent/x", nil))
	if page.Code != http.StatusServiceUnavailable || page.Header().Get("Retry-After") == "" ||
		!strings.Contains(page.Body.String(), "The relay is starting") ||
		!strings.Contains(page.Body.String(), `href="/base/consent/style.css"`) ||
		!strings.Contains(page.Header().Get("Content-Security-Policy"), "form-action 'self';") {
		t.Errorf("%d %v\n%s", page.Code, page.Header(), page.Body)
	}
	style := httptest.NewRecorder()
	Starting("").ServeHTTP(style, httptest.NewRequest(http.MethodGet, stylePath, nil))
	if style.Code != http.StatusOK || style.Header().Get("Content-Type") != "text/css; charset=utf-8" {
		t.Errorf("%d %v", style.Code, style.Header())
	}
}

func TestEveryPageHasItsText(t *testing.T) {
	t.Parallel()
	for name := range pageKinds {
		if pageTemplates.Lookup(name) == nil {
			t.Errorf("page.html has no text of the page %s", name)
		}
	}
}
