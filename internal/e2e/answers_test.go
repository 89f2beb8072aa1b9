package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex/recorded"
	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/ledger"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// recordedVendor stands before the sandbox: the first poll of each site gets a recorded response,
// and so does every look-up of an order that such a response names.
type recordedVendor struct {
	answers map[string]recorded.Answer
	box     func() *sandbox.Sandbox
	first   map[string]string // the response for a vendor site

	mu     sync.Mutex
	served map[string]bool // by subscription
}

func (v *recordedVendor) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, order, isOrder := strings.Cut(r.URL.Path, "/partsorders/")
		path, isPoll := strings.CutSuffix(r.URL.Path, "/notifications")
		switch {
		case isOrder:
			a := v.answers["order"]
			a.Body = bytes.ReplaceAll(a.Body, []byte(recorded.Order), []byte(strings.ToLower(order)))
			a.ServeHTTP(w, r)
		case isPoll:
			if a, ok := v.poll(path[strings.LastIndex(path, "/")+1:]); ok {
				a.ServeHTTP(w, r)
				return
			}
			h.ServeHTTP(w, r)
		default:
			h.ServeHTTP(w, r)
		}
	})
}

func (v *recordedVendor) poll(subscription string) (recorded.Answer, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.served[subscription] {
		return recorded.Answer{}, false
	}
	for _, s := range v.box().Subscriptions() {
		if strings.EqualFold(s.ID, subscription) {
			v.served[subscription] = true
			return v.answers[v.first[s.Owner]], true
		}
	}
	return recorded.Answer{}, false
}

// TestRecordedAnswersGoThroughTheRelay has the running relay poll recorded responses, each at a
// site of its own. Every notification becomes one event, in its order. Anything else is kept with
// its bytes and reported.
func TestRecordedAnswersGoThroughTheRelay(t *testing.T) {
	t.Parallel()
	const at, older, at2026 = "2016-01-15T09:38:44.6871504Z", "2016-01-15T09:38:44.6871504",
		"2026-01-15T09:38:44.6871504Z"
	type kept struct{ reason, detail, raw string } // raw: how its bytes begin; "page" is the whole response
	rows := []struct {
		answer     string
		events     []string // CREATED or UPDATED and CreatedAt
		unresolved []kept
		gap        bool
	}{
		{answer: "poll-both-forms", events: []string{"created " + at, "updated " + at}},
		{answer: "poll-odd-casing", events: []string{"created 2016-01-15T09:38:44Z", "updated 2016-01-15T09:38:44Z"}},
		{answer: "poll-utf-16", events: []string{"created " + at}},
		{answer: "poll-byte-order-mark", events: []string{"created " + at}},
		{answer: "poll-equal", events: []string{"updated " + at, "updated " + at, "updated " + at}},
		{answer: "poll-xml", events: []string{"created " + at, "updated " + older}},
		{answer: "poll-odd-dates", events: []string{
			"updated " + older, "updated 2016-01-15T09:38:44", "updated 2016-01-15 09:38:44Z",
			"updated " + older + "+01:00", "updated 0001-01-01T00:00:00", "updated ", "updated 15/01/2016 09:38:44",
			"updated /Date(1452850724687)/", "updated 1452850724687", "updated 2016-01-15t09:38:44.687z",
		}},
		{answer: "poll-hundred-of-9-kilobyte", events: slices.Repeat([]string{"updated " + at2026}, 100)},
		{answer: "poll-truncated", events: []string{"created " + at},
			unresolved: []kept{{"malformed", "remainder of a cut page", `{"NotificationId"`}}, gap: true},
		{answer: "poll-cut", events: []string{"created " + at},
			unresolved: []kept{{"malformed", "remainder of a cut page", `{"NotificationId"`}}, gap: true},
		{answer: "poll-xml-cut", events: []string{"created " + at},
			unresolved: []kept{{"malformed", "remainder of a cut page", `<NotificationMessage>`}}, gap: true},
		{answer: "poll-no-order", events: []string{"created " + at}, unresolved: []kept{
			{"malformed", "names no resource", `{"NotificationId"`},
			{"malformed", "no notification", `"x"`}, {"malformed", "no notification", "7"},
			{"malformed", "no notification", "null"}, {"malformed", "no notification", "{}"},
		}},
		{answer: "poll-other-topic", events: []string{"created " + at},
			unresolved: []kept{{"topic", "ASSESSMENT.STATUS.SENT", `{"NotificationId"`}}},
		{answer: "poll-xml-error",
			unresolved: []kept{{"malformed", "it is XML (Error), although JSON was asked for", "page"}}, gap: true},
		{answer: "poll-html-200",
			unresolved: []kept{{"malformed", `it is HTML: "Planned maintenance & upgrade"`, "page"}}, gap: true},
		{answer: "poll-json-error-200", unresolved: []kept{
			{"malformed", `it is an error: "An error has occurred. Timeout expired."`, "page"}}, gap: true},
		{answer: "poll-text-200",
			unresolved: []kept{{"malformed", `it is text: "Service temporarily unavailable."`, "page"}}, gap: true},
		{answer: "poll-empty-body"},
		{answer: "poll-204"},
		{answer: "refused-500-json"},
	}
	if natstest.Long(0, 1) == 1 { // of 20 MB the first 8 are read, and the notification that is cut is kept
		large := rows[0]
		large.answer, large.events, large.gap = "poll-20-megabytes",
			slices.Repeat([]string{"updated " + at2026}, 924), true
		large.unresolved = []kept{{"malformed", "remainder of a cut page", `{"NotificationId"`}}
		rows = append(rows, large)
	}
	answers, err := recorded.Answers()
	if err != nil {
		t.Fatal(err)
	}
	v := &recordedVendor{answers: answers, first: map[string]string{}, served: map[string]bool{}}
	w := newWorld(t, len(rows), sandbox.Config{Seed: 5}, v.wrap)
	v.box = func() *sandbox.Sandbox { return w.sandbox }
	for i, row := range rows {
		v.first[vendorSite(w.sites[i])] = row.answer
	}
	w.start()
	w.connect()

	type unresolved struct {
		Reason, Detail string
		Raw            []byte
	}
	for i, row := range rows {
		site := w.sites[i]
		var events []ledger.Event
		var left []unresolved
		harness.Eventually(t, row.answer+" is through", func() string {
			events = orderEvents(t, w.api(), site)
			if left, err = harness.Items[unresolved](w.api(), "/v1/unresolved?limit=100&connection="+site); err != nil {
				t.Fatal(err)
			}
			if len(events) < len(row.events) || len(left) < len(row.unresolved) {
				return fmt.Sprintf("%d of %d events, %d of %d unresolved",
					len(events), len(row.events), len(left), len(row.unresolved))
			}
			return ""
		})
		checkRecordedEvents(t, row.answer, events, row.events)
		if len(left) != len(row.unresolved) {
			t.Errorf("%s: %d unresolved, want %d: %+v", row.answer, len(left), len(row.unresolved), left)
		}
		for _, want := range row.unresolved {
			if want.raw == "page" {
				want.raw = string(answers[row.answer].Body)
			}
			if !slices.ContainsFunc(left, func(u unresolved) bool {
				return u.Reason == want.reason && strings.Contains(u.Detail, want.detail) &&
					strings.HasPrefix(string(u.Raw), want.raw)
			}) {
				t.Errorf("%s: %+v is not unresolved, but %+v", row.answer, want, left)
			}
		}
		var c struct {
			State          string
			GapSuspectedAt *time.Time
			LastError      string
		}
		harness.Eventually(t, row.answer+" is over", func() string { // the polls after it are well
			w.api().Must(t, http.MethodGet, "/v1/connections/"+site, nil, &c)
			if c.State != "active" {
				return c.State + ": " + c.LastError
			}
			return ""
		})
		if (c.GapSuspectedAt != nil) != row.gap {
			t.Errorf("%s: gap suspected at %v, want one: %t", row.answer, c.GapSuspectedAt, row.gap)
		}
	}
}

// orderEvents returns the order events of a site, oldest first.
func orderEvents(t *testing.T, api harness.Caller, site string) []ledger.Event {
	t.Helper()
	raw, err := harness.Items[rawEvent](api,
		"/v1/events?limit=100&types=audatex.parts.order.*&sites="+url.QueryEscape(site))
	if err != nil {
		t.Fatal(err)
	}
	events := make([]ledger.Event, 0, len(raw))
	for _, r := range raw {
		e, err := ledger.ParseEvent(r)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

// rawEvent is an event as the API returns it.
type rawEvent []byte

func (r *rawEvent) UnmarshalJSON(b []byte) error {
	*r = bytes.Clone(b)
	return nil
}

// checkRecordedEvents compares the events of a site with what the page held.
func checkRecordedEvents(t *testing.T, answer string, events []ledger.Event, want []string) {
	t.Helper()
	got := make([]string, 0, len(events))
	ids := map[string]bool{}
	for _, e := range events {
		got = append(got, strings.TrimPrefix(e.Type, "audatex.parts.order.")+" "+e.CreatedAt())
		if ids[e.ID] {
			t.Errorf("%s: event %s twice", answer, e.ID)
		}
		ids[e.ID] = true
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: events\n%s\nwant\n%s", answer, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
