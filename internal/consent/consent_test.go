package consent

import (
	"net/http"
	"strings"
	"testing"
	"time"

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
	for _, want := range []string{"con-a", "site-4711", "4711", "Company Code, User Name and Password", "Read your parts orders", "sandbox-client", `lang="en"`, "<h1>"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page lacks %q:\n%s", want, page.body)
		}
	}
	if strings.Contains(page.body, "<script") {
		t.Error("the page has scripts")
	}
	policy := page.header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "style-src 'self'", "form-action 'self' " + w.vendor + ";", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy %q lacks %q", policy, want)
		}
	}
	for name, want := range map[string]string{"Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
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
	if result.title() != "Connected: site-4711 (Audatex site 4711)" || !strings.Contains(result.body, `href="https://bms.example/done?x=1"`) {
		t.Errorf("the result is\n%s", result.body)
	}

	rec := w.token("con-a")
	if rec.RefreshToken.Empty() || rec.AccessToken.Empty() || rec.Generation != c.Generation || !rec.ExpiresAt.After(time.Now()) {
		t.Errorf("the record is %+v", rec)
	}
	stored, _, err := w.any().store.Connections.Get(t.Context(), "con-a")
	if err != nil || stored.Consent == nil || !stored.Consent.Checked || stored.Consent.SiteID != "4711" || stored.Consent.CompanyCode != "C4711" {
		t.Errorf("the connection is %+v, %v", stored.Consent, err)
	}
	l := w.stored(made.ID)
	if l.State(time.Now()) != relay.ConsentLinkUsed || l.LastOpenedAt == nil || l.Attempts[0].Sealed != nil || l.Attempts[0].Phase != relay.ConsentDone {
		t.Errorf("the link is %+v", l)
	}
	if again := b.get(made.URL); again.status != http.StatusGone || !strings.Contains(again.title(), "consent was given") {
		t.Errorf("the used link: %d %s", again.status, again.title())
	}
	if reloaded := b.finish(back); reloaded.title() != result.title() {
		t.Errorf("loaded again: %s", reloaded.title())
	}
	for _, secret := range []string{strings.TrimPrefix(made.URL, w.public+pagesPath), rec.RefreshToken.Reveal(), rec.AccessToken.Reveal(), back[strings.Index(back, "?"):]} {
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}
