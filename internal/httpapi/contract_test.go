package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/go-chi/chi/v5"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/audatex-relay/relay/internal/relay"
)

// The contract as an independent library reads it.
var spec = sync.OnceValue(func() *openapi3.T {
	loader := openapi3.NewLoader()
	loader.IsExternalRefsAllowed = true
	doc, err := loader.LoadFromFile("../../api/openapi.yaml")
	if err == nil {
		err = doc.Validate(context.Background())
	}
	if err != nil {
		panic(err)
	}
	openapi3filter.RegisterBodyDecoder("application/cloudevents+json", openapi3filter.JSONBodyDecoder)
	openapi3filter.RegisterBodyDecoder("application/schema+json", openapi3filter.JSONBodyDecoder)
	openapi3filter.RegisterBodyDecoder("text/html", openapi3filter.PlainBodyDecoder)
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			succeeded.all = append(succeeded.all, op.OperationID)
		}
	}
	return doc
})

var specRouter = sync.OnceValue(func() routers.Router {
	r, err := gorillamux.NewRouter(spec())
	if err != nil {
		panic(err)
	}
	return r
})

// seen notes which operations responded with 2xx in any test.
type seen struct {
	mu  sync.Mutex
	all []string
	ok  map[string]bool
}

var succeeded = &seen{ok: map[string]bool{}}

// validating is a transport that holds every exchange against the contract: a request that does not
// fit it must be refused, and every response must fit it.
type validating struct{ base http.RoundTripper }

func (v validating) RoundTrip(r *http.Request) (*http.Response, error) {
	var sent []byte
	if r.Body != nil {
		var err error
		if sent, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		_ = r.Body.Close()
		r.Body = io.NopCloser(bytes.NewReader(sent))
	}
	resp, err := v.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))

	if r.Method == http.MethodHead { // it is GET's, and has no body to hold against anything
		return resp, nil
	}
	// The library does not match escaped slashes within a segment. Such paths are covered by the
	// tests of their routes.
	probe := r.Clone(r.Context())
	probe.Body = io.NopCloser(bytes.NewReader(sent))
	route, params, err := specRouter().FindRoute(probe)
	if err != nil {
		if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed {
			return nil, fmt.Errorf("%s %s is not in the contract and was answered %d",
				r.Method, r.URL.Path, resp.StatusCode)
		}
		return resp, nil
	}
	in := &openapi3filter.RequestValidationInput{
		Request: probe, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc,
			SkipSettingDefaults:   true,
			IncludeResponseStatus: true, ExcludeRequestBody: true},
	}
	err = openapi3filter.ValidateRequest(r.Context(), in)
	if err == nil && route.Operation.RequestBody != nil {
		err = askedAsContract(route.Operation.RequestBody.Value, r.Header.Get("Content-Type"), sent)
	}
	if err != nil && resp.StatusCode < 400 {
		return nil, fmt.Errorf("%s %s does not fit the contract and was answered %d: %w", r.Method, r.URL,
			resp.StatusCode, err)
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: resp.StatusCode, Header: resp.Header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true, ExcludeResponseBody: true},
	}
	err = openapi3filter.ValidateResponse(r.Context(), out)
	if err == nil {
		declared := route.Operation.Responses.Status(resp.StatusCode)
		if declared == nil {
			declared = route.Operation.Responses.Default()
		}
		err = answersAsContract(declared.Value, resp.Header.Get("Content-Type"), answer)
	}
	if err != nil {
		return nil, fmt.Errorf("the answer %d to %s %s does not fit the contract: %w\n%s", resp.StatusCode, r.Method,
			r.URL, err, answer)
	}
	if resp.Header.Get("X-Request-Id") == "" {
		return nil, fmt.Errorf("the answer to %s %s has no X-Request-Id", r.Method, r.URL)
	}
	if resp.StatusCode < 300 {
		succeeded.mu.Lock()
		succeeded.ok[route.Operation.OperationID] = true
		succeeded.mu.Unlock()
	}
	return resp, nil
}

// Router and contract name the same operations, and our own reading of the contract agrees with the
// library's.
func TestRouterAndContractAgree(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	inContract := map[string]*openapi3.Operation{}
	for path, item := range spec().Paths.Map() {
		for method, op := range item.Operations() {
			inContract[method+" "+path] = op
		}
	}
	routed := map[string]bool{}
	err := chi.Walk(f.api.Handler(),
		func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
			routed[method+" "+route] = true
			if inContract[method+" "+route] == nil {
				t.Errorf("%s %s is routed and not in the contract", method, route)
			}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	for key, op := range inContract {
		if !routed[key] {
			t.Errorf("%s is in the contract and not routed", key)
		}
		ours, ok := f.api.contract.operations[key]
		if !ok || ours.id != op.OperationID {
			t.Errorf("%s: our reading has %q, the contract %q", key, ours.id, op.OperationID)
		}
		method, path, _ := strings.Cut(key, " ")
		if n := len(op.Parameters) + len(spec().Paths.Find(path).Parameters); n != len(ours.parameters) {
			t.Errorf("%s %s: our reading has %d parameters, the contract %d", method, path, len(ours.parameters), n)
		}
		if (op.RequestBody != nil) != (ours.bodies != nil) {
			t.Errorf("%s: our reading and the contract differ about a body", key)
		}
	}
}

// What a patch may name is what settings have, but for what cannot be patched.
func TestPatchesNameWhatSettingsHave(t *testing.T) {
	t.Parallel()
	for patch, c := range map[string]struct {
		settings string
		without  []string
	}{
		"CallbackPatch":   {"CallbackSettings", []string{"secret", "startFrom"}},
		"ConnectionPatch": {"ConnectionSettings", nil},
	} {
		want := map[string]bool{}
		for name := range spec().Components.Schemas[c.settings].Value.Properties {
			want[name] = true
		}
		for _, name := range c.without {
			delete(want, name)
		}
		for name := range spec().Components.Schemas[patch].Value.Properties {
			if !want[name] {
				t.Errorf("%s has %s, which %s has not", patch, name, c.settings)
			}
			delete(want, name)
		}
		for name := range want {
			t.Errorf("%s lacks %s", patch, name)
		}
	}
}

// Every type of problem is served, and the pages of the contract are there without authentication.
func TestServicePages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, k := range kinds {
		if got := f.as("").get("/problems/" + k.slug); got.status != 200 ||
			!strings.Contains(string(got.body), "<code>"+k.slug+"</code>") {
			t.Errorf("%s: %d %s", k.slug, got.status, got.body)
		} else if policy := got.header.Get("Content-Security-Policy"); !strings.HasPrefix(policy,
			"default-src 'none';") {
			t.Errorf("%s may load what it likes: %q", k.slug, policy)
		}
	}
	f.as("").get("/problems/none").problem("not-found")
	for _, name := range []string{"event-v1.json", "parts-order-event-v1.json", "operational-event-v1.json"} {
		if got := f.as("").get("/schemas/" + name); got.status != 200 ||
			got.header.Get("Content-Type") != "application/schema+json" {
			t.Errorf("%s: %d %s", name, got.status, got.header)
		}
	}
	for _, name := range []string{"none.json", url.PathEscape("../openapi.yaml"), "..%2fopenapi.yaml", "%2e%2e"} {
		f.as("").get("/schemas/" + name).problem("not-found")
	}
	f.as("").get("/livez").want(200)
	f.as("").get("/readyz").want(200)
	f.as("").get("/openapi.yaml").want(200)
}

// What the relay publishes fits the shared schemas, and these do refuse something.
func TestSamplesFitTheSchemas(t *testing.T) {
	t.Parallel()
	schema, err := jsonschema.NewCompiler().Compile("../../api/schemas/event-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	a := &API{c: Config{PublicURL: publicURL}}
	for _, typ := range spec().Components.Schemas["TestCallback"].Value.Properties["type"].Value.Enum {
		ev, err := a.sample(typ.(string), nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		raw, err := relay.Encode(ev)
		if err != nil {
			t.Fatal(err)
		}
		check := func(change func(event, data map[string]any)) error {
			value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			event := value.(map[string]any)
			change(event, event["data"].(map[string]any))
			return schema.Validate(event)
		}
		if err := check(func(_, _ map[string]any) {}); err != nil {
			t.Errorf("%s: %v", typ, err)
		}
		for what, change := range map[string]func(event, data map[string]any){
			"no subject":            func(event, _ map[string]any) { delete(event, "subject") },
			"a number for sequence": func(event, _ map[string]any) { event["sequence"] = 1 },
			"data of the other sort": func(event, data map[string]any) {
				delete(data, "kind")
				delete(data, "order")
			},
		} {
			if check(change) == nil {
				t.Errorf("%s with %s passes", typ, what)
			}
		}
	}
}
