package sandbox_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/sandbox/sandboxtest"
)

const back = "http://127.0.0.1:1/oauth/callback?keep=1"

func authorizePath(change map[string]string) string {
	q := url.Values{"client_id": {"sandbox-client"}, "redirect_uri": {back}, "response_type": {"code"},
		"scope": {"BMS.Basic BMS.PartsOrders"}, "state": {"st&te=1"}}
	for k, value := range change {
		q.Set(k, value)
	}
	return sandbox.AuthorizePath + "?" + q.Encode()
}

// returned is where the browser was sent, taken apart.
func returned(t testing.TB, r reply) url.Values {
	t.Helper()
	u, err := url.Parse(r.header.Get("Location"))
	if err != nil || r.status != 302 || !strings.HasPrefix(u.String(), "http://127.0.0.1:1/oauth/callback?") ||
		u.Query().Get("keep") != "1" {
		t.Fatalf("redirect: %d %q %v", r.status, r.header.Get("Location"), err)
	}
	return u.Query()
}

var deskOf4711 = sandboxtest.Visitor{Company: "c4711", User: " BMS.4711 ", Password: sandbox.DefaultPassword}

// visit goes through the portal's pages and returns what the client is sent.
func (v *vendor) visit(who sandboxtest.Visitor, path string) url.Values {
	v.t.Helper()
	who.Transport = v.transport
	to, err := who.Consent(v.t.Context(), v.url+path)
	if err != nil {
		v.t.Fatal(err)
	}
	return returned(v.t, reply{status: 302, header: http.Header{"Location": {to.String()}}})
}

func (v *vendor) exchange(code string, more map[string]string) (int, tokens) {
	v.t.Helper()
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {back}}
	for name, value := range more {
		form.Set(name, value)
	}
	return v.ask(form)
}

func TestConsentByPagesAndCode(t *testing.T) {
	t.Parallel()
	clock := newClock(time.Now())
	v := start(t, sandbox.Config{Now: clock.now})
	if denied := v.visit(sandboxtest.Visitor{
		Company: "C4711", User: "bms.4711", Password: "sandbox", Deny: true,
	}, authorizePath(nil)); denied.Get("error") != "access_denied" || denied.Get("state") != "st&te=1" ||
		denied.Has("code") {
		t.Errorf("denied: %v", denied)
	}
	allowed := v.visit(deskOf4711, authorizePath(nil))
	if allowed.Get("state") != "st&te=1" {
		t.Errorf("state came back as %q", allowed.Get("state"))
	}
	status, pair := v.exchange(allowed.Get("code"), nil)
	if status != 200 || pair.RefreshToken == "" || pair.Scope != "BMS.Basic BMS.PartsOrders" {
		t.Fatalf("exchange: %d %+v", status, pair)
	}
	v.subscribe(sandbox.Site, pair.AccessToken)
	other := map[string]string{"redirect_uri": "http://elsewhere"}
	if status, got := v.exchange(v.visit(deskOf4711, authorizePath(nil)).Get("code"), other); status != 400 ||
		got.Error != "invalid_grant" {
		t.Errorf("a code with another redirect URI: %d %+v", status, got)
	}
	late := v.visit(deskOf4711, authorizePath(nil)).Get("code")
	clock.add(time.Minute)
	if status, got := v.exchange(late, nil); status != 400 || got.Error != "invalid_grant" {
		t.Errorf("an old code: %d %+v", status, got)
	}
	c := v.Counters()
	if c.CodesExchanged != 1 || c.Requests[sandbox.OpSignIn] != 4 || c.Requests[sandbox.OpAuthorize] != 12 {
		t.Errorf("counters: %+v", c)
	}
}

func TestSecondUseOfACodeWithdrawsWhatTheFirstGave(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name      string
		config    sandbox.Config
		behaviour sandbox.Behaviour
		whoami    int
	}{
		{"hostile", sandbox.Config{}, sandbox.Behaviour{}, 401},
		{"told to keep them", sandbox.Config{}, sandbox.Behaviour{KeepCodeGrants: true}, 200},
		{"tame", sandbox.Config{Tame: true}, sandbox.Behaviour{}, 200},
	} {
		v := start(t, row.config)
		if err := v.SetBehaviour(row.behaviour); err != nil {
			t.Fatal(err)
		}
		code := v.visit(deskOf4711, authorizePath(nil)).Get("code")
		_, pair := v.exchange(code, nil)
		if status, got := v.exchange(code, nil); status != 400 || got.Error != "invalid_grant" {
			t.Errorf("%s: a code used twice: %d %+v", row.name, status, got)
		}
		if got := v.do("GET", api+"/whoami", pair.AccessToken); got.status != row.whoami {
			t.Errorf("%s: whoami with the first use's token: %d, want %d", row.name, got.status, row.whoami)
		}
		if n := v.Counters().CodesReused; n != 1 {
			t.Errorf("%s: codes reused %d", row.name, n)
		}
	}
}

func TestSignInTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{Accounts: []sandbox.Account{
		{Consent: sandbox.Consent{Sites: []string{"1"}, CompanyCode: "A&B", User: "desk"}, Password: "one"},
		{Consent: sandbox.Consent{Sites: []string{"2"}, CompanyCode: "Other", User: "desk"}, Password: "two"},
	}})
	for _, who := range []sandboxtest.Visitor{
		{Company: "A&B", User: "desk", Password: "two"}, {Company: "Other", User: "desk", Password: "one"},
		{Company: "", User: "desk", Password: "one"}, {Company: "A&B", User: "nobody", Password: "one"}, {},
	} {
		who.Transport = v.transport
		if to, err := who.Consent(t.Context(), v.url+authorizePath(nil)); !errors.Is(err, sandboxtest.ErrSignIn) {
			t.Errorf("%+v: %v %v", who, to, err)
		}
	}
	form := url.Values{"request": {authorizePath(nil)[len(sandbox.AuthorizePath)+1:]}, "CompanyCode": {"A&B"},
		"UserName": {`"<desk>`}}
	page, err := v.try("POST", sandbox.SignInPath, "", formHeader(), form.Encode())
	if err != nil || page.status != 200 ||
		!strings.Contains(page.body, "company code, user name or password is wrong") ||
		!strings.Contains(page.body, `value="A&amp;B"`) || !strings.Contains(page.body, `value="&#34;&lt;desk&gt;"`) {
		t.Errorf("what was typed stays: %d %s %v", page.status, page.body, err)
	}
	if n := v.Counters().SignInsRefused; n != 6 {
		t.Errorf("sign-ins refused: %d", n)
	}
	form.Set("decision", "allow")
	form.Set("grant", "BMS.Basic")
	page, err = v.try("POST", sandbox.AuthorizePath, "", formHeader(), form.Encode())
	if err != nil || page.status != 200 || !strings.Contains(page.body, "Please sign in again") {
		t.Errorf("a decision of nobody: %d %s %v", page.status, page.body, err)
	}
}

func TestPortalPagesAllowNothingButTheirForms(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	for redirect, origin := range map[string]string{
		"http://127.0.0.1:1/oauth/callback?keep=1": "http://127.0.0.1:1",
		"https://relay.example/x":                  "https://relay.example",
		"https://a;script-src/":                    "https:", "http://[::1]:80/": "http:",
	} {
		page := v.do("GET", authorizePath(map[string]string{"redirect_uri": redirect}), "")
		policy := page.header.Get("Content-Security-Policy")
		if page.status != 200 || !strings.HasSuffix(policy, "; form-action 'self' "+origin) ||
			!strings.HasPrefix(policy, "default-src 'none'; ") {
			t.Errorf("%s: %d, policy %q", redirect, page.status, policy)
		}
		_, style, _ := strings.Cut(page.body, "<style>")
		style, _, _ = strings.Cut(style, "</style>")
		sum := sha256.Sum256([]byte(style))
		if !strings.Contains(policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
			t.Errorf("the policy %q is not about the style %q", policy, style)
		}
	}
}

func TestRememberedSignInConsentsAsTheSameUser(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	form := url.Values{"request": {authorizePath(nil)[len(sandbox.AuthorizePath)+1:]},
		"CompanyCode": {"C4711"}, "UserName": {"bms.4711"}, "Password": {"sandbox"}, "decision": {"allow"},
		"grant": {"BMS.Basic"}}
	for _, remember := range []bool{false, true} {
		if err := v.SetBehaviour(sandbox.Behaviour{RememberSignIn: remember}); err != nil {
			t.Fatal(err)
		}
		in, err := v.try("POST", sandbox.SignInPath, "", formHeader(), form.Encode())
		if err != nil || in.status != 302 || in.header.Get("Location") != authorizePath(nil) {
			t.Fatalf("signing in: %d %v %v", in.status, in.header, err)
		}
		cookie, _, _ := strings.Cut(in.header.Get("Set-Cookie"), ";")
		header := formHeader()
		header.Set("Cookie", cookie)
		decided, err := v.try("POST", sandbox.AuthorizePath, "", header, form.Encode())
		if err != nil || returned(t, decided).Get("code") == "" {
			t.Fatalf("deciding: %d %v", decided.status, err)
		}
		again, err := v.try("GET", authorizePath(nil), "", http.Header{"Cookie": {cookie}}, "")
		if err != nil || strings.Contains(again.body, "signed in as bms.4711") != remember {
			t.Errorf("remembered %t: %s %v", remember, again.body, err)
		}
		form := maps.Clone(form)
		form.Set("signout", "1")
		if out, err := v.try("POST", sandbox.SignInPath, "", header, form.Encode()); err != nil || out.status != 302 {
			t.Errorf("signing out: %d %v", out.status, err)
		}
		if again, err = v.try("GET", authorizePath(nil), "", http.Header{"Cookie": {cookie}}, ""); err != nil ||
			!strings.Contains(again.body, "Password") {
			t.Errorf("after signing out: %s %v", again.body, err)
		}
	}
}

// proof is a PKCE verifier and its challenge: those of RFC 7636, appendix B.
const (
	proof     = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)

func TestPKCEIsVerifiedIgnoredOrRefused(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	s256 := map[string]string{"code_challenge": challenge, "code_challenge_method": "S256"}
	for _, row := range []struct {
		name     string
		pkce     sandbox.PKCE
		ask      map[string]string
		back     string // the error that the browser comes back with
		verifier string
		error    string // of the token endpoint
	}{
		{"right verifier", sandbox.PKCEVerify, s256, "", proof, ""},
		{"wrong verifier", sandbox.PKCEVerify, s256, "", strings.Repeat("a", 43), "invalid_grant"},
		{"the challenge as verifier", sandbox.PKCEVerify, s256, "", challenge, "invalid_grant"},
		{"no verifier", sandbox.PKCEVerify, s256, "", "", "invalid_grant"},
		{"verifier of a lost challenge", sandbox.PKCEVerify, nil, "", proof, "invalid_grant"},
		{"neither", sandbox.PKCEVerify, nil, "", "", ""},
		{"plain", sandbox.PKCEVerify, map[string]string{"code_challenge": proof, "code_challenge_method": "plain"},
			"invalid_request", "", ""},
		{"no method", sandbox.PKCEVerify, map[string]string{"code_challenge": challenge}, "invalid_request", "", ""},
		{"no challenge", sandbox.PKCEVerify, map[string]string{"code_challenge_method": "S256"},
			"invalid_request", "", ""},
		{"padded challenge", sandbox.PKCEVerify,
			map[string]string{"code_challenge": challenge + "=", "code_challenge_method": "S256"},
			"invalid_request", "", ""},
		{"ignored, right", sandbox.PKCEIgnore, s256, "", proof, ""},
		{"ignored, wrong", sandbox.PKCEIgnore, s256, "", "short", ""},
		{"refused at the page", sandbox.PKCERefuse, s256, "invalid_request", "", ""},
		{"refused at the token", sandbox.PKCERefuse, nil, "", proof, "invalid_request"},
		{"refused, neither", sandbox.PKCERefuse, nil, "", "", ""},
	} {
		if err := v.SetBehaviour(sandbox.Behaviour{PKCE: row.pkce}); err != nil {
			t.Fatal(err)
		}
		got := v.visit(deskOf4711, authorizePath(row.ask))
		if got.Get("error") != row.back {
			t.Errorf("%s: came back with %v, want error %q", row.name, got, row.back)
		}
		if row.back != "" {
			continue
		}
		more := map[string]string{}
		if row.verifier != "" {
			more["code_verifier"] = row.verifier
		}
		if status, pair := v.exchange(got.Get("code"), more); pair.Error != row.error ||
			(status == 200) != (row.error == "") {
			t.Errorf("%s: exchange: %d %q, want %q", row.name, status, pair.Error, row.error)
		}
	}
	if n := v.Counters().VerifiersRefused; n != 4 {
		t.Errorf("verifiers refused: %d", n)
	}
}

func TestConsentsGrantFewerScopesThanAsked(t *testing.T) {
	t.Parallel()
	basicOnly := sandbox.Account{Password: "x", Consent: sandbox.Consent{
		Sites: []string{"1"}, CompanyCode: "B", User: "b", Scopes: []string{"BMS.Basic"},
	}}
	nothing := sandbox.Account{Password: "x", Consent: sandbox.Consent{
		Sites: []string{"1"}, CompanyCode: "N", User: "n", Scopes: []string{},
	}}
	v := start(t, sandbox.Config{})
	for _, a := range []sandbox.Account{basicOnly, nothing} {
		if err := v.AddAccount(a); err != nil {
			t.Fatal(err)
		}
	}
	all := map[string]string{"scope": "ReferenceData.Company BMS.Basic BMS.PartsOrders BMS.Basic"}
	some := deskOf4711
	some.Scopes = []string{"BMS.PartsOrders", "ReferenceData.Company"}
	none := deskOf4711
	none.Scopes = []string{}
	for _, row := range []struct {
		name      string
		who       sandboxtest.Visitor
		behaviour sandbox.Behaviour
		error     string
		scope     string
	}{
		{"all", deskOf4711, sandbox.Behaviour{}, "", "ReferenceData.Company BMS.Basic BMS.PartsOrders"},
		{"two ticked", some, sandbox.Behaviour{}, "", "ReferenceData.Company BMS.PartsOrders"},
		{"none ticked", none, sandbox.Behaviour{}, "access_denied", ""},
		{"a user who may grant one", sandboxtest.Visitor{Company: "B", User: "b", Password: "x"}, sandbox.Behaviour{},
			"",
			"BMS.Basic"},
		{"a user who may grant none", sandboxtest.Visitor{Company: "N", User: "n", Password: "x"}, sandbox.Behaviour{},
			"access_denied", ""},
		{"a vendor that grants one", deskOf4711, sandbox.Behaviour{GrantScopes: []string{"BMS.PartsOrders"}}, "",
			"BMS.PartsOrders"},
		{"a vendor that does not say", deskOf4711,
			sandbox.Behaviour{GrantScopes: []string{"BMS.Basic"}, OmitScope: true},
			"", ""},
	} {
		if err := v.SetBehaviour(row.behaviour); err != nil {
			t.Fatal(err)
		}
		got := v.visit(row.who, authorizePath(all))
		if got.Get("error") != row.error {
			t.Errorf("%s: %v, want error %q", row.name, got, row.error)
		}
		if row.error != "" {
			continue
		}
		status, pair := v.exchange(got.Get("code"), nil)
		if status != 200 || pair.Scope != row.scope {
			t.Errorf("%s: %d scopes %q, want %q", row.name, status, pair.Scope, row.scope)
		}
		if got := v.do("GET", api+"/whoami",
			pair.AccessToken); (got.status == 200) != strings.Contains(pair.Scope+
			strings.Join(row.behaviour.GrantScopes, " "),
			"Basic") {
			t.Errorf("%s: whoami %d", row.name, got.status)
		}
	}
}

func TestUsersMeSaysWhoseTheTokenIs(t *testing.T) {
	t.Parallel()
	type me struct {
		SiteId, TerminalId                                       any
		CompanyCode, UserName, FirstName, LastName, EmailAddress string
	}
	for _, tame := range []bool{true, false} {
		v := start(t, sandbox.Config{Tame: tame})
		numbers := 0
		for range 2 { // the second of hostile grants has numbers
			_, token := v.login(sandbox.Consent{
				Level: sandbox.Company, Sites: []string{"4712", "4711"}, CompanyCode: "ACME", User: "desk",
				Terminal: "07",
				Scopes:   []string{sandbox.ScopeCompany},
			})
			var got me
			answer := v.do("GET", sandbox.UsersMePath, token)
			answer.decode(t, &got)
			if got.SiteId == 4712.0 {
				numbers++
				got.SiteId = "4712"
			}
			want := me{"4712", "07", "ACME", "desk", "Front", "Desk", "front.desk@acme.example"}
			if answer.status != 200 || got != want {
				t.Errorf("tame %t: %d %+v", tame, answer.status, got)
			}
		}
		if (numbers == 1) == tame {
			t.Errorf("tame %t: %d sites are numbers", tame, numbers)
		}
		for status, token := range map[int]string{401: "", 403: v.site("4711")} {
			got := v.do("GET", sandbox.UsersMePath, token)
			var refusal struct{ Message string }
			if got.decode(t, &refusal); got.status != status || refusal.Message == "" {
				t.Errorf("refused with %d %s, want %d", got.status, got.body, status)
			}
		}
	}
}

func TestTopicsThatAreNotEnabled(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	token := v.site("4711")
	codes := func() []string {
		var list []struct{ TopicCode string }
		v.do("GET", api+"/topics", token).decode(t, &list)
		var out []string
		for _, x := range list {
			out = append(out, x.TopicCode)
		}
		return out
	}
	all := codes()
	if err := v.SetBehaviour(sandbox.Behaviour{TopicsNotEnabled: []string{"PARTS.ORDER"}}); err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{"PARTS", "PARTS.ORDER", "PARTS.ORDER.CREATED"} {
		if got := v.do("POST", api+"/site/subscriptions?topicCode="+code, token); got.status != 404 {
			t.Errorf("subscribing to %s: %d %s", code, got.status, got.body)
		}
	}
	want := slices.DeleteFunc(slices.Clone(all), func(code string) bool { return strings.HasPrefix(code, "PARTS") })
	if got := codes(); !slices.Equal(got, want) || len(want) != len(all)-4 {
		t.Errorf("topics %v", got)
	}
	if err := v.SetBehaviour(sandbox.Behaviour{}); err != nil {
		t.Fatal(err)
	}
	v.subscribe(sandbox.Site, token)
}

func TestDatesThatAreOff(t *testing.T) {
	t.Parallel()
	clock := newClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	v := start(t, sandbox.Config{Now: clock.now})
	if err := v.SetBehaviour(sandbox.Behaviour{DateOffsetSeconds: -3600}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{api + "/whoami", sandbox.UsersMePath, authorizePath(nil), "/elsewhere"} {
		if got := v.do("GET", path, "").header["Date"]; !slices.Equal(got, []string{"Sun, 01 Mar 2026 11:00:00 GMT"}) {
			t.Errorf("%s: Date %q", path, got)
		}
	}
}

func TestFaultsHitThePortalAndUsersMe(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	_, token := v.login(sandbox.Consent{Sites: []string{"1"}, Scopes: []string{sandbox.ScopeCompany}})
	if err := v.SetFaults(sandbox.Faults{Share503: 1}); err != nil { // the API, to which users/me belongs
		t.Fatal(err)
	}
	if got := v.do("GET", sandbox.UsersMePath, token); got.status != 503 {
		t.Errorf("users/me: %d", got.status)
	}
	v.visit(deskOf4711, authorizePath(nil))
	for _, op := range []sandbox.Operation{sandbox.OpUsersMe, sandbox.OpSignIn, sandbox.OpAuthorize} {
		if err := v.SetFaults(sandbox.Faults{Share429: 1, RetryAfter: time.Minute,
			Operations: []sandbox.Operation{op}}); err != nil {
			t.Fatal(err)
		}
		for other, path := range map[sandbox.Operation]string{
			sandbox.OpUsersMe: sandbox.UsersMePath, sandbox.OpAuthorize: authorizePath(nil),
		} {
			if got := v.do("GET", path, token); (got.status == 429) != (op == other) {
				t.Errorf("faults on %s: %s answers %d", op, other, got.status)
			}
		}
		if got, err := v.try("POST", sandbox.SignInPath, "", formHeader(), ""); err != nil ||
			(got.status == 429) != (op == sandbox.OpSignIn) {
			t.Errorf("faults on %s: signing in answers %d %v", op, got.status, err)
		}
	}
}

func TestAccountsAndBehaviourThatCannotBe(t *testing.T) {
	t.Parallel()
	s := sandbox.New(sandbox.Config{})
	a := sandbox.Account{Consent: sandbox.Consent{Sites: []string{"1"}}, Password: "x"}
	for _, list := range [][]sandbox.Account{{{Password: "x"}}, {{Consent: a.Consent}}, {a, a}} {
		if err := s.SetAccounts(list...); err == nil {
			t.Errorf("%v was taken", list)
		}
	}
	for _, b := range []sandbox.Behaviour{
		{PKCE: "x"}, {GrantScopes: []string{"x"}}, {TopicsNotEnabled: []string{"PARTS.X"}},
		{DateOffsetSeconds: 1 << 60},
	} {
		if err := s.SetBehaviour(b); err == nil {
			t.Errorf("%+v was taken", b)
		}
	}
	if got := s.Accounts(); len(got) != 1 || got[0].User != sandbox.DefaultUser ||
		got[0].CompanyCode != sandbox.DefaultCompany || got[0].Password != "" {
		t.Errorf("accounts %v", got)
	}
	if got := s.Behaviour(); got.PKCE != sandbox.PKCEVerify || got.RememberSignIn {
		t.Errorf("behaviour %+v", got)
	}
}

func TestAccountsAndBehaviourOverTheControlAPI(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	const account = `{"companyCode":"ACME","user":"desk","password":"hush","sites":["12"],"terminal":"T9",` +
		`"scopes":["BMS.Basic"]}`
	for _, row := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/accounts", "", 200,
			`[{"level":"site","sites":["4711"],"companyCode":"C4711","user":"bms.4711","terminal":"T4711"}]`},
		{"POST", "/accounts", account, 200, `"terminal":"T9"`},
		{"PUT", "/accounts", "[" + account + "]", 200,
			`[{"level":"site","sites":["12"],"scopes":["BMS.Basic"],"companyCode":"ACME","user":"desk",` +
				`"terminal":"T9"}]`},
		{"PUT", "/accounts", `[{"company":"x"}]`, 400, "company"},
		{"PUT", "/behaviour", `{"topicsNotEnabled":["PARTS.ORDER"],"pkce":"refuse"}`, 200,
			`{"pkce":"refuse","topicsNotEnabled":["PARTS.ORDER"]}`},
		{"PUT", "/behaviour", `{"pkce":"maybe"}`, 400, "verify, ignore, refuse"},
		{"GET", "/behaviour", "", 200, `"pkce":"refuse"`},
		{"POST", "/reset", "", 204, ""},
		{"GET", "/behaviour", "", 200, `{"pkce":"verify"}`},
		{"GET", "/accounts", "", 200, `"user":"bms.4711"`},
	} {
		got, err := v.try(row.method, sandbox.ControlPath+row.path, "", nil, row.body)
		if err != nil || got.status != row.status || !strings.Contains(got.body, row.want) ||
			strings.Contains(got.body, "hush") {
			t.Errorf("%s %s: %d %s %v, want %d %s",
				row.method, row.path, got.status, got.body, err, row.status, row.want)
		}
	}
}

func TestAutoConsentAndRefusals(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{RedirectURIs: []string{back}})
	if err := v.SetAutoConsent(&sandbox.Consent{Sites: []string{"4711"}}); err != nil {
		t.Fatal(err)
	}
	q := returned(t, v.do("GET", authorizePath(map[string]string{"scope": "BMS.Basic"}), ""))
	status, pair := v.ask(url.Values{"grant_type": {"authorization_code"}, "code": {q.Get("code")},
		"redirect_uri": {back}})
	if status != 200 || pair.Scope != "BMS.Basic" {
		t.Errorf("only what was asked for is granted: %d %+v", status, pair)
	}
	for _, row := range []struct{ key, value, error string }{
		{"response_type", "token", "unsupported_response_type"},
		{"scope", "", "invalid_scope"},
		{"scope", "BMS.PartOrders", "invalid_scope"},
	} {
		got := returned(t, v.do("GET", authorizePath(map[string]string{row.key: row.value}), ""))
		if got.Get("error") != row.error || got.Get("state") != "st&te=1" {
			t.Errorf("%s=%s: %v, want %s", row.key, row.value, got, row.error)
		}
	}
	for key, value := range map[string]string{"client_id": "x", "redirect_uri": "http://elsewhere/"} {
		if got := v.do("GET", authorizePath(map[string]string{key: value}), ""); got.status != 400 ||
			got.header.Get("Location") != "" {
			t.Errorf("%s=%s must never be redirected to: %d %q", key, value, got.status, got.header.Get("Location"))
		}
	}
	if err := v.SetAutoConsent(nil); err != nil {
		t.Fatal(err)
	}
	if got := v.do("GET", authorizePath(nil), ""); got.status != 200 {
		t.Errorf("without auto consent the page is shown: %d", got.status)
	}
}
