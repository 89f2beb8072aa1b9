package httpapi

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

// A caller cannot distinguish another client's resource from one that does not exist. This holds
// for every operation that takes an id, with every role, with and without a version, and with good
// and bad bodies. Only creating a callback reveals that its id is in use.
func TestIdsOfOtherClientsCannotBeToldApart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	writer, reader := f.client("client-b", relay.RoleWrite, "beta"), f.key("client-b", relay.RoleRead)
	manager, theirKey := f.key("client-b", relay.RoleManage), strings.Split(a.token, "_")[1]
	writer.put("/v1/callbacks/own", map[string]any{"url": "https://bms.example/"}).want(201)
	a.put("/v1/callbacks/theirs", map[string]any{"url": "https://bms.example/", "startFrom": "earliest"}).want(201)
	f.admin().put("/v1/connections/theirs",
		map[string]any{"level": "site", "site": "alpha", "refreshToken": "refresh-token-secret"}).want(201)
	f.order("alpha", orderA)
	ev, disabled := f.publish("alpha", orderA), f.operational(relay.NoSite, relay.KindCallbackDisabled, "theirs")
	noEvent, noOrder := strings.Replace(ev.ID, orderA, orderB, 1), orderB
	noDisabled := strings.Replace(disabled.ID, "theirs", "nobody", 1)

	pairs := map[string][]string{ // by path: what is there, and what is not
		"/v1/callbacks/%s":                          {"theirs", "nobody"},
		"/v1/callbacks/%s/rotate-secret":            {"theirs", "nobody"},
		"/v1/callbacks/%s/secrets/0123456789abcdef": {"theirs", "nobody"},
		"/v1/callbacks/%s/test":                     {"theirs", "nobody"},
		"/v1/callbacks/%s/resume":                   {"theirs", "nobody"},
		"/v1/callbacks/%s/deliveries":               {"theirs", "nobody"},
		"/v1/callbacks/%s/deliveries?after=AAAA":    {"theirs", "nobody"},
		"/v1/callbacks/%s/deliveries?status=wrong":  {"theirs", "nobody"},
		"/v1/callbacks/%s/deliveries/" + ev.ID:      {"theirs", "nobody"},
		"/v1/callbacks/own/deliveries/%s":           {ev.ID, noEvent},
		"/v1/callbacks/theirs/deliveries/%s":        {ev.ID, noEvent},
		"/v1/events/%s":                             {ev.ID, noEvent},
		"/v1/events/%s?x=1":                         {disabled.ID, noDisabled},
		"/v1/events/%s?":                            {disabled.ID, noDisabled},
		"/v1/orders/%s":                             {orderA, noOrder},
		"/v1/orders/%s?site=alpha":                  {orderA, noOrder},
		"/v1/orders/%s?site=beta":                   {orderA, noOrder},
		"/v1/orders/%s/events":                      {orderA, noOrder},
		"/v1/orders/" + orderA + "?site=%s":         {"alpha", "nowhere"},
		"/v1/orders/" + orderA + "/events?site=%s":  {"alpha", "nowhere"},
		"/v1/events?sites=%s":                       {"alpha", "alphb"},
		"/v1/orders?sites=%s":                       {"alpha", "alphb"},
		"/v1/callbacks?client=%s":                   {"client-a", "client-x"},
		"/v1/assessments/o/n?connection=%s":         {"theirs", "nobody"},
		"/v1/connections/%s":                        {"theirs", "nobody"},
		"/v1/connections/%s/poll":                   {"theirs", "nobody"},
		"/v1/connections/%s/reconcile":              {"theirs", "nobody"},
		"/v1/clients/%s":                            {"client-a", "client-x"},
		"/v1/clients/%s/keys":                       {"client-a", "client-x"},
		"/v1/clients/%s/keys/" + theirKey:           {"client-a", "client-x"},
		"/v1/clients/client-a/keys/%s":              {theirKey, "none"},
		"/v1/clients/client-b/keys/%s":              {theirKey, "none"},
		"/v1/unresolved/%s":                         {"con-a-1-0", "con-x-1-0"},
		"/v1/unresolved/%s/retry":                   {"con-a-1-0", "con-x-1-0"},
	}
	// The thousands of calls do without the network, and without holding each against the contract
	// as all other tests do.
	writer.f, reader.f, manager.f = f.direct(), f.direct(), f.direct()
	bodies := []string{
		``, `{}`, `{"url":"https://bms.example/"}`, `{"url":"https://bms.example/","sites":["alpha"]}`,
		`{"url":"https://bms.example/","startFrom":"never"}`,
		`{"description":"x"}`, `{"secret":"` + secretText + `"}`, `{"unknown":1}`, `{"url":`, `[]`, `null`,
		`{"paused":true}`,
		`{"concurrency":0}`,
	}
	for path, ids := range pairs {
		for _, who := range []session{writer, reader, manager} {
			for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"} {
				for i, body := range bodies {
					if (method == "GET" || method == "HEAD") && i > 0 {
						break
					}
					for _, ifMatch := range []string{"", `"1"`, "*"} {
						if ifMatch != "" && (i > 2 || method == "GET" || method == "HEAD" || method == "POST") {
							continue
						}
						headers := []string{"Content-Type", "application/json"}
						if ifMatch != "" {
							headers = append(headers, "If-Match", ifMatch)
						}
						call := func(id string) answer {
							return who.do(method, fmt.Sprintf(path, id), body, headers...)
						}
						theirs := call(ids[0])
						if theirs.status == http.StatusConflict && method == "PUT" && who != reader &&
							path == "/v1/callbacks/%s" {
							if p := theirs.problem("id-taken"); p.Detail != "" || ifMatch != "" ||
								strings.Contains(string(theirs.body), "client-a") {
								t.Errorf("a taken id with If-Match %q: %s", ifMatch, theirs.body)
							}
							continue
						}
						none := call(ids[1])
						if said, want := strings.ReplaceAll(mask(theirs.body), ids[0],
							"ID"), strings.ReplaceAll(mask(none.body), ids[1],
							"ID"); theirs.status != none.status || said != want ||
							theirs.status < 300 || theirs.header.Get("Allow") != none.header.Get("Allow") {
							t.Errorf("%s %s of %s with %s, If-Match %q: %d %s\nof %s: %d %s", method, path, ids[0],
								body, ifMatch, theirs.status, theirs.body, ids[1],
								none.status, none.body)
						}
					}
				}
			}
		}
	}
	a.get("/v1/callbacks/theirs").want(200)
	// the same id, escaped, which the validating client cannot read
	for who, status := range map[session]int{a: 200, writer: 404} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/callbacks/%74heir%73", nil)
		r.Header.Set("Authorization", "Bearer "+who.token)
		w := httptest.NewRecorder()
		if f.api.Handler().ServeHTTP(w, r); w.Code != status {
			t.Errorf("an escaped id: %d %s", w.Code, w.Body)
		}
	}
}

// Two values of what may be given once are refused: what stands in front could go by the one, the
// relay by the other.
func TestHeadersThatMayBeGivenOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	good := "Bearer " + a.token
	for name, headers := range map[string]http.Header{
		"Authorization":                   {"Authorization": {good, good}},
		"Authorization, the second wrong": {"Authorization": {good, "Bearer x"}},
		"Authorization, the first wrong":  {"Authorization": {"Basic eDp5", good}},
		"Authorization, joined":           {"Authorization": {good + ", " + good}},
		"Authorization, joined closely":   {"Authorization": {"Basic eDp5," + good}},
		"Authorization, one empty":        {"Authorization": {good, ""}},
		"Content-Type":                    {"Content-Type": {"application/json", "application/json"}},
		"Content-Type, joined":            {"Content-Type": {"application/json, text/plain"}},
		"If-Match":                        {"If-Match": {`"1"`, `"2"`}},
		"If-None-Match":                   {"If-None-Match": {"*", "*"}},
		"Idempotency-Key":                 {"Idempotency-Key": {"a", "b"}},
	} {
		if headers.Get("Authorization") == "" {
			headers.Set("Authorization", good)
		}
		if headers.Get("Content-Type") == "" {
			headers.Set("Content-Type", "application/json")
		}
		got := f.raw("PUT", "/v1/callbacks/cb", headers, `{"url":"https://bms.example/"}`)
		named, _, _ := strings.Cut(name, ",")
		if p := got.want(400).problem("invalid-parameter", named); p.Errors[0].Detail != "may be given once" {
			t.Errorf("%s: %s", name, got.body)
		}
	}
	a.get("/v1/callbacks/cb").want(404)
	// A list of versions in one header is none of these.
	made := a.put("/v1/callbacks/cb", `{"url":"https://bms.example/"}`).want(201)
	a.put("/v1/callbacks/cb", `{"url":"https://bms.example/"}`, "If-Match", `"zzz", `+made.header.Get("ETag")).want(200)
}

// direct is f whose requests go to the handler itself.
func (f *fixture) direct() *fixture {
	return &fixture{t: f.t, base: f.base, http: &http.Client{Transport: handled{f.api.Handler()}}}
}

// handled is a transport that has a handler respond.
type handled struct{ handler http.Handler }

func (h handled) RoundTrip(r *http.Request) (*http.Response, error) {
	served := r.Clone(r.Context())
	served.RequestURI, served.RemoteAddr = r.URL.RequestURI(), "127.0.0.1:1"
	if served.Body == nil {
		served.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, served)
	return w.Result(), nil
}

// raw sends a request with exactly these headers.
func (f *fixture) raw(method, path string, headers http.Header, body string) answer {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), method, f.base+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header = headers
	resp, err := f.http.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return answer{f.t, method + " " + path, resp.StatusCode, resp.Header, raw}
}
