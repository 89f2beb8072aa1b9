package httpapi

import (
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

// regular matches what only a regular expression contains.
var regular = regexp.MustCompile(`\[\^?[a-zA-Z0-9]|\{\d+,?\d*\}|\^|\$$|\\`)

func TestPatternsAreToldInWords(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	const name = "must be lower-case letters, digits and hyphens, starting with a letter or digit, at most 63 " +
		"characters"
	const uuid = "must be a UUID, 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12 with hyphens between"
	for _, c := range []struct {
		got  answer
		want string
	}{
		{a.put("/v1/callbacks/UPPER", `{"url":"https://bms.example/"}`), name},
		{a.put("/v1/callbacks/cb", `{"url":"https://bms.example/","sites":["Site A"]}`), name},
		{a.put("/v1/callbacks/cb", `{"url":"https://bms.example/","orders":["17"]}`), uuid},
		{a.put("/v1/callbacks/cb", `{"url":"https://bms.example/","secret":"`+strings.Repeat("x", 40)+`"}`),
			"a secret begins with whsec_"},
		{a.get("/v1/orders/17"), uuid},
		{a.get("/v1/orders?sites=A"), name},
		{a.get("/v1/events?orders=x"), uuid},
		{a.get("/v1/events/X"), "must be lower-case letters, digits, hyphens and underscores, not starting with a " +
			"hyphen, at most 300 characters"},
		{a.get("/v1/callbacks?client=%20"), name},
		{f.admin().put("/v1/connections/con", `{"level":"site","site":"A"}`), name},
		{f.admin().put("/v1/connections/con", `{"level":"site","sites":{"1":"A"}}`), name},
		{f.admin().put("/v1/clients/c", `{"sites":["-"]}`), name},
		{f.admin().delete("/v1/clients/c/keys/-"), "must be letters and digits, at most 32 characters"},
		{f.admin().get("/v1/unresolved/X"),
			"must be lower-case letters, digits, hyphens and dots, starting with a letter or digit, at most 128 " +
				"characters"},
	} {
		var p Problem
		if c.got.into(&p); c.got.status < 400 || c.got.status >= 500 || len(p.Errors) != 1 ||
			p.Errors[0].Detail != c.want {
			t.Errorf("%s: %d %s", c.got.what, c.got.status, c.got.body)
		}
	}
	for pattern, words := range f.api.contract.patterns {
		if regular.MatchString(words) {
			t.Errorf("%s is told as %s", pattern, words)
		}
	}
	if err := relay.CheckName("Site A"); regular.MatchString(err.Error()) {
		t.Error(err)
	}
}

func TestTimesAreToldWithAnExample(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for query, want := range map[string]string{
		"2026-01-15T10:38:44+01:00":     "%2B",
		"2026-01-15T10:38:44.5+01:00":   "%2B",
		"2026-01-15T10:38:44%2001:00":   "%2B",
		"2026-01-15T10:38:44+0100":      "%2B01:00",
		"2026-01-15T10:38+01:00":        "%2B01:00",
		"2026-01-15t10:38:44+01":        "%2B01:00",
		"2026-01-15":                    "2026-01-15T09:38:44Z",
		"2026-01-15T10:38:44":           "2026-01-15T09:38:44Z",
		"2026-01-15+10:38:44":           "2026-01-15T09:38:44Z",
		"2026-01-15T10%3A38%3A44 01:00": "%2B",
	} {
		query = strings.ReplaceAll(query, " ", "+")
		p := f.admin().get("/v1/events?since="+query).want(400).problem("invalid-parameter", "since")
		if !strings.Contains(p.Errors[0].Detail, want) {
			t.Errorf("%s: %s", query, p.Errors[0].Detail)
		}
	}
	f.admin().get("/v1/events?since=" + url.QueryEscape("2026-01-15T10:38:44+01:00")).want(200)
}

// Types that match nothing, ever, are refused wherever types are given, with the name that was
// probably meant.
func TestTypesThatMatchNothingAreRefusedWithTheNearestName(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	a.put("/v1/callbacks/cb", `{"url":"https://bms.example/"}`).want(201)
	for typ, nearest := range map[string]string{
		"parts.order.updated": "audatex.parts.order.updated", "audatex.part.order.*": "audatex.parts.order.*",
		"Audatex.Parts.Order.Created":    "audatex.parts.order.created",
		"audatex.relay.callback-disable": "audatex.relay.callback-disabled",
	} {
		settings := map[string]any{"url": "https://bms.example/", "types": []string{"audatex.*", typ}}
		for _, p := range []Problem{
			a.put("/v1/callbacks/cb", settings).want(422).problem("invalid-body", "/types/1"),
			a.put("/v1/callbacks/new", settings).want(422).problem("invalid-body", "/types/1"),
			a.post("/v1/callbacks", settings).want(422).problem("invalid-body", "/types/1"),
			a.patch("/v1/callbacks/cb",
				map[string]any{"types": []string{"audatex.*", typ}}).want(422).problem("invalid-body",
				"/types/1"),
			a.get("/v1/events?types=audatex.*,"+url.QueryEscape(typ)).want(400).problem("invalid-parameter", "types"),
		} {
			if !strings.Contains(p.Errors[0].Detail, `did you mean "`+nearest+`"?`) {
				t.Errorf("%s: %+v", typ, p.Errors)
			}
		}
	}
	for _, typ := range []string{"*", "audatex.*", "audatex.parts.*", "audatex.parts.order.*",
		"audatex.parts.order.updated", "audatex.relay.*", "audatex.relay.log-clamped"} {
		a.patch("/v1/callbacks/cb", map[string]any{"types": []string{typ}}).want(200)
		a.get("/v1/events?types=" + typ).want(200)
	}
}

// A charset that means UTF-8 is taken; what is refused is named, and so is what is wanted.
func TestMediaTypes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	const body = `{"url":"https://bms.example/"}`
	for _, taken := range []string{
		"application/json", "application/json; charset=utf8", "application/json;charset=UTF-8",
		`application/json; charset="utf8"`, "Application/JSON; Charset=Utf-8",
		"application/json;", "application/json; charset=", "application/json; charset",
		"application/json; odata.metadata=minimal; charset=utf-8", "application/json; charset=us-ascii",
		"application/json; charset=UTF_8", "application/json; charset='utf-8'",
		" application/json ",
	} {
		if got := a.put("/v1/callbacks/cb", body, "Content-Type", taken); got.status > 201 {
			t.Errorf("%q: %d %s", taken, got.status, got.body)
		}
	}
	for came, told := range map[string][]string{
		"text/plain":                         {`"text/plain"`, "application/json is wanted"},
		"application/x-www-form-urlencoded":  {`"application/x-www-form-urlencoded"`, "application/json is wanted"},
		"application/merge-patch+json":       {`"application/merge-patch+json"`, "application/json is wanted"},
		"json":                               {`"json"`, "application/json is wanted"},
		"":                                   {"without Content-Type", "application/json is wanted"},
		"application/json; charset=latin1":   {`"latin1"`, "UTF-8"},
		"application/json; charset=utf-16le": {`"utf-16le"`, "UTF-8"},
		strings.Repeat("x", 1000):            {"…", "application/json is wanted"},
	} {
		p := a.put("/v1/callbacks/cb", body, "Content-Type", came).want(415).problem("unsupported-media-type")
		for _, want := range told {
			if !strings.Contains(p.Detail, want) || len(p.Detail) > 200 {
				t.Errorf("%q: %s", came, p.Detail)
			}
		}
	}
	p := a.patch("/v1/callbacks/cb", "{}", "Content-Type", "text/json").want(415).problem("unsupported-media-type")
	if want := `Content-Type is "text/json"; application/json or application/merge-patch+json is wanted.`; p.Detail !=
		want {
		t.Errorf("%s", p.Detail)
	}
	p = a.put("/v1/callbacks/cb", body, "Content-Encoding", "gzip").want(415).problem("unsupported-media-type")
	if !strings.Contains(p.Detail, `"gzip"`) {
		t.Errorf("%s", p.Detail)
	}
	a.put("/v1/callbacks/cb", body, "Content-Encoding", "Identity").want(200)
}

// The tag of a response counts also as what proxies make of it; another one does not.
func TestTagsAsProxiesChangeThem(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	tag := a.put("/v1/callbacks/cb", `{"url":"https://bms.example/"}`).want(201).header.Get("ETag")
	for _, change := range []func(string) string{
		func(tag string) string { return "W/" + tag },
		func(tag string) string { return "w/" + tag },
		func(tag string) string { return `"other", W/` + tag },
		func(tag string) string { return strings.TrimSuffix(tag, `"`) + `-gzip"` },
		func(tag string) string { return "W/" + strings.TrimSuffix(tag, `"`) + `-br"` },
		func(tag string) string { return strings.Trim(tag, `"`) },
	} {
		tag = a.patch("/v1/callbacks/cb", `{"paused":true}`, "If-Match", change(tag)).want(200).header.Get("ETag")
	}
	for _, other := range []string{`W/"zzzz"`, `W/""`, `"` + strings.Trim(tag, `"`) + `0"`, "W/", `"-gzip"`, `W/*`} {
		a.patch("/v1/callbacks/cb", `{"paused":true}`, "If-Match", other).want(412).problem("precondition-failed")
	}
}

func TestTitlesArePlainEnglish(t *testing.T) {
	t.Parallel()
	if kindInvalid.title != "The request body is not valid" {
		t.Error(kindInvalid.title)
	}
	seen := map[string]bool{}
	for _, k := range kinds {
		if seen[k.title] || strings.HasSuffix(k.title, ".") || k.help == "" || regular.MatchString(k.title+k.help) {
			t.Errorf("%s: %s", k.slug, k.title)
		}
		seen[k.title] = true
	}
}

// Resuming a paused callback reports that it is still paused.
func TestResumeOfAPausedCallbackSaysThatItIsStillPaused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	a.put("/v1/callbacks/cb", `{"url":"https://bms.example/","paused":true}`).want(201)
	var raw map[string]any
	if err := json.Unmarshal(a.post("/v1/callbacks/cb/resume", nil).want(200).body, &raw); err != nil {
		t.Fatal(err)
	}
	if note, _ := raw["note"].(string); !strings.Contains(note, "still paused") || raw["state"] != "paused" {
		t.Errorf("%v", raw)
	}
	a.patch("/v1/callbacks/cb", `{"paused":false}`).want(200)
	if got := a.post("/v1/callbacks/cb/resume", nil).want(200); strings.Contains(string(got.body), `"note"`) {
		t.Errorf("%s", got.body)
	}
}
