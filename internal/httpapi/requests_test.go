package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

func TestBodiesThatAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	const path = "/v1/callbacks/cb"
	for name, c := range map[string]struct {
		body    string
		problem string
		places  []string
		headers []string
	}{
		"unknown members": {`{"url":"https://bms.example/","colour":1,"Url":"x"}`, "invalid-body",
			[]string{"/Url", "/colour"}, nil},
		"unknown inside": {`{"url":"https://bms.example/","auth":{"type":"bearer","token":"x","realm":"y"}}`,
			"invalid-body", []string{"/auth/realm"}, nil},
		"missing": {`{}`, "invalid-body", []string{"/url"}, nil},
		"types": {`{"url":7,"sites":"alpha","paused":"no"}`, "invalid-body",
			[]string{"/paused", "/sites", "/url"}, nil},
		"names": {`{"url":"https://bms.example/","sites":["Alpha"]}`, "invalid-body", []string{"/sites/0"}, nil},
		"event types": {`{"url":"https://bms.example/","types":["audatex.*","a.*.b"]}`, "invalid-body",
			[]string{"/types/1"}, nil},
		"orders": {`{"url":"https://bms.example/","orders":["1"]}`, "invalid-body", []string{"/orders/0"}, nil},
		"bounds": {`{"url":"https://bms.example/","concurrency":65,"timeoutSeconds":0,"ratePerSecond":-1}`,
			"invalid-body", []string{"/concurrency", "/ratePerSecond", "/timeoutSeconds"}, nil},
		"headers": {`{"url":"https://bms.example/","headers":{"Host":"x","A/b":"y"}}`, "invalid-body",
			[]string{"/headers/A~1b", "/headers/Host"}, nil},
		"auth twice": {`{"url":"https://bms.example/","headers":{"authorization":"x"},"auth":{"type":"bearer",` +
			`"token":"y"}}`, "invalid-body", []string{"/headers/authorization"}, nil},
		"auth without token": {`{"url":"https://bms.example/","auth":{"type":"bearer","password":"y"}}`, "invalid-body",
			[]string{"/auth/token", "/auth/password"}, nil},
		"huge numbers": {`{"url":"https://bms.example/","concurrency":1e400}`, "malformed-json",
			[]string{"/concurrency"}, nil},
		"tiny rate": {`{"url":"https://bms.example/","ratePerSecond":1e-320}`, "invalid-body",
			[]string{"/ratePerSecond"}, nil},
		"half an order": {`{"url":"https://bms.example/","concurrency":1.5}`, "invalid-body",
			[]string{"/concurrency"}, nil},
		"broken token": {`{"url":"https://bms.example/","auth":{"type":"bearer","token":"a\r\nX-Other: b"}}`,
			"invalid-body", []string{"/auth/token"}, nil},
		"colon in a name": {
			`{"url":"https://bms.example/","auth":{"type":"basic","username":"a:b","password":"\u0000"}}`,
			"invalid-body", []string{"/auth/password", "/auth/username"}, nil},
		"short secret": {`{"url":"https://bms.example/","secret":"whsec_AAAA"}`, "invalid-body",
			[]string{"/secret"}, nil},
		"odd secret": {`{"url":"https://bms.example/","secret":"whsec_` + strings.Repeat("A", 41) + `"}`,
			"invalid-body", []string{"/secret"}, nil},
		"a list":     {`[]`, "invalid-body", []string{""}, nil},
		"null":       {`null`, "invalid-body", []string{""}, nil},
		"garbage":    {`{"url":`, "malformed-json", []string{"/url"}, nil},
		"no JSON":    {`url=1`, "malformed-json", []string{""}, nil},
		"two values": {`{"url":"https://bms.example/"} {}`, "malformed-json", []string{""}, nil},
		"repeated member": {`{"url":"https://bms.example/","headers":{"A":"1","A":"2"}}`, "malformed-json",
			[]string{"/headers/A"}, nil},
		"not UTF-8": {"{\"url\":\"https://bms.example/\xff\"}", "malformed-json", nil, nil},
		"deep": {`{"url":` + strings.Repeat("[", 500_000) + strings.Repeat("]", 500_000-100) + `}`,
			"malformed-json", []string{"/url" + strings.Repeat("/0", 31)}, nil},
		"too large": {`{"url":"` + strings.Repeat("x", maxBody) + `"}`, "body-too-large", nil, nil},
		"nothing":   {``, "malformed-json", nil, nil},
		"text":      {`{}`, "unsupported-media-type", nil, []string{"Content-Type", "text/plain"}},
		"patch":     {`{}`, "unsupported-media-type", nil, []string{"Content-Type", "application/merge-patch+json"}},
		"no type":   {`{}`, "unsupported-media-type", nil, []string{"Content-Type", ""}},
		"Latin": {`{}`, "unsupported-media-type", nil,
			[]string{"Content-Type", "application/json; charset=latin1"}},
		"packed": {`{}`, "unsupported-media-type", nil, []string{"Content-Encoding", "gzip"}},
	} {
		t.Run(name, func(t *testing.T) {
			f.in(t).as(a.token).put(path, c.body, c.headers...).problem(c.problem, c.places...)
		})
	}
	for _, url := range []string{
		"", "bms.example", "ftp://bms.example/", "https://", "https://10.0.0.1/", "https://[::1]/",
		"https://169.254.169.254/latest", "https://bms.example/#x", "https://user:pw@bms.example/",
		"https://bms.example:0/",
		"https://bms example/",
	} {
		a.put(path, map[string]any{"url": url}).want(422).problem("invalid-body", "/url")
	}
	a.get(path).want(404) // nothing came of any of them
}

// What the contract takes for an integer or a time, the handlers must be able to read; what is too
// large for anybody must not be calculated with.
func TestNumbersAndTimesInOddForms(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	const path = "/v1/callbacks/cb"
	var cb Callback
	for body, want := range map[string]int{
		`{"url":"https://bms.example/","concurrency":3.0}`: 3, `{"url":"https://bms.example/","concurrency":0.3e1}`: 3,
		`{"url":"https://bms.example/","concurrency":30E-1,"ratePerSecond":1e-999999999}`: 3,
	} {
		a.do("PUT", path, body).into(&cb)
		if cb.Concurrency != want || cb.RatePerSecond != 0 {
			t.Errorf("%s: %+v", body, cb)
		}
	}
	a.do("PATCH", path, `{"timeoutSeconds":7.0,"ratePerSecond":0.25}`, "Content-Type",
		"application/json").want(200).into(&cb)
	if cb.TimeoutSeconds != 7 || cb.RatePerSecond != 0.25 {
		t.Errorf("patched: %+v", cb)
	}
	for _, odd := range []string{"2099-06-30t00:00:00z", "2099-06-30T23:59:60Z", "2099-06-30 00:00:00Z",
		"2099-06-31T00:00:00Z"} {
		f.admin().post("/v1/clients/client-a/keys", map[string]any{"expiresAt": odd}).want(422).problem("invalid-body",
			"/expiresAt")
	}
}

// A HEAD is a GET without the body; there are probes that know nothing else.
func TestHead(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for path, status := range map[string]int{"/livez": 200, "/readyz": 200, "/v1/callbacks": 401, "/v1/none": 404,
		"/v1/callbacks/cb/resume": 405} {
		got := f.as("").do("HEAD", path, nil).want(status)
		if len(got.body) != 0 || got.header.Get("Content-Length") == "0" {
			t.Errorf("HEAD %s: %s, %q", path, got.header, got.body)
		}
	}
}

func TestParametersThatAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for path, place := range map[string]string{
		"/v1/callbacks?limit=0":                      "limit",
		"/v1/callbacks?limit=x":                      "limit",
		"/v1/callbacks?limit=1&limit=2":              "limit",
		"/v1/callbacks?colour=1":                     "colour",
		"/v1/callbacks?after=%00":                    "after",
		"/v1/callbacks?client=A":                     "client",
		"/v1/callbacks/A":                            "id",
		"/v1/callbacks/-a":                           "id",
		"/v1/callbacks/" + strings.Repeat("a", 64):   "id",
		"/v1/callbacks/%E2%82%AC":                    "id",
		"/v1/callbacks/a%2Fb":                        "id",
		"/v1/events?waitSeconds=61":                  "waitSeconds",
		"/v1/events?since=yesterday":                 "since",
		"/v1/events?sites=":                          "sites",
		"/v1/events?sites=a,B":                       "sites",
		"/v1/events?types=a.*.b":                     "types",
		"/v1/events?orders=1":                        "orders",
		"/v1/events?after=AAAA":                      "after",
		"/v1/events?after=" + position('o', 1):       "after",
		"/v1/events/%2e%2e":                          "eventId",
		"/v1/orders/1":                               "orderId",
		"/v1/assessments/a/b":                        "connection",
		"/v1/callbacks/cb/deliveries?status=unknown": "status",
	} {
		f.admin().get(path).want(400).problem("invalid-parameter", place)
	}
	f.admin().get("/v1/callbacks?limit=%zz").want(400).problem("invalid-parameter")
	f.admin().get("/v1/events?after="+position('e',
		1)+"&since=2026-01-01T00:00:00Z").want(400).problem("invalid-parameter", "since")
	f.admin().delete("/v1/connections/con?unsubscribe=maybe").want(400).problem("invalid-parameter", "unsubscribe")
	f.admin().get("/v1/nothing").problem("not-found")
	f.admin().get("/nothing").problem("not-found")
	f.admin().get("/v1/callbacks/").problem("not-found")
	f.admin().do("BREW", "/v1/nothing", nil).want(404).problem("not-found")
	f.admin().do("BREW", "/v1/callbacks", nil).want(405).problem("method-not-allowed")
	got := f.admin().patch("/v1/callbacks", map[string]any{}).want(405)
	if got.problem("method-not-allowed"); got.header.Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("Allow: %q", got.header.Get("Allow"))
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if got := f.admin().get("/v1/callbacks", "X-Request-Id",
		"my-own-id-1"); got.header.Get("X-Request-Id") != "my-own-id-1" {
		t.Errorf("a caller's own id is kept: %s", got.header)
	}
	for _, odd := range []string{"x", "with space", strings.Repeat("x", 65)} {
		if got := f.admin().get("/v1/none", "X-Request-Id", odd); got.header.Get("X-Request-Id") == odd {
			t.Errorf("%q is taken as an id", odd)
		}
	}
	eventually(t, func() bool { return strings.Contains(f.log.String(), `"request_id":"my-own-id-1"`) })
}

func TestRateIsLimitedPerKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) { c.ratePerSecond, c.burst = 0.001, 3 })
	a, b := f.client("client-a", relay.RoleWrite, "alpha"), f.client("client-b", relay.RoleWrite, "beta")
	for range 3 {
		a.get("/v1/callbacks").want(200)
	}
	got := a.get("/v1/callbacks").want(429)
	if p := got.problem("too-many-requests"); got.header.Get("Retry-After") == "" ||
		p.Detail != "The key may make 0.001 requests a second, and 3 at once." {
		t.Errorf("no Retry-After, or no figures: %s, %s", got.header, p.Detail)
	}
	b.get("/v1/callbacks").want(200)
	for range 10 {
		f.admin().get("/v1/callbacks").want(200)
	}
}

// Without other settings a key may make as many requests as docs/operations.md names: 200 at once after a rest, and 50
// in each second.
func TestTheUsualRateOfAKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) { c.ratePerSecond, c.burst = 0, 0 })
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			after time.Duration
			want  int
		}{{0, 200}, {time.Second, 50}, {3 * time.Second, 150}, {time.Hour, 200}} {
			time.Sleep(c.after) //nolint:forbidigo // virtual time
			n := 0
			for f.api.limits.allow("key") {
				n++
			}
			if n != c.want {
				t.Errorf("%s after the last one %d requests may be made, want %d", c.after, n, c.want)
			}
		}
	})
}

// A panic ends one request. Its problem contains no details, and its log line all of them.
func TestPanicIsAProblem(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) { c.Ready = func() error { panic("what only the log may know") } })
	got := f.as("").get("/readyz").want(500)
	if got.problem("internal-error"); bytes.Contains(got.body, []byte("only the log")) {
		t.Errorf("the problem tells of the panic: %s", got.body)
	}
	eventually(t, func() bool { return strings.Contains(f.log.String(), "what only the log may know") })
	f.as("").get("/livez").want(200)
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) {
		c.Ready = func() error { return errors.New("starting: streams are recovered") }
	})
	var ready Readiness
	f.as("").get("/readyz").want(503).into(&ready)
	if ready.Status != ReadinessStatusNotReady || !strings.Contains(ready.Reason, "recovered") {
		t.Errorf("%+v", ready)
	}
	f.api.Drain()
	f.as("").get("/readyz").want(503).into(&ready)
	if ready.Reason != "draining" {
		t.Errorf("%+v", ready)
	}
}

// A caller whose body stalls is cut off. One that waits for an event is not, although it sends
// nothing for a longer time.
func TestBodyThatStallsIsCutOff(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) { c.readTimeout = 200 * time.Millisecond })
	for _, token := range []string{"wrong", adminToken} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(f.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fprintf(conn,
			"PUT /v1/callbacks/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"+
				"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{", token)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 40") {
			t.Errorf("%s: %q, %v", token, answer, err)
		}
	}
	started := time.Now()
	f.admin().get("/v1/events?waitSeconds=1").want(200)
	if took := time.Since(started); took < 900*time.Millisecond {
		t.Errorf("a waiting request was cut off after %v", took)
	}
}

// A caller that goes away while it waits is no trouble: its place is free again, and the log has no
// warning.
func TestCallerGoesAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", f.base+"/v1/events?waitSeconds=60", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+adminToken)
	done := make(chan error, 1)
	go func() {
		_, err := f.http.Do(r)
		done <- err
	}()
	eventually(t, func() bool { return f.waiting() == 1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	eventually(t, func() bool { return f.waiting() == 0 && strings.Contains(f.log.String(), `"gone":true`) })
	if strings.Contains(f.log.String(), `"level":"WARN"`) {
		t.Errorf("a warning: %s", f.log.String())
	}
}

// For every operation, errors of the store are 503 with a time to come back.
func TestStoreTroubleIs503(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	f.trouble()
	got := a.put("/v1/callbacks/cb", map[string]any{"url": "https://bms.example/"}).want(503)
	if got.problem("store-unavailable"); got.header.Get("Retry-After") == "" {
		t.Errorf("no Retry-After: %s", got.header)
	}
	f.admin().put("/v1/connections/con",
		map[string]any{"level": "site", "site": "alpha"}).want(503).problem("store-unavailable")
	a.get("/v1/callbacks").want(200) // reads and keys go on
}

// The problem of a request that only reads does not mention changes.
func TestTheStoresTroubleIsToldByWhatWasAsked(t *testing.T) {
	t.Parallel()
	const read = "The store does not answer. Try again."
	for _, c := range []struct {
		method, detail string
		err            error
	}{
		{"GET", read, store.ErrUnavailable},
		{"GET", read, store.ErrUnclear},
		{"PUT", "Nothing was changed.", store.ErrUnavailable},
		{"DELETE", "The store gave no clear answer: the change may have been made.", store.ErrUnclear},
	} {
		if p := asProblem(c.method, fmt.Errorf("read: %w", c.err)); p.kind.slug != "store-unavailable" ||
			p.detail != c.detail || p.retryAfter <= 0 {
			t.Errorf("%s, %v: %+v", c.method, c.err, p)
		}
	}

	f := newFixture(t)
	a := f.client("client-a", relay.RoleRead, "alpha")
	f.js.Conn().Close()
	got := a.get("/v1/callbacks/cb").want(503)
	if p := got.problem("store-unavailable"); p.Detail != read || got.header.Get("Retry-After") == "" {
		t.Errorf("%+v, %s", p, got.header)
	}
	a.get("/v1/callbacks").want(200) // from memory
	if head := a.do("HEAD", "/v1/callbacks/cb", nil); head.status != 503 || head.header.Get("Retry-After") == "" {
		t.Errorf("HEAD: %d, %s", head.status, head.header)
	}
}
