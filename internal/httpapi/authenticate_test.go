package httpapi

import (
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
)

// Who guesses is slowed by address and seen; who has a valid token is not, also from the same
// address.
func TestGuessingIsSlowedPerAddressAndSeen(t *testing.T) {
	t.Parallel()
	metrics := ingress.NewMetrics(prometheus.NewRegistry())
	f := newFixture(t, func(c *Config) { c.failures, c.Ingress, c.Proxies = 5, metrics, ingress.Proxies{loopback} })
	a := f.client("client-a", relay.RoleRead, "alpha")
	guess := "Guessed-Token-0123456789"
	wrongKey := a.token[:len(a.token)-1] + "~"
	statuses := map[int]int{}
	for i := range 50 {
		token := guess
		if i%2 == 1 {
			token = wrongKey
		}
		got := f.as(token).get("/v1/callbacks", "X-Forwarded-For", "198.51.100.1, 203.0.113.7, 127.0.0.9")
		if statuses[got.status]++; got.status == 429 && got.header.Get("Retry-After") == "" {
			t.Errorf("no Retry-After: %v", got.header)
		}
	}
	if statuses[401] < 5 || statuses[401] > 10 || statuses[401]+statuses[429] != 50 {
		t.Errorf("50 guesses: %v", statuses)
	}
	a.get("/v1/callbacks", "X-Forwarded-For", "203.0.113.7").want(200)
	f.admin().get("/v1/callbacks", "X-Forwarded-For", "203.0.113.7").want(200)
	f.as(guess).get("/v1/callbacks", "X-Forwarded-For", "203.0.113.8").want(401)
	f.as("").get("/v1/callbacks", "X-Forwarded-For", "203.0.113.7").want(401) // no guess
	for reason, want := range map[string]float64{"token": 26, "key": 25, "missing": 1, "malformed": 0} {
		if got := testutil.ToFloat64(metrics.FailureCounter("api", reason)); got != want {
			t.Errorf("%v failures by %s, want %v", got, reason, want)
		}
	}
	eventually(t, func() bool { return strings.Count(f.log.String(), `"msg":"http"`) >= 54 })
	log := f.log.String()
	if n := strings.Count(log, "authentication failed"); n != 2 {
		t.Errorf("%d lines about failures", n)
	}
	if !strings.Contains(log, `"remote":"203.0.113.7"`) || strings.Contains(log, "198.51.100.1") ||
		strings.Contains(log, "127.0.0.9") {
		t.Error("the log has other addresses than the client's")
	}
	for _, secret := range []string{guess, a.token, wrongKey, a.token[20:]} {
		if strings.Contains(log, secret) {
			t.Error("a token is in the log")
		}
	}
}

// Addresses in headers of whom nobody trusts count for nothing.
func TestForwardedAddressesOfStrangersAreNotBelieved(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) {
		c.failures, c.Proxies = 3, ingress.Proxies{netip.MustParsePrefix("10.0.0.0/8")}
	})
	slowed := 0
	for range 10 {
		if f.as("Guessed-Token-0123456789").get("/v1/callbacks", "X-Forwarded-For", "203.0.113.7").status == 429 {
			slowed++
		}
	}
	if slowed < 5 || strings.Contains(f.log.String(), "203.0.113.7") {
		t.Errorf("%d of 10 were slowed; the log: %s", slowed, f.log.String())
	}
}

func TestAuthorizationThatIsNoBearerTokenIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, headers := range [][]string{
		{"Basic " + adminToken}, {"Bearer"}, {"Bearer "}, {""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.base+"/v1/callbacks", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header["Authorization"] = headers
		answer, err := f.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusUnauthorized {
			t.Errorf("%q: %d", headers, answer.StatusCode)
		}
	}
}

// A token in the place of the request's id is neither logged nor sent back.
func TestATokenIsNoRequestID(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleRead, "alpha")
	secret := strings.Split(a.token, "_")[2]
	for s, ids := range map[session][]string{
		a: {secret, secret[:20], adminToken}, f.as(""): {adminToken},
		f.as("Guessed-Token-0123456789"): {"Guessed-Token-0123456789"},
	} {
		for _, id := range ids {
			if got := s.get("/v1/callbacks", "X-Request-Id", id).header.Get("X-Request-Id"); got == id || got == "" {
				t.Errorf("%q is taken as a request's id", got)
			}
		}
	}
	eventually(t, func() bool { return strings.Count(f.log.String(), `"msg":"http"`) >= 5 })
	for _, token := range []string{adminToken, secret, secret[:20], "Guessed-Token"} {
		if strings.Contains(f.log.String(), token) {
			t.Error("a token is in the log")
		}
	}
}

// The log names callers, and never contains a token: an administrator by name, a key by its client
// and id.
func TestTheLogSaysWho(t *testing.T) {
	t.Parallel()
	admins := access.NewAdmins([]access.Admin{{Name: "admin", Token: adminToken},
		{Name: "ops", Token: "the-token-of-operations"}})
	f := newFixture(t, func(c *Config) { c.Admins = admins })
	a := f.client("client-a", relay.RoleWrite, "alpha")
	f.as("the-token-of-operations").put("/v1/connections/leeds",
		map[string]any{"level": "site", "site": "leeds"}).want(201)
	f.as("the-token-of-operations").put("/v1/connections/leeds", map[string]any{"level": "moon"}).want(422)
	f.admin().get("/v1/connections").want(200)
	a.put("/v1/callbacks/of-a", map[string]any{"url": "https://bms.example/"}).want(201)
	admins.Replace([]access.Admin{{Name: "admin", Token: adminToken}})
	f.as("the-token-of-operations").get("/v1/connections").want(401)
	eventually(t, func() bool { return strings.Count(f.log.String(), `"msg":"http"`) >= 7 })
	keyID := strings.Split(a.token, "_")[1]
	for _, want := range []string{
		`"method":"PUT","route":"/v1/connections/{id}","status":201,.*"admin":"ops","path":"/v1/connections/leeds"`,
		`"method":"PUT","route":"/v1/connections/{id}","status":422,.*"admin":"ops","problem":"invalid-body"`,
		`"method":"GET","route":"/v1/connections","status":200,.*"admin":"admin"}`,
		`"method":"PUT","route":"/v1/callbacks/{id}","status":201,.*"client":"client-a","key":"` + keyID +
			`","path":"/v1/callbacks/of-a"`,
		`"method":"GET","route":"/v1/connections","status":401,.*"remote":"127.0.0.1","problem":"unauthorized"`,
	} {
		if !regexp.MustCompile(strings.NewReplacer("{", `\{`, "}", `\}`).Replace(want)).MatchString(f.log.String()) {
			t.Errorf("no line %s in\n%s", want, f.log.String())
		}
	}
	if strings.Contains(f.log.String(), "the-token-of-operations") {
		t.Error("a token is in the log")
	}
}
