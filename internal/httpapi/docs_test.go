package httpapi

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/apidocs"
	"github.com/audatex-relay/relay/internal/relay"
)

// The served document has an example of every type of problem that there is, as the relay sends it, and every type of
// event.
func TestTheServedDocumentKnowsProblemsAndEvents(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var doc struct {
		Servers    []struct{ URL string }
		Components struct {
			Responses struct {
				AnyProblem struct {
					Content map[string]struct {
						Examples map[string]struct{ Value Problem }
					}
				}
			}
			Schemas struct {
				Event struct {
					Discriminator struct{ Mapping map[string]string }
				}
			}
		}
	}
	f.as("").get("/openapi.json").want(200).into(&doc)
	if len(doc.Servers) != 1 || doc.Servers[0].URL != publicURL {
		t.Errorf("the servers are %v, want %s", doc.Servers, publicURL)
	}
	examples := doc.Components.Responses.AnyProblem.Content["application/problem+json"].Examples
	for _, k := range kinds {
		got, ok := examples[k.slug]
		if want := (Problem{Type: publicURL + "/problems/" + k.slug, Title: k.title, Status: k.status}); !ok ||
			got.Value.Type != want.Type || got.Value.Title != want.Title || got.Value.Status != want.Status {
			t.Errorf("api/examples/problems.yaml has %+v for %s, want %+v", got.Value, k.slug, want)
		}
		delete(examples, k.slug)
	}
	for slug := range examples {
		t.Errorf("api/examples/problems.yaml has %s, which is no type of problem", slug)
	}
	types := doc.Components.Schemas.Event.Discriminator.Mapping
	for _, typ := range append([]string{relay.TypeOrderCreated, relay.TypeOrderUpdated}, operationalTypes()...) {
		if types[typ] == "" {
			t.Errorf("the served schema Event does not know %s: add it to TestCallback in api/openapi.yaml", typ)
		}
		delete(types, typ)
		f.as("").get(apidocs.EventsPath + typ).want(200)
	}
	if len(types) > 0 {
		t.Errorf("the served schema Event has types that there are not: %v", types)
	}
	f.as("").get(apidocs.EventsPath + "audatex.none").problem("not-found")
}

func operationalTypes() []string {
	var types []string
	for _, kind := range relay.Kinds() {
		types = append(types, relay.OperationalPrefix+string(kind))
	}
	return types
}

// Browsers get pages under a strict policy, others JSON; what was read before is not sent again, and what is large is
// compressed.
func TestPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	fetch := func(path string, headers ...string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	resp, body := fetch("/", "Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	if resp.Header.Get("Content-Type") != "text/html; charset=utf-8" || !strings.Contains(body, `href="/docs"`) {
		t.Errorf("a browser gets %v %s", resp.Header, body)
	}
	if got := resp.Header.Get("Content-Security-Policy"); got != apidocs.Policy {
		t.Errorf("the policy of pages is %q", got)
	}
	var start Start
	if _, body = fetch("/", "Accept", "*/*"); json.Unmarshal([]byte(body), &start) != nil ||
		start.Links.Documentation != publicURL+"/docs" {
		t.Errorf("a program gets %s", body)
	}
	if resp, _ := fetch("/docs", "If-None-Match", `"other"`); resp.StatusCode != http.StatusOK {
		t.Errorf("another version is not modified: %d", resp.StatusCode)
	} else if resp, body := fetch("/docs", "If-None-Match",
		resp.Header.Get("ETag")); resp.StatusCode != http.StatusNotModified || body != "" {
		t.Errorf("what was read before is answered %d with %d bytes", resp.StatusCode, len(body))
	}
	_, plain := fetch("/docs", "Accept-Encoding", "gzip;q=0, br")
	resp, small := fetch("/docs", "Accept-Encoding", "br, gzip;q=0.5")
	unpacked, err := gzip.NewReader(strings.NewReader(small))
	if err != nil {
		t.Fatalf("%v: %v", resp.Header, err)
	}
	if again, err := io.ReadAll(unpacked); err != nil || string(again) != plain || len(small)*4 > len(plain) {
		t.Errorf("compressed %d of %d bytes, and the same is %t: %v",
			len(small), len(plain), string(again) == plain, err)
	}
}
