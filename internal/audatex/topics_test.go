package audatex

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/audatex-relay/relay/internal/relay"
)

// For any list of the vendor's topics, the error of a topic that does not exist names some of them,
// those of the same family first, and stays short.
func TestMissingTopicNamesThoseThereAre(t *testing.T) {
	t.Parallel()
	many := make([]string, 500)
	for i := range many {
		many[i] = fmt.Sprintf("ASSESSMENT.%03d", i)
	}
	list, err := json.Marshal(append(many, "PARTS.QUOTE", strings.Repeat("ä", 100)))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		status       int
		topics, says string
	}{
		"many":     {200, string(list), "Topics there are: PARTS.QUOTE, ASSESSMENT.000, "},
		"long":     {200, `["` + strings.Repeat("ä", 100) + `"]`, "Topics there are: " + strings.Repeat("ä", 32) + "."},
		"markup":   {200, `[{"TopicCode":"<b>\u0000\n\u202e"}]`, "Topics there are: <b>."},
		"none":     {200, `[]`, "The vendor lists no topics at all."},
		"nothing":  {200, ``, "The vendor lists no topics at all."},
		"no codes": {200, `[{"Description":"x"}]`, "Which topics there are could not be read."},
		"HTML":     {200, `<html><title>Down</title>`, "Which topics there are could not be read."},
		"XML": {200, `<ArrayOfTopic><Topic><TopicCode>PARTS.QUOTE</TopicCode></Topic></ArrayOfTopic>`,
			"Topics there are: PARTS.QUOTE."},
		"refused": {500, `{"Message":"An error has occurred."}`, "Which topics there are could not be read."},
		"too many": {200, `["` + strings.Repeat(`A","`, maxOtherBody) + `"]`,
			"Which topics there are could not be read."},
	} {
		c := vendor(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Correlation-Id", testCorrelation)
			if r.Method == http.MethodPost {
				http.Error(w, "The topic does not exist.", http.StatusNotFound)
				return
			}
			w.WriteHeader(tt.status)
			_, _ = w.Write([]byte(tt.topics))
		})
		m := tokens(t, answering(200, `{"access_token":"a","refresh_token":"b"}`),
			newTokenMap(leeds, freshRecord()), nil)
		_, _, err := NewSession(c, m, leeds, relay.LevelSite).EnsureSubscription(t.Context(), DefaultTopic)
		missing, ok := errors.AsType[*TopicMissingError](err)
		if !ok || OutcomeOf(err) != NotFound {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if says := missing.Error(); !strings.Contains(says, tt.says) || len(says) > 1200 || !utf8.ValidString(says) {
			t.Errorf("%s: %s", name, says)
		}
	}
}

// Of a topic that is subscribed already the list may not name the subscription; if there
// is but one it is that.
func TestSubscriptionWhoseTopicIsNotTold(t *testing.T) {
	t.Parallel()
	const other = "11111111-2222-4333-8444-555555555555"
	for list, want := range map[string]string{
		`[{"SubscriptionId":"` + testSubscription + `","Topic":null}]`: testSubscription,
		`[{"SubscriptionId":"` + testSubscription + `"}]`:              testSubscription,
		`["` + testSubscription + `"]`:                                 testSubscription,
		`[{"SubscriptionId":"` + other + `","Topic":{"TopicCode":"ASSESSMENT"}},{"SubscriptionId":"` +
			testSubscription +
			`"}]`: testSubscription,
		`[{"SubscriptionId":"` + other + `"},{"SubscriptionId":"` + testSubscription +
			`","Topic":{"TopicCode":"parts.order"}}]`: testSubscription,
		`[{"SubscriptionId":"` + other + `"},{"SubscriptionId":"` + testSubscription +
			`"}]`: "",
		`[{"SubscriptionId":"7","Topic":null}]`:                                    "",
		`[{"SubscriptionId":"` + other + `","Topic":{"TopicCode":"PARTS.QUOTE"}}]`: "",
		``: "",
	} {
		c := vendor(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				http.Error(w, "Already subscribed.", http.StatusConflict)
				return
			}
			_, _ = w.Write([]byte(list))
		})
		m := tokens(t, answering(200, `{"access_token":"a","refresh_token":"b"}`),
			newTokenMap(leeds, freshRecord()), nil)
		sub, existed, err := NewSession(c, m, leeds, relay.LevelSite).EnsureSubscription(t.Context(), DefaultTopic)
		if sub.SubscriptionID != want || existed != (want != "") || (OutcomeOf(err) == Conflict) != (want == "") {
			t.Errorf("%s: %q, %t, %v; want %q", list, sub.SubscriptionID, existed, err, want)
		}
	}
}
