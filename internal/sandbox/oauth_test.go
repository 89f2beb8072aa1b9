package sandbox_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// clock is a hand-moved time.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock(t time.Time) *clock { return &clock{t: t} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func TestRefreshTokensRotate(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	g, err := v.Grant(sandbox.Consent{Sites: []string{"4711"}})
	if err != nil {
		t.Fatal(err)
	}
	status, first := v.refresh(g.RefreshToken)
	if status != 200 || first.RefreshToken == g.RefreshToken || !strings.EqualFold(first.TokenType, "bearer") ||
		first.ExpiresIn != 1800 || first.Scope != "BMS.Basic BMS.PartsOrders" {
		t.Fatalf("first refresh: %d %+v", status, first)
	}
	if status, refused := v.refresh(g.RefreshToken); status != 400 || refused.Error != "invalid_grant" {
		t.Fatalf("a spent refresh token: %d %+v", status, refused)
	}
	status, second := v.refresh(first.RefreshToken)
	if status != 200 || second.AccessToken == first.AccessToken {
		t.Fatalf("the newest is still good: %d %+v", status, second)
	}
	if status, refused := v.refresh("rt-unknown"); status != 400 || refused.Error != "invalid_grant" {
		t.Fatalf("an unknown refresh token: %d %+v", status, refused)
	}
	for _, token := range []string{first.AccessToken, second.AccessToken} {
		if got := v.do("GET", api+"/whoami", token); got.status != 200 {
			t.Errorf("an access token within its time: %d", got.status)
		}
	}
	c := v.Counters()
	if c.TokenRefreshes != 2 || c.SpentRefreshTokens != 1 || c.Grants[g.ID].TokenRefreshes != 2 ||
		c.Grants[g.ID].SpentRefreshTokens != 1 {
		t.Errorf("counters %+v", c)
	}
}

func TestAccessTokensExpireAndConsentsAreWithdrawn(t *testing.T) {
	t.Parallel()
	clock := newClock(time.Now())
	v := start(t, sandbox.Config{Now: clock.now})
	g, err := v.Grant(sandbox.Consent{Sites: []string{"4711"}})
	if err != nil {
		t.Fatal(err)
	}
	_, pair := v.refresh(g.RefreshToken)
	whoami := func(token string, want int) {
		t.Helper()
		if got := v.do("GET", api+"/whoami", token); got.status != want {
			t.Fatalf("whoami: %d, want %d", got.status, want)
		}
	}
	clock.add(1800*time.Second - 1)
	whoami(pair.AccessToken, 200)
	clock.add(1)
	whoami(pair.AccessToken, 401)
	_, pair = v.refresh(pair.RefreshToken)
	whoami(pair.AccessToken, 200)
	if err := v.ExpireAccessTokens(g.ID); err != nil {
		t.Fatal(err)
	}
	whoami(pair.AccessToken, 401)
	_, pair = v.refresh(pair.RefreshToken)
	whoami(pair.AccessToken, 200)
	if err := v.RevokeGrant(g.ID); err != nil {
		t.Fatal(err)
	}
	whoami(pair.AccessToken, 401)
	if status, refused := v.refresh(pair.RefreshToken); status != 400 || refused.Error != "invalid_grant" {
		t.Errorf("refreshing a withdrawn consent: %d %+v", status, refused)
	}
	if n := v.Counters().SpentRefreshTokens; n != 0 {
		t.Errorf("an unspent token was counted as spent %d times", n)
	}
}

func TestClientAuthentication(t *testing.T) {
	t.Parallel()
	const id, secret = "id:with/odd chars", "s&cret=+%"
	v := start(t, sandbox.Config{ClientID: id, ClientSecret: secret})
	for _, row := range []struct {
		name   string
		form   url.Values
		basic  []string
		status int
		error  string
	}{
		{"form", url.Values{"client_id": {id}, "client_secret": {secret}}, nil, 200, ""},
		{"basic, encoded as the RFC says", nil, []string{url.QueryEscape(id), url.QueryEscape(secret)}, 200, ""},
		{"form, wrong secret", url.Values{"client_id": {id}, "client_secret": {"x"}}, nil, 401, "invalid_client"},
		{"basic, wrong secret", nil, []string{url.QueryEscape(id), "x"}, 401, "invalid_client"},
		{"none", nil, nil, 401, "invalid_client"},
		{"both", url.Values{"client_id": {id}, "client_secret": {secret}},
			[]string{url.QueryEscape(id), url.QueryEscape(secret)}, 400, "invalid_request"},
	} {
		g, err := v.Grant(sandbox.Consent{Sites: []string{"4711"}})
		if err != nil {
			t.Fatal(err)
		}
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {g.RefreshToken}}
		for k := range row.form {
			form.Set(k, row.form.Get(k))
		}
		header := formHeader()
		if row.basic != nil {
			r := http.Request{Header: header}
			r.SetBasicAuth(row.basic[0], row.basic[1])
		}
		got, err := v.try("POST", sandbox.TokenPath, "", header, form.Encode())
		if err != nil {
			t.Fatal(err)
		}
		var out tokens
		got.decode(t, &out)
		if got.status != row.status || out.Error != row.error || !uuid.MatchString(got.header.Get("Correlation-Id")) {
			t.Errorf("%s: %d %q, want %d %q", row.name, got.status, out.Error, row.status, row.error)
		}
		// A refused client spends nothing.
		if spent := v.Counters().Grants[g.ID].TokenRefreshes; spent != 0 && row.status != 200 {
			t.Errorf("%s: the refresh token was spent", row.name)
		}
	}
}

func TestTokenRequestsThatCannotBe(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	for form, want := range map[string]string{
		"":                                   "invalid_request",
		"grant_type=client_credentials":      "unsupported_grant_type",
		"grant_type=refresh_token":           "invalid_grant",
		"grant_type=authorization_code":      "invalid_grant",
		"grant_type=authorization_code&code": "invalid_grant",
	} {
		values, err := url.ParseQuery(form)
		if err != nil {
			t.Fatal(err)
		}
		if status, got := v.ask(values); status != 400 || got.Error != want {
			t.Errorf("%q: %d %q, want 400 %q", form, status, got.Error, want)
		}
	}
	got, err := v.try("POST", sandbox.TokenPath, "", http.Header{"Content-Type": {"application/json"}},
		`{"grant_type":"refresh_token"}`)
	if err != nil || got.status != 400 || !strings.Contains(got.body, "invalid_request") {
		t.Errorf("a JSON token request: %d %s %v", got.status, got.body, err)
	}
}

func TestOlderSpellingOfTheOrdersScope(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{OrdersScope: "BMS.PartOrders"})
	o := v.create("4711", sandbox.OrderOptions{})
	if got := v.do("GET", api+"/partsorders/"+o.ID, v.site("4711")); got.status != 200 {
		t.Errorf("with the older spelling: %d", got.status)
	}
	_, token := v.login(sandbox.Consent{Sites: []string{"4711"}, Scopes: []string{"BMS.Basic", "BMS.PartsOrders"}})
	if got := v.do("GET", api+"/partsorders/"+o.ID, token); got.status != 403 {
		t.Errorf("with the newer spelling: %d", got.status)
	}
}

func TestConsentsThatCannotBe(t *testing.T) {
	t.Parallel()
	s := sandbox.New(sandbox.Config{})
	for _, c := range []sandbox.Consent{
		{}, {Sites: []string{""}}, {Level: "planet", Sites: []string{"1"}},
		{Level: sandbox.Site, Sites: []string{"1", "2"}},
	} {
		if g, err := s.Grant(c); err == nil {
			t.Errorf("%+v was granted: %v", c, g)
		}
	}
}

// lockedText is written by the server's goroutines and read by the test's.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestSecretsStayOutOfText(t *testing.T) {
	t.Parallel()
	var log lockedText
	cfg := sandbox.Config{ClientSecret: "hush-hush",
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	v := start(t, cfg)
	g, err := v.Grant(sandbox.Consent{Sites: []string{"4711"}})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log.Info("look", "config", cfg, "grant", g)
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {g.RefreshToken},
		"client_id":     {"sandbox-client"},
		"client_secret": {"hush-hush"}}
	if got, err := v.try("POST", sandbox.TokenPath, "", formHeader(), form.Encode()); err != nil || got.status != 200 {
		t.Fatalf("refreshing: %d %v", got.status, err)
	}
	text := log.String() + fmt.Sprintf("%v %+v %#v %v %+v %#v", cfg, cfg, cfg, g, g, g)
	if !strings.Contains(log.String(), "operation=token") {
		t.Errorf("no line about the request in %q", log.String())
	}
	for _, secret := range []string{"hush-hush", g.RefreshToken, "at-", "rt-"} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is in %q", secret, text)
		}
	}
}
