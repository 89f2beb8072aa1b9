package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/audatex-relay/relay/internal/relay"
)

// validator is the part of the API that checks requests, without a store behind it.
func validator(tb testing.TB) *API {
	tb.Helper()
	c, err := embedded()
	if err != nil {
		tb.Fatal(err)
	}
	return &API{
		contract: c, bodies: newTurns(bodiesOfKey), reads: newTurns(readsOfKey),
		large:  make(chan struct{}, largeBodies),
		checks: make(chan struct{}, checkedOnce),
	}
}

// check runs the checks that come before a request's handler. It returns the response, and how many
// bytes were allocated.
func (a *API) check(operation string, r *http.Request) (answer *httptest.ResponseRecorder, allocated uint64) {
	x := &exchange{op: a.contract.operations[operation],
		caller: caller{key: relay.Key{ID: "key", Role: relay.RoleWrite}}}
	answer = httptest.NewRecorder()
	route := chi.NewRouteContext()
	for name, value := range map[string]string{"id": "cb", "eventId": "e", "orderId": orderA} {
		route.URLParams.Add(name, value)
	}
	r = r.WithContext(withExchange(withRoute(r.Context(), route), x))
	handler := a.passing(a.validate)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
	}))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	handler.ServeHTTP(answer, r)
	runtime.ReadMemStats(&after)
	return answer, after.TotalAlloc - before.TotalAlloc
}

func withExchange(ctx context.Context, x *exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

func withRoute(ctx context.Context, route *chi.Context) context.Context {
	return context.WithValue(ctx, chi.RouteCtxKey, route)
}

func putRequest(body string) *http.Request {
	r := httptest.NewRequest("PUT", "/v1/callbacks/cb", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return r
}

// filled is a body of just under the largest size: head, then as often as it goes part, then tail.
// Verbs in part count.
func filled(head, part, tail string) string {
	var b strings.Builder
	b.WriteString(head)
	for i := 0; ; i++ {
		next := part
		if strings.Contains(part, "%") {
			next = fmt.Sprintf(part, i)
		}
		if b.Len()+len(next)+len(tail) > maxBody {
			break
		}
		b.WriteString(next)
	}
	return strings.TrimSuffix(b.String(), ",") + tail
}

// Reading and refusing any body allocates a small multiple of its size, and the response stays
// small. The test is not parallel, so that only its own allocations count.
func TestABodyCostsASmallMultipleOfItsSize(t *testing.T) { //nolint:paralleltest // see above
	a := validator(t)
	a.check("PUT /v1/callbacks/{id}", putRequest(`{"url":1}`)) // what is made at first use does not count
	long := strings.Repeat("x", 600_000)
	for name, c := range map[string]struct {
		body   string
		status int
	}{
		"empty objects":            {filled(`{"sites":[`, `{},`, `]}`), 400},
		"empty arrays":             {filled(`{"sites":[`, `[],`, `]}`), 400},
		"nulls":                    {filled(`{"sites":[`, `null,`, `]}`), 400},
		"numbers":                  {filled(`[`, `1,`, `]`), 400},
		"nested arrays":            {strings.Repeat("[", maxBody/2) + strings.Repeat("]", maxBody/2), 400},
		"nested objects":           {filled(``, `{"a":`, ``), 400},
		"a long name and an array": {filled(`{"`+long+`":[`, `0,`, `]}`), 400},
		"unknown members":          {filled(`{`, `"%d":0,`, `}`), 400},
		"unknown members inside":   {filled(`{"url":"https://bms.example/","auth":{`, `"%d":0,`, `}}`), 400},
		"as many as may be":        {`{"url":1` + unknown(maxValues-2) + `}`, 422},
		"long names":               {filled(`{`, `"%d`+strings.Repeat("n", maxName-8)+`":0,`, `}`), 422},
		"wrong items": {`{"url":"https://bms.example/","sites":[` + strings.Repeat(`{},`, 9_000) + `{}]}`,
			422},
		"wrong names": {`{"url":"https://bms.example/","sites":[` +
			strings.TrimSuffix(strings.Repeat(`"A%",`, 9_000), ",") + `]}`, 422},
		"equal sites": {`{"url":"https://bms.example/","sites":[` +
			strings.TrimSuffix(strings.Repeat(`"alpha",`, 9_000), ",") + `]}`, 422},
		"equal objects": {`{"url":"https://bms.example/","orders":[` +
			strings.TrimSuffix(strings.Repeat(`{"a":[1,2]},`, 2_000), ",") + `]}`, 422},
		"many long texts":   {filled(`{"orders":[`, `"`+strings.Repeat("a", maxText)+`",`, `]}`), 422},
		"a repeated member": {filled(`{`, `"a":1,`, `}`), 400},
		"a long text":       {`{"url":"` + long + `"}`, 400},
		"a long secret":     {`{"url":"https://bms.example/","secret":"whsec_` + long + `"}`, 400},
		"a long number": {`{"url":"https://bms.example/","concurrency":` + strings.Repeat("9", 900_000) +
			`}`, 400},
		"a long fraction": {`{"url":"https://bms.example/","ratePerSecond":0.` + strings.Repeat("1", 900_000) +
			`}`, 400},
		"a large exponent": {`{"url":"https://bms.example/","ratePerSecond":1e308}`, 422},
		"many large exponents": {`{"url":"https://bms.example/","orders":[` + strings.Repeat(`1e308,`, 9_000) +
			`1]}`, 422},
		"escapes":     {`{"url":"` + strings.Repeat(`\u0041`, 150_000) + `"}`, 400},
		"white space": {strings.Repeat(" ", maxBody-2) + `{}`, 422},
		"no JSON":     {strings.Repeat("x", maxBody), 400},
		"no UTF-8":    {strings.Repeat("\xff", maxBody), 400},
		"too large":   {strings.Repeat(" ", maxBody+1), 413},
	} {
		answer, allocated := a.check("PUT /v1/callbacks/{id}", putRequest(c.body))
		if most := uint64(16 << 20); answer.Code != c.status || allocated > most || answer.Body.Len() > 64<<10 {
			t.Errorf("%s: %d bytes are answered %d (want %d) with %d bytes, at the cost of %d (at most %d): %.200s",
				name, len(c.body), answer.Code, c.status,
				answer.Body.Len(), allocated, most, answer.Body.Bytes())
		}
	}
	// The same of a patch, which is held against a schema twice.
	for name, patch := range map[string]string{
		"empty objects": filled(`{"sites":[`, `{},`, `]}`),
		"names":         `{"headers":{` + strings.TrimPrefix(unknown(9_000), ",") + `}}`,
		"sites":         `{"sites":[` + strings.Repeat(`"a",`, 9_000) + `"a"]}`,
	} {
		r := httptest.NewRequest("PATCH", "/v1/callbacks/cb", strings.NewReader(patch))
		r.Header.Set("Content-Type", "application/merge-patch+json")
		answer, allocated := a.check("PATCH /v1/callbacks/{id}", r)
		if answer.Code == 200 {
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := patched(a, CallbackSettings{Url: "https://bms.example/"}, []byte(patch),
				"CallbackSettings"); err == nil {
				t.Errorf("%s is taken", name)
			}
			runtime.ReadMemStats(&after)
			allocated += after.TotalAlloc - before.TotalAlloc
		}
		if allocated > 24<<20 {
			t.Errorf("patch of %s: %d bytes cost %d", name, len(patch), allocated)
		}
	}
}

// unknown writes n members that the contract does not know.
func unknown(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"x%d":[]`, i)
	}
	return b.String()
}

// Queries and headers are bounded by the server; what fits into that costs little.
func TestAQueryCostsASmallMultipleOfItsSize(t *testing.T) { //nolint:paralleltest // only its own allocations count
	a := validator(t)
	const room = 32 << 10
	for name, query := range map[string]string{
		"a parameter again and again": strings.Repeat("limit=1&", room/8),
		"unknown parameters":          filledQuery(room, "&%x"),
		"a list of commas":            "sites=" + strings.Repeat(",", room),
		"a list of names":             "sites=" + strings.Repeat("a,", room/2),
		"types":                       "types=" + strings.Repeat("a.*,", room/4),
		"orders":                      "orders=" + strings.Repeat(orderA+",", room/37),
		"escapes":                     "sites=" + strings.Repeat("%2C", room/3),
		"a long value":                "after=" + strings.Repeat("A", room),
		"a long number":               "limit=" + strings.Repeat("9", room),
		"broken escapes":              strings.Repeat("%", room),
		"a long time":                 "since=" + strings.Repeat("2026-01-15T09:38:44+01:00", room/25),
	} {
		r := httptest.NewRequest("GET", "/v1/events", nil)
		r.URL.RawQuery = query
		answer, allocated := a.check("GET /v1/events", r)
		if answer.Code != 400 || allocated > 4<<20 || answer.Body.Len() > 16<<10 {
			t.Errorf("%s: answered %d with %d bytes at the cost of %d: %.200s", name, answer.Code, answer.Body.Len(),
				allocated, answer.Body.Bytes())
		}
	}
}

func filledQuery(size int, part string) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, part, i)
	}
	return b.String()
}

// A problem lists the first errors and the number of the others, and shortens long keys in a
// pointer.
func TestProblemsAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	var p Problem
	a.put("/v1/callbacks/cb", `{"url":"https://bms.example/"`+unknown(5_000)+`}`).want(422).into(&p)
	if n := len(p.Errors); n != maxErrors+1 || p.Errors[n-1].Detail != "and 4900 more" {
		t.Errorf("%d errors, the last is %+v", n, p.Errors[n-1])
	}
	a.put("/v1/callbacks/cb", `{"url":"https://bms.example/","`+strings.Repeat("é", 200)+`":1}`).want(422).into(&p)
	if got, want := p.Errors[0].Pointer, "/"+strings.Repeat("é", 32)+"…"; got != want {
		t.Errorf("pointer %q, want %q", got, want)
	}
	f.admin().get("/v1/events?" + filledQuery(20_000, "&%x")).want(400).into(&p)
	if len(p.Errors) != maxErrors+1 {
		t.Errorf("%d errors in parameters", len(p.Errors))
	}
	f.admin().get("/v1/callbacks/"+strings.Repeat("a", 20_000)).want(400).problem("invalid-parameter", "id")
}

// The bounds leave room for the largest settings there can be.
func TestTheLargestSettingsAreTaken(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	sites, orders := make([]string, 1000), make([]string, 1000)
	vendor := map[string]string{}
	for i := range sites {
		sites[i] = fmt.Sprintf("site-%d-%s", i, strings.Repeat("x", 50))
		orders[i] = fmt.Sprintf("%08d-6a64-4a2c-9d55-0a3f3a9f7b11", i)
		vendor[fmt.Sprintf("vendor-%d", i)] = sites[i]
	}
	headers := map[string]string{}
	for i := range 20 {
		headers[fmt.Sprintf("X-Header-%d", i)] = strings.Repeat("v", 2048)
	}
	f.admin().put("/v1/clients/large", map[string]any{"sites": sites}).want(201)
	a := f.key("large", relay.RoleWrite)
	settings := map[string]any{
		"url": "https://bms.example/" + strings.Repeat("u", 2000), "sites": sites, "orders": orders, "headers": headers,
		"auth": map[string]string{"type": "bearer", "token": strings.Repeat("t", 4096)},
	}
	a.put("/v1/callbacks/large", settings).want(201)
	a.patch("/v1/callbacks/large", map[string]any{"sites": sites[:999], "paused": true}).want(200)
	f.admin().put("/v1/connections/large",
		map[string]any{"level": "company", "sites": vendor, "refreshToken": strings.Repeat("é", 8192)}).want(201)
	f.admin().patch("/v1/connections/large", map[string]any{"paused": true}).want(200)
}

// A key that may not change anything is refused before its body is read: it is still answered while
// the body has not come.
func TestReadersBodiesAreNotRead(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.client("client-a", relay.RoleWrite, "alpha").put("/v1/callbacks/cb",
		map[string]any{"url": "https://bms.example/"}).want(201)
	reader, body := f.key("client-a", relay.RoleRead), strings.Repeat("[", maxBody)
	for _, method := range []string{"PUT", "PATCH", "DELETE"} {
		for _, id := range []string{"cb", "free"} {
			reader.do(method, "/v1/callbacks/"+id, body, "Content-Type",
				"text/plain").want(403).problem("read-only-key")
		}
	}
	x := &exchange{op: f.api.contract.operations["PUT /v1/callbacks/{id}"],
		caller: caller{key: relay.Key{ID: "key", Role: relay.RoleRead}}}
	unread := &counting{r: strings.NewReader(body)}
	r := httptest.NewRequest("PUT", "/v1/callbacks/cb", unread)
	w := httptest.NewRecorder()
	f.api.passing(f.api.authorize, f.api.validate)(nil).ServeHTTP(w, r.WithContext(withExchange(r.Context(), x)))
	if w.Code != 403 || unread.n != 0 {
		t.Errorf("answered %d after %d bytes", w.Code, unread.n)
	}
}

// counting counts what is read of it.
type counting struct {
	r *strings.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// The bodies of one key are read one at a time. The next waits, and is refused with a time to come
// back if it would wait too long. Other keys are not affected.
func TestBodiesOfAKeyAreReadOneAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bodies := newTurns(bodiesOfKey)
		done, err := bodies.soon(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		if _, err := bodies.soon(t.Context(), "a"); asProblem("PUT", err).kind.slug != "too-many-requests" ||
			time.Since(started) != turnWait {
			t.Errorf("%v after %v", err, time.Since(started))
		}
		other, err := bodies.soon(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		other()
		go func() {
			<-time.After(turnWait / 2)
			done()
		}()
		next, err := bodies.soon(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		next()
		for range 100 { // the admin token has no bound
			if _, err := bodies.soon(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
		}
		if len(bodies.keys) != 0 {
			t.Errorf("%d keys are kept", len(bodies.keys))
		}
	})
}

func FuzzReadJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,{"b":null}]}`, `[1e400]`, `"\ud800"`, `{"a":1,"a":2}`, `{}x`,
		strings.Repeat("[", 40)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := readJSON(raw)
		if err != nil {
			if asProblem("PUT", err).kind.slug != "malformed-json" {
				t.Fatalf("%v", err)
			}
			return
		}
		if n := countValues(v); n > maxValues {
			t.Fatalf("%d values were read", n)
		}
		if _, err := merge(v, raw); err != nil {
			t.Fatalf("a value that was read cannot be merged into itself: %v", err)
		}
	})
}

func countValues(v any) int {
	n := 1
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			n += countValues(item)
		}
	case map[string]any:
		for _, member := range v {
			n += countValues(member)
		}
	}
	return n
}

// Every body, held against every operation that takes one, is answered by a problem of bounded size
// that repeats nothing long, or taken.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		`{"url":"https://bms.example/","sites":["alpha"],"types":["audatex.*"],"headers":{"A":"b"},` +
			`"auth":{"type":"basic","username":"u","password":"p"}}`,
		`{"level":"site","sites":{"1":"alpha"},"pollIntervalSeconds":0.5}`,
		`{"role":"read","expiresAt":"2027-01-01T00:00:00Z"}`, `{"url":null}`, `[]`, ``,
	} {
		f.Add([]byte(seed), "application/json")
	}
	a := validator(f)
	f.Fuzz(func(t *testing.T, raw []byte, contentType string) {
		for key, op := range a.contract.operations {
			if op.bodies == nil {
				continue
			}
			method, path, _ := strings.Cut(key, " ")
			r := httptest.NewRequest(method, (&url.URL{Path: path}).String(), bytes.NewReader(raw))
			r.Header.Set("Content-Type", contentType)
			x := &exchange{op: op}
			read := &counting{r: strings.NewReader(string(raw))}
			r.Body = httpBody{read}
			err := a.takeBody(httptest.NewRecorder(), r.WithContext(withExchange(r.Context(), x)), x)
			if read.n > maxBody+1 {
				t.Fatalf("%s: %d bytes were read", key, read.n)
			}
			if err != nil {
				p := asProblem(method, err)
				checkProblem(t, p)
			}
		}
	})
}

type httpBody struct{ *counting }

func (httpBody) Close() error { return nil }

func checkProblem(t *testing.T, p *problem) {
	t.Helper()
	if p.kind.status < 400 || p.kind.status >= 500 {
		t.Fatalf("%v", p)
	}
	for _, e := range capped(p.errors) {
		if len(e.Pointer)+len(e.Parameter)+len(e.Detail) > 1024 {
			t.Fatalf("a long error: %+v", e)
		}
	}
}

// Every query is taken, or refused by a problem of bounded size.
func FuzzParameters(f *testing.F) {
	for _, seed := range []string{"sites=a,b&types=audatex.*&orders=" + orderA, "limit=5&after=abc",
		"since=2026-01-01T00:00:00+01:00", "waitSeconds=60", "%zz", "a&a&b"} {
		f.Add(seed, "cb", `"1"`)
	}
	a := validator(f)
	f.Fuzz(func(t *testing.T, query, id, ifMatch string) {
		for key, op := range a.contract.operations {
			r := httptest.NewRequest("GET", "/", nil)
			r.URL.RawQuery = query
			r.Header["If-Match"] = []string{ifMatch}
			route := chi.NewRouteContext()
			for _, p := range op.parameters {
				if p.in == "path" {
					route.URLParams.Add(p.name, id)
				}
			}
			if err := a.contract.checkParameters(op, r.WithContext(withRoute(r.Context(), route))); err != nil {
				checkProblem(t, asProblem(key, err))
			}
		}
	})
}
