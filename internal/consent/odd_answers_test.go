package consent

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex/recorded"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// oddAnswer is a response of the vendor to one of the three calls that a consent makes, and what
// comes of it.
type oddAnswer struct {
	name   string
	call   string // path of the call
	answer recorded.Answer
	want   relay.ConsentOutcome
	site   string // found
}

const whoamiPath = sandbox.APIPath + "/v1/bmsapi/whoami"

func oddAnswers(all map[string]recorded.Answer) []oddAnswer {
	body := func(status int, contentType, text string) recorded.Answer {
		return recorded.Answer{Status: status, Header: http.Header{"Content-Type": {contentType}}, Body: []byte(text)}
	}
	json := func(text string) recorded.Answer { return body(200, "application/json", text) }
	const (
		pair = `"access_token":"access-odd","refresh_token":"refresh-odd"`
		good = relay.ConsentConnected
		half = relay.ConsentUnchecked
	)
	token := func(name, text string, want relay.ConsentOutcome) oddAnswer {
		return oddAnswer{"token: " + name, sandbox.TokenPath, json(text), want, ""}
	}
	rows := []oddAnswer{
		// the sandbox does not know the token: whoami 401, see below
		token("nothing but the tokens", `{`+pair+`}`, half),
		token("scopes as a list", `{`+pair+`,"scope":["BMS.Basic","BMS.PartsOrders"]}`, half),
		token("scopes with commas", `{`+pair+`,"scope":"BMS.Basic,BMS.PartOrders"}`, half),
		token("scopes in lower case", `{`+pair+`,"scope":"bms.basic bms.partsorders"}`, half),
		token("empty scope", `{`+pair+`,"scope":""}`, half),
		token("null scope", `{`+pair+`,"scope":null}`, half),
		token("scope of another type", `{`+pair+`,"scope":{"a":1}}`, half),
		token("one scope", `{`+pair+`,"scope":"BMS.Basic"}`, relay.ConsentScopeMissing),
		token("another scope", `{`+pair+`,"scope":"openid profile"}`, relay.ConsentScopeMissing),
		token("odd life", `{`+pair+`,"expires_in":"soon","token_type":7}`, half),
		token("within another", `{"result":{`+pair+`}}`, half),
		token("cut", `{`+pair+`,"expires`, half),
		token("refresh token only", `{"refresh_token":"refresh-odd"}`, half),
		token("access token only", `{"access_token":"access-odd"}`, relay.ConsentVendor),
		token("empty object", `{}`, relay.ConsentVendor),
		token("list", `[]`, relay.ConsentVendor),
		token("number", `7`, relay.ConsentVendor),
		token("error with 200", `{"error":"invalid_grant"}`, relay.ConsentCode),
		token("unknown error with 200", `{"error":"<script>alert(1)</script>"}`, relay.ConsentVendor),
		token("null tokens", `{"access_token":null,"refresh_token":null}`, relay.ConsentVendor),
		token("tokens of other types", `{"access_token":{},"refresh_token":["x"]}`, relay.ConsentVendor),
		{"token: HTML", sandbox.TokenPath, all["token-html-200"], relay.ConsentVendor, ""},
		{"token: empty", sandbox.TokenPath, all["token-empty-body"], relay.ConsentVendor, ""},
		{"token: XML", sandbox.TokenPath, all["token-xml"], half, ""},
		{"token: invalid_grant", sandbox.TokenPath, all["token-invalid-grant"], relay.ConsentCode, ""},
		{"token: invalid_client", sandbox.TokenPath, all["token-invalid-client"], relay.ConsentClient, ""},
		{"token: JSON error", sandbox.TokenPath, all["token-json-error"], relay.ConsentVendor, ""},
		{"token: 401 text", sandbox.TokenPath, all["refused-401-text"], relay.ConsentClient, ""},
		{"token: 404", sandbox.TokenPath, all["refused-404-json"], relay.ConsentVendor, ""},
		{"token: 302", sandbox.TokenPath, recorded.Answer{Status: 302, Header: http.Header{"Location": {"/login?x=1"}}},
			relay.ConsentVendor, ""},
		{"token: 204", sandbox.TokenPath, recorded.Answer{Status: 204}, relay.ConsentVendor, ""},

		{"whoami: text", whoamiPath, all["whoami-text"], good, "4711"},
		{"whoami: XML", whoamiPath, all["whoami-xml"], good, "4711"},
		{"whoami: a list", whoamiPath, json(`["a"]`), half, "4711"},
		{"whoami: an object", whoamiPath, all["whoami-object"], half, "4711"},
		{"whoami: null", whoamiPath, all["whoami-null"], half, "4711"},
		{"whoami: empty text", whoamiPath, json(`""`), half, "4711"},
		{"whoami: a number", whoamiPath, json(`7`), half, "4711"},
		{"whoami: long", whoamiPath, json(`"` + strings.Repeat("ä", 10_000) + `"`), good, "4711"},
		{"whoami: markup", whoamiPath, json(`"<script>alert(1)</script>\u0000\u202e"`), good, "4711"},
		{"whoami: HTML", whoamiPath, all["whoami-html-200"], half, "4711"},
		{"whoami: too large", whoamiPath, json(`"` + strings.Repeat("x", 100_000) + `"`), half, "4711"},
		{"whoami: 401", whoamiPath, all["refused-401-text"], relay.ConsentToken, ""},
		{"whoami: 403", whoamiPath, all["refused-403-json"], relay.ConsentScopeMissing, ""},
		{"whoami: 404", whoamiPath, all["refused-404-json"], half, "4711"},
		{"whoami: 500", whoamiPath, all["refused-500-json"], half, "4711"},
		{"whoami: 302", whoamiPath, recorded.Answer{Status: 302, Header: http.Header{"Location": {"/login"}}}, half,
			"4711"},
	}
	me := func(name, text string, want relay.ConsentOutcome, site string) oddAnswer {
		return oddAnswer{"users/me: " + name, sandbox.UsersMePath, json(text), want, site}
	}
	return append(rows,
		me("a text", `{"SiteId":"4711"}`, good, "4711"),
		me("a number", `{"SiteId":4711,"TerminalId":7,"CompanyCode":null}`, good, "4711"),
		me("other case", `{"siteid":" 4711 ","companycode":"A"}`, good, "4711"),
		me("in a list", `[{"SiteId":"4711"}]`, good, "4711"),
		me("another site", `{"SiteId":"4712","CompanyCode":"<b>"}`, relay.ConsentWrongSite, "4712"),
		me("another site as a number", `{"SiteId":4712}`, relay.ConsentWrongSite, "4712"),
		me("a site with markup", `{"SiteId":"<img src=x onerror=alert(1)>"}`, relay.ConsentWrongSite,
			"<img src=x onerror=alert(1)>"),
		me("no site", `{"CompanyCode":"A"}`, half, ""),
		me("null site", `{"SiteId":null}`, half, ""),
		me("empty site", `{"SiteId":"  "}`, half, ""),
		me("a site that is an object", `{"SiteId":{"Value":"4712"}}`, half, ""),
		me("a site that is a list", `{"SiteId":["4712"]}`, half, ""),
		me("a long site", `{"SiteId":"`+strings.Repeat("4", 1000)+`"}`, half, ""),
		me("two users", `[{"SiteId":"4711"},{"SiteId":"4712"}]`, half, ""),
		me("null", `null`, half, ""),
		me("empty", ``, half, ""),
		me("empty list", `[]`, half, ""),
		me("text", `"4711"`, half, ""),
		me("cut", `{"SiteId":"4712","Comp`, half, ""),
		me("an error", `{"Message":"An error has occurred."}`, half, ""),
		oddAnswer{"users/me: HTML", sandbox.UsersMePath, all["whoami-html-200"], half, ""},
		oddAnswer{"users/me: 401", sandbox.UsersMePath, all["refused-401-text"], half, ""},
		oddAnswer{"users/me: 403", sandbox.UsersMePath, all["refused-403-json"], good, ""},
		oddAnswer{"users/me: 404", sandbox.UsersMePath, all["refused-404-json"], half, ""},
		oddAnswer{"users/me: 500", sandbox.UsersMePath, all["refused-500-json"], half, ""},
		oddAnswer{"users/me: 302", sandbox.UsersMePath,
			recorded.Answer{Status: 302, Header: http.Header{"Location": {"/login"}}}, half, ""},
	)
}

// For any response of the vendor to a running consent, the page shows how the consent ended, the
// refresh token is stored unless the consent was refused, and no foreign text reaches the page as
// markup.
func TestOddAnswersOfTheVendorToAConsent(t *testing.T) {
	t.Parallel()
	all, err := recorded.Answers()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.account("4711")
	for i, row := range oddAnswers(all) {
		id := fmt.Sprintf("con-%d", i)
		made := w.link(NewLink{Connection: w.connection(id, "4711")})
		instead := func(rw http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.URL.Path == row.call:
				_, _ = io.Copy(io.Discard, r.Body)
				row.answer.ServeHTTP(rw, r)
			case row.call == sandbox.TokenPath && r.URL.Path == whoamiPath: // it does not know what it has not given
				http.Error(rw, "The service is unavailable.", http.StatusServiceUnavailable)
			default:
				return false
			}
			return true
		}
		w.instead.Store(&instead)
		got := w.browser().consent(made.URL, "4711")
		l := w.stored(made.ID)
		if len(l.Attempts) != 1 || l.Attempts[0].Result == nil {
			t.Errorf("%s: not ended: %+v, the page says %q", row.name, l.Attempts, got.title())
			continue
		}
		r := *l.Attempts[0].Result
		if r.Outcome != row.want || r.Found.SiteID != row.site {
			t.Errorf("%s: %s, site %q; want %s, %q (%s)",
				row.name, r.Outcome, r.Found.SiteID, row.want, row.site, got.title())
		}
		rec := w.token(id)
		if rec.RefreshToken.Empty() == r.Outcome.Succeeded() ||
			(l.State(time.Now()) == relay.ConsentLinkUsed) != r.Outcome.Succeeded() {
			t.Errorf("%s: %s with the refresh token %t, the link is %s", row.name, r.Outcome, !rec.RefreshToken.Empty(),
				l.State(time.Now()))
		}
		if got.status != http.StatusOK || got.title() == "" || strings.Contains(got.body, "<script") ||
			strings.Contains(got.body, "<img") ||
			len(got.body) > 32<<10 || strings.ContainsAny(got.body, "\x00\u202e") {
			t.Errorf("%s: the page is %d %.2000s", row.name, got.status, got.body)
		}
		for _, secret := range []string{"refresh-odd", "access-odd", "refresh-recorded", "access-recorded"} {
			if strings.Contains(got.body, secret) || strings.Contains(w.log.String(), secret) {
				t.Errorf("%s: %s was told", row.name, secret)
			}
		}
	}
}

// Faults during a consent cost no more than the code. A second try succeeds, and granted tokens are
// used although nobody could be asked who consented.
func TestFaultsWhileAConsentIsEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("4711")
	const vendor, unchecked = relay.ConsentVendor, relay.ConsentUnchecked
	for i, row := range []struct {
		name string
		op   sandbox.Operation
		f    sandbox.Faults
		want relay.ConsentOutcome
	}{
		{"code refused by 500", sandbox.OpToken, sandbox.Faults{Share500: 1}, vendor},
		{"code cut off before", sandbox.OpToken, sandbox.Faults{ShareCut: 1}, vendor},
		{"tokens lost on the way", sandbox.OpToken, sandbox.Faults{ShareCutAfterRead: 1}, vendor},
		{"whoami refused by 500", sandbox.OpWhoami, sandbox.Faults{Share500: 1}, unchecked},
		{"whoami cut off", sandbox.OpWhoami, sandbox.Faults{ShareCutAfterRead: 1}, unchecked},
		{"users/me refused by 503", sandbox.OpUsersMe, sandbox.Faults{Share503: 1}, unchecked},
		{"users/me cut off", sandbox.OpUsersMe, sandbox.Faults{ShareCut: 1}, unchecked},
	} {
		id := fmt.Sprintf("con-%d", i)
		made := w.link(NewLink{Connection: w.connection(id, "4711")})
		b := w.browser()
		row.f.Operations = []sandbox.Operation{row.op}
		if err := w.box.SetFaults(row.f); err != nil {
			t.Fatal(err)
		}
		got := b.consent(made.URL, "4711")
		if err := w.box.SetFaults(); err != nil {
			t.Fatal(err)
		}
		if r := w.stored(made.ID).Attempts[0].Result; r == nil || r.Outcome != row.want {
			t.Errorf("%s: %+v, want %s: %s", row.name, r, row.want, got.title())
			continue
		}
		if row.want.Succeeded() {
			if w.token(id).RefreshToken.Empty() {
				t.Errorf("%s: no tokens", row.name)
			}
			continue
		}
		if again := b.consent(mainLink(got), "4711"); again.title() != "Connected: site-4711 (Audatex site 4711)" {
			t.Errorf("%s: started again: %s", row.name, again.title())
		}
	}
}

// If a vendor refuses PKCE, the page and the log name the setting that the operator can change.
func TestVendorThatRefusesPKCE(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("4711")
	made := w.link(NewLink{Connection: w.connection("con-a", "4711")})
	if err := w.box.SetBehaviour(sandbox.Behaviour{PKCE: sandbox.PKCERefuse}); err != nil {
		t.Fatal(err)
	}
	got := w.browser().consent(made.URL, "4711")
	if got.title() != "Audatex does not accept this relay" || !strings.Contains(got.body, "RELAY_AUDATEX_PKCE=off") {
		t.Errorf("the page says %s", got.body)
	}
	if log := w.log.String(); !strings.Contains(log, `"error":"invalid_request"`) {
		t.Errorf("the log does not tell of invalid_request: %s", log)
	}
	without := w.start(func(c *Config) { c.PKCE = false })
	w.mu.Lock()
	w.replicas = []*replica{without}
	w.mu.Unlock()
	if got := w.browser().consent(made.URL, "4711"); got.title() != "Connected: site-4711 (Audatex site 4711)" {
		t.Errorf("without PKCE: %s", got.title())
	}
}
