package consent

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/sandbox/sandboxtest"
)

// before gives a connection tokens that it has already.
func (w *world) before(c relay.Connection) relay.Secret {
	w.t.Helper()
	grant, err := w.box.Grant(sandbox.Consent{Sites: []string{"4711"}})
	if err != nil {
		w.t.Fatal(err)
	}
	old := relay.NewSecret(grant.RefreshToken)
	if _, err := w.any().store.Tokens.SaveToken(w.t.Context(), c.ID, relay.TokenRecord{
		RefreshToken: old, Generation: c.Generation, Epoch: 7,
	}, 0); err != nil {
		w.t.Fatal(err)
	}
	poll := relay.Poll{Generation: c.Generation, SubscriptionID: "subscribed", InboxSeq: 42}
	if _, err := w.any().store.Polls.Create(w.t.Context(), c.ID, poll); err != nil {
		w.t.Fatal(err)
	}
	return old
}

// Each response of the vendor gives its own end of a consent. The old tokens are replaced if the
// check passes or cannot be made, and otherwise stay. The subscription and the position always
// stay. After a failure the same link can be used again, unless the relay's own registration is at
// fault.
func TestHowConsentsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, site := range []string{"4711", "4712", "GB12"} {
		w.account(site)
	}
	nowhere := func() {}
	for name, tt := range map[string]struct {
		site   string
		force  bool
		sites  []string
		vendor func()
		user   func(*sandboxtest.Visitor)
		want   relay.ConsentOutcome
		title  string
		says   []string
		again  bool
	}{
		"the expected site": {site: "4711", sites: []string{"4711"}, want: relay.ConsentConnected,
			title: "Connected: ", says: []string{"C4711"}},
		"the expected site, in capitals": {site: "GB12", sites: []string{"gb12"}, want: relay.ConsentConnected,
			title: "Connected: ", says: []string{"CGB12"}},
		"one of a company's sites": {site: "4712", sites: []string{"4711", "4712"}, want: relay.ConsentConnected,
			title: "Connected: "},
		"no site expected": {site: "4712", want: relay.ConsentConnected, title: "Connected: leeds",
			says: []string{"4712"}},
		"another site": {site: "4712", sites: []string{"4711"}, want: relay.ConsentWrongSite,
			title: "You logged in for another site", says: []string{"site 4711", "site 4712"}, again: true},
		"another site, by force": {site: "4712", sites: []string{"4711"}, force: true, want: relay.ConsentConnected,
			title: "Connected: ", says: []string{"4712"}},
		"not allowed": {site: "4711", sites: []string{"4711"}, user: deny, want: relay.ConsentDenied,
			title: "You did not allow the access", again: true},
		"a scope left out": {site: "4711", sites: []string{"4711"}, user: scopes(sandbox.ScopeBasic),
			want: relay.ConsentScopeMissing, title: "The consent does not cover", says: []string{"BMS.PartsOrders"},
			again: true},
		"the optional scope left out": {site: "4712", sites: []string{"4711"},
			user: scopes(sandbox.ScopeBasic, sandbox.ScopePartsOrders), want: relay.ConsentConnected,
			title: "Connected: ",
			says:  []string{"was not checked"}},
		"whoami: 500": {site: "4711", sites: []string{"4711"},
			vendor: func() { w.answers("/whoami", 500) }, want: relay.ConsentUnchecked, title: "Connected: ",
			says: []string{"could not be asked"}},
		"whoami: 503, another site": {site: "4712", sites: []string{"4711"},
			vendor: func() { w.answers("/whoami", 503) }, want: relay.ConsentWrongSite,
			title: "You logged in for another site",
			again: true},
		"whoami: 404": {site: "4711", sites: []string{"4711"},
			vendor: func() { w.answers("/whoami", 404) }, want: relay.ConsentUnchecked, title: "Connected: "},
		"whoami: 403": {site: "4711", sites: []string{"4711"},
			vendor: func() { w.answers("/whoami", 403) }, want: relay.ConsentScopeMissing,
			title: "The consent does not cover",
			again: true},
		"whoami: 401": {site: "4711", sites: []string{"4711"},
			vendor: func() { w.answers("/whoami", 401) }, want: relay.ConsentToken,
			title: "Audatex does not accept its own answer", again: true},
		"users/me: 500": {site: "4712", sites: []string{"4711"},
			vendor: func() { w.answers("/users/me", 500) }, want: relay.ConsentUnchecked, title: "Connected: ",
			says: []string{"could not be asked"}},
		"token endpoint: 500": {site: "4711", sites: []string{"4711"}, vendor: func() { w.answers("/token", 500) },
			want: relay.ConsentVendor, title: "Audatex did not answer", again: true},
		"token endpoint: 401": {site: "4711", sites: []string{"4711"}, vendor: func() { w.answers("/token", 401) },
			want: relay.ConsentClient, title: "Audatex does not accept this relay",
			says: []string{w.public + callbackPath}},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			if tt.vendor == nil {
				tt.vendor = nowhere
			}
			defer w.instead.Store(nil)
			c := w.connection(id(name), tt.sites...)
			old := w.before(c)
			made := w.link(NewLink{Connection: c, Force: tt.force, ReturnURL: returnOrigin + "/"})
			b := w.browser()
			back := b.toVendor(made.URL, tt.site, user(tt.user))
			tt.vendor()
			result := b.finish(back)
			if !strings.HasPrefix(result.title(), tt.title) || result.status != http.StatusOK {
				t.Fatalf("%d %s", result.status, result.body)
			}
			for _, text := range append(tt.says, returnOrigin+"/") {
				if !strings.Contains(result.body, text) {
					t.Errorf("the page lacks %q:\n%s", text, result.body)
				}
			}
			if again := mainLink(result); (again != "") != tt.again {
				t.Errorf("start again: %q", again)
			}
			l, rec := w.stored(made.ID), w.token(c.ID)
			a := l.Attempts[0]
			if a.Result == nil || a.Result.Outcome != tt.want || a.Sealed != nil {
				t.Fatalf("ended as %+v", a)
			}
			replaced := !rec.RefreshToken.Equal(old)
			if replaced != tt.want.Succeeded() || (l.State(time.Now()) == relay.ConsentLinkUsed) != replaced ||
				rec.Generation != c.Generation || rec.Epoch != 7 {
				t.Errorf("%s, and the tokens were replaced: %v, the link is %s, the record of generation %s and "+
					"epoch %d",
					tt.want, replaced, l.State(time.Now()), rec.Generation, rec.Epoch)
			}
			if replaced && (rec.ConsentID != a.ID || rec.ConsentRequiredSince != nil) {
				t.Errorf("the record is %+v", rec)
			}
			poll, _, err := w.any().store.Polls.Get(t.Context(), c.ID)
			if err != nil || poll.SubscriptionID != "subscribed" || poll.InboxSeq != 42 {
				t.Errorf("subscription and position are %+v, %v", poll, err)
			}
			now, _, err := w.any().store.Connections.Get(t.Context(), c.ID)
			if err != nil || (now.Consent != nil) != replaced || replaced &&
				now.Consent.Checked != (tt.want == relay.ConsentConnected) {
				t.Errorf("the connection notes %+v, %v", now.Consent, err)
			}
			w.instead.Store(nil)
			if tt.again {
				if second := b.consent(mainLink(result), "4711"); !strings.HasPrefix(second.title(), "Connected") {
					t.Errorf("begun again: %s", second.title())
				}
			}
			if reloaded := b.finish(back); reloaded.title() != result.title() {
				t.Errorf("loaded again: %s, it was %s", reloaded.title(), result.title())
			}
		})
	}
}

// What the vendor sends back in the place of a code, and codes that are no good.
func TestWhatComesBackInThePlaceOfACode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.connection("con-a", "4711")
	for query, want := range map[string]relay.ConsentOutcome{
		"error=access_denied&error_description=no": relay.ConsentDenied,
		"error=invalid_scope":                      relay.ConsentScopeMissing,
		"error=unauthorized_client":                relay.ConsentClient,
		"error=server_error":                       relay.ConsentVendor,
		"error=<script>":                           relay.ConsentVendor,
		"code=never-given":                         relay.ConsentCode,
		"code=never-given&error=":                  relay.ConsentCode,
	} {
		made := w.link(NewLink{Connection: c})
		b := w.browser()
		state := stateOf(b.press(made.URL).location)
		result := b.finish(callbackPath + "?" + query + "&state=" + state)
		a := w.stored(made.ID).Attempts[0]
		if a.Result == nil || a.Result.Outcome != want || result.title() == "" ||
			strings.Contains(result.body, "<script>") {
			t.Errorf("%s: %+v %s", query, a.Result, result.body)
		}
	}
	if rec := w.token("con-a"); !rec.RefreshToken.Empty() {
		t.Error("tokens came of it")
	}
}

// A vendor that knows nothing of PKCE, and one that refuses it.
func TestVendorsWithoutPKCE(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pkce   bool
		vendor sandbox.PKCE
		works  bool
	}{{true, sandbox.PKCEIgnore, true}, {false, sandbox.PKCERefuse, true}, {false, sandbox.PKCEVerify, true}} {
		w := newWorld(t, func(c *Config) { c.PKCE = tt.pkce })
		w.account("4711")
		if err := w.box.SetBehaviour(sandbox.Behaviour{PKCE: tt.vendor}); err != nil {
			t.Fatal(err)
		}
		made := w.link(NewLink{Connection: w.connection("con-a", "4711")})
		if result := w.browser().consent(made.URL, "4711"); strings.HasPrefix(result.title(), "Connected") != tt.works {
			t.Errorf("PKCE %v at a vendor that would %s: %s", tt.pkce, tt.vendor, result.title())
		}
	}
}

// A link's return address is judged when it is made and again when it is shown.
func TestReturnURLs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.any().Service
	for address, fine := range map[string]bool{
		"": true, "https://bms.example": true, "https://bms.example/a?b=c#d": true, "https://BMS.example:443/": true,
		"http://bms.example/": false, "https://bms.example:8443/": false, "https://bms.example.evil.example/": false,
		"//bms.example/":                    false,
		"https://bms.example@evil.example/": false, "https://us:pw@bms.example/": false, "javascript:alert(1)": false,
		"https:bms.example":                         false,
		"https://evil.example/?https://bms.example": false, "/done": false,
		"https://bms.example\\@evil.example/": false,
		"https://bms.example\n.evil.example/": false,
	} {
		if err := s.CheckReturnURL(address); (err == nil) != fine {
			t.Errorf("%q: %v", address, err)
		}
	}
	w.account("4711")
	made := w.link(NewLink{Connection: w.connection("con-a", "4711"), ReturnURL: returnOrigin + "/done"})
	w.edit(made.ID, func(l *relay.ConsentLink) { l.ReturnURL = "https://was.allowed.example/" })
	if result := w.browser().consent(made.URL, "4711"); strings.Contains(result.body, "was.allowed") ||
		!strings.HasPrefix(result.title(), "Connected") {
		t.Errorf("an origin that is no longer allowed:\n%s", result.body)
	}
}

// A connection that is removed, or a link that is withdrawn, while the user is at the vendor's gets
// no tokens.
func TestWithdrawnWhileTheCodeIsExchanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("4711")
	for name, tt := range map[string]struct {
		meanwhile func(c relay.Connection, link string)
		want      relay.ConsentOutcome
	}{
		"withdrawn": {func(c relay.Connection, link string) {
			if err := w.any().Withdraw(t.Context(), c, link); err != nil {
				t.Error(err)
			}
		}, relay.ConsentWithdrawn},
		"removed": {func(c relay.Connection, _ string) {
			if err := w.any().store.Connections.Delete(t.Context(), c.ID, 0); err != nil {
				t.Error(err)
			}
		}, relay.ConsentGone},
	} {
		c := w.connection(name, "4711")
		made := w.link(NewLink{Connection: c})
		b := w.browser()
		back := b.toVendor(made.URL, "4711")
		hook := func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/token") {
				tt.meanwhile(c, made.ID)
			}
			return false
		}
		w.instead.Store(&hook)
		result := b.finish(back)
		w.instead.Store(nil)
		a := w.stored(made.ID).Attempts[0]
		if a.Result == nil || a.Result.Outcome != tt.want || result.title() != "This link is no longer valid" ||
			!w.token(name).RefreshToken.Empty() {
			t.Errorf("%s: %+v %s", name, a, result.title())
		}
	}
}
