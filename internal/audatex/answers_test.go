package audatex

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/audatex-relay/relay/internal/audatex/recorded"
	"github.com/audatex-relay/relay/internal/relay"
)

// recordings serves every recorded response under its name, as the base of an API of its own and as a
// token endpoint.
func recordings(t *testing.T) (base string, names []string) {
	t.Helper()
	all, err := recorded.Answers()
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if strings.HasSuffix(r.URL.Path, "/users/me") { // at a base of its own
			name = r.Header.Get("User-Agent")
		}
		all[name].ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	return srv.URL + "/", names
}

// reading is how one recorded response must be read: what the call came to, and words that its error
// must have.
type reading struct {
	outcome Outcome
	value   string
	says    string
}

const (
	createdNewer = "PARTS.ORDER.CREATED " + recorded.Order +
		" id=d3b07384-d113-4ec6-a5f2-1f2b0c9b1a01 site=4711 at 09:38:44.6871504"
	updatedOlder = "PARTS.ORDER.UPDATED " + recorded.Order + " id= site= at 09:38:44.6871504"
	maintenance  = `HTML: "Planned maintenance & upgrade"`
	noHolder     = "something else was sent in the queue's place: it holds no notification; it is "
)

// theReadings has every recorded response. "foreign" is something else in the queue's place; "not
// read" an element that is kept as malformed.
var theReadings = map[string]reading{
	"poll-newer":           {Done, createdNewer, ""},
	"poll-older":           {Done, updatedOlder, ""},
	"poll-both-forms":      {Done, createdNewer + "\n" + updatedOlder, ""},
	"poll-byte-order-mark": {Done, createdNewer, ""},
	"poll-utf-16":          {Done, createdNewer, ""},
	"poll-object":          {Done, createdNewer, ""},
	"poll-equal":           {Done, updatedOlder + "\n" + updatedOlder + "\n" + updatedOlder, ""},
	"poll-nothing":         {Done, "", ""},
	"poll-null":            {Done, "", ""},
	"poll-empty-body":      {Done, "", ""},
	"poll-204":             {Done, "", ""},
	"poll-xml":             {Done, "XML\n" + createdNewer + "\n" + updatedOlder, ""},
	"poll-xml-nothing":     {Done, "", ""},
	"poll-xml-cut": {Malformed, "XML\n" + createdNewer + "\nnot read: remainder of a cut page",
		"XML (ArrayOfNotificationMessage), although JSON was asked for"},
	"poll-xml-error": {Malformed,
		"foreign: " + noHolder + `XML (Error), although JSON was asked for: "An error has occurred. Timeout expired."`,
		"An error has occurred."},
	"poll-html-200": {Malformed, "foreign: " + noHolder + maintenance, maintenance},
	"poll-json-error-200": {Done,
		"foreign: " + noHolder + `an error: "An error has occurred. Timeout expired."`, ""},
	"poll-text-200": {Malformed, "foreign: " + noHolder + `text: "Service temporarily unavailable."`,
		"Service temporarily unavailable."},
	"poll-truncated": {Malformed, createdNewer + "\nnot read: remainder of a cut page",
		"JSON that is cut or damaged"},
	"poll-cut": {Unavailable, createdNewer + "\nnot read: remainder of a cut page\ntruncated",
		"answer cut off after 573 bytes"},
	"poll-other-topic": {Done,
		"ASSESSMENT.STATUS.SENT  id=d3b07384-d113-4ec6-a5f2-1f2b0c9b1a03 site=4711 at 09:38:44: notification names " +
			"no resource\n" + createdNewer, ""},
	"poll-20-megabytes": {TooLarge, "924 notifications\nnot read: remainder of a cut page\ntruncated",
		"answer larger than 8323072 bytes"},
	"poll-hundred-of-9-kilobyte": {Done, "100 notifications", ""},
	"poll-no-order": {Done, "PARTS.ORDER.UPDATED  id=d3b07384-d113-4ec6-a5f2-1f2b0c9b1a04 site=4711 at 09:38:44: " +
		"notification names no resource\n" +
		strings.Repeat("not read: notification is not a JSON object\n", 3) + " " +
		" id= site= at none: notification names no resource\n" + createdNewer, ""},
	"poll-odd-casing": {Done,
		"parts.order.created " + recorded.Order + " id=D3B07384-D113-4EC6-A5F2-1F2B0C9B1A01 site=4711 at 09:38:44\n" +
			"Parts.Order.Updated " + recorded.Order + " id= site= at 09:38:44", ""},
	"poll-odd-dates": {Done, strings.Join([]string{
		odd(0, "09:38:44.6871504"), odd(1, "09:38:44"), odd(2, "09:38:44"), odd(3, "08:38:44.6871504"), odd(4, "none"),
		odd(5, "none"),
		odd(6, "none"), odd(7, "none"), odd(8, "none"), odd(9, "09:38:44.687"),
	}, "\n"), ""},

	"refused-401-text": {Unauthorised, "", "(status 401): Unauthorised. Please provide valid user credentials."},
	"refused-403-json": {Forbidden, "", "(status 403): Authorization has been denied for this request. ["},
	"refused-404-json": {NotFound, "",
		"(status 404): No HTTP resource was found that matches the request URI. No type was found that matches the " +
			"controller. ["},
	"refused-429-text": {Throttled, "", "(status 429): API calls quota exceeded."},
	"refused-500-json": {Unavailable, "",
		"(status 500): An error has occurred. Object reference not set to an instance of an object. ["},
	"refused-500-xml":   {Unavailable, "", "(status 500): An error has occurred. ["},
	"refused-502-oauth": {Unavailable, "", "(status 502): The server behind is gone. ["},
	"refused-503-html":  {Unavailable, "", "(status 503): Service Unavailable ["},

	"order":                 {Done, "InsurerPrice\":1234567.8900,", ""},
	"order-byte-order-mark": {Done, "InsurerPrice\":1234567.8900,", ""},
	"order-object":          {Done, "InsurerPrice\":1234567.8900,", ""},
	"order-among-others":    {Done, `"PartsOrderId":"` + strings.ToUpper(recorded.Order), ""},
	"order-odd-casing":      {Done, `"New":{"deep":[1.10,"\u0000"]}}`, ""},
	"order-latin-1":         {Done, `"SupplierName":"Café & <Sons>"`, ""},
	"order-another":         {Malformed, "", "none of which is the one asked for"},
	"order-none":            {NotFound, "", "carries no order"},
	"order-empty-body":      {NotFound, "", "carries no order"},
	"order-xml": {Malformed, "",
		"the answer is XML (ArrayOfPartsOrder), although JSON was asked for; does a proxy take away the Accept " +
			"header?"},
	"order-html-200":       {Malformed, "", maintenance},
	"order-json-error-200": {Malformed, "", `the answer is an error: "An error has occurred."`},
	"order-truncated":      {Malformed, "", "JSON that is cut or damaged"},

	"whoami":                {Done, "bms.4711", ""},
	"whoami-text":           {Done, "bms.4711", ""},
	"whoami-xml":            {Done, "bms.4711", ""},
	"whoami-html-200":       {Malformed, "", maintenance},
	"whoami-json-error-200": {Malformed, "", "An error has occurred."},
	"whoami-object":         {Malformed, "", "answer holds no text"},
	"whoami-null":           {Malformed, "", "answer holds no text"},

	"me":            {Done, "{4711 GB12 T1}", ""},
	"me-numbers":    {Done, "{4711 GB12 1}", ""},
	"me-json-error": {Unauthorised, "{  }", "Authorization has been denied for this request."},
	"me-xml":        {Malformed, "{  }", "answer names no site: the answer is XML (UserModel)"},

	"topics":          {Done, "[{PARTS.ORDER Parts orders} {ASSESSMENT.MAIL.SENT }]", ""},
	"topics-odd":      {Done, "[{PARTS.ORDER } {ASSESSMENT.MAIL.SENT }]", ""},
	"topics-xml":      {Done, "[{PARTS.ORDER Parts orders}]", ""},
	"topics-html-200": {Malformed, "[]", maintenance},

	"subscriptions": {Done,
		"[{9C858901-8A57-4791-81FE-4C455B099BC9 {PARTS.ORDER Parts orders} 2016-01-15T09:38:44.6871504Z}]", ""},
	"subscriptions-none": {Done, "[]", ""},
	"subscriptions-xml": {Done,
		"[{9C858901-8A57-4791-81FE-4C455B099BC9 {PARTS.ORDER } 2016-01-15T09:38:44.6871504Z}]", ""},
	"subscriptions-json-error-200": {Malformed, "[]", "An error has occurred."},

	"subscribed":            {Done, "9C858901-8A57-4791-81FE-4C455B099BC9", ""},
	"subscribed-text":       {Done, "9c858901-8a57-4791-81fe-4c455b099bc9", ""},
	"subscribed-xml":        {Done, "9C858901-8A57-4791-81FE-4C455B099BC9", ""},
	"subscribed-empty-body": {Malformed, "", "names no subscription id: the answer is nothing"},
	"subscribed-html-200":   {Malformed, "", maintenance},

	"assessment": {Done, "0f8fad5b-d9cb-469f-a165-70867728950e", ""},

	"token":                {Done, "access-recorded refresh-recorded", ""},
	"token-xml":            {Done, "access-recorded refresh-recorded", ""},
	"token-truncated":      {Done, "access-recorded refresh-recorded", ""},
	"token-invalid-grant":  {Unauthorised, " ", "invalid_grant"},
	"token-invalid-client": {Forbidden, " ", "invalid_client"},
	"token-html-200":       {Malformed, " ", "answer holds no token: it is HTML ["},
	"token-empty-body":     {Malformed, " ", "answer holds no token: it is nothing ["},
	"token-json-error":     {Unavailable, " ", "(status 500)"},
}

func odd(n int, at string) string {
	return fmt.Sprintf("PARTS.ORDER.UPDATED %s id=n%d site=4711 at %s", recorded.Order, n, at)
}

// pollReading is what a page came to, in words.
func pollReading(page Page) string {
	var lines []string
	contents := ReadContents(page)
	if contents.XML && page.Carried() {
		lines = append(lines, "XML")
	}
	if contents.Foreign {
		return "foreign: " + contents.Reason()
	}
	whole := 0
	for _, n := range contents.List {
		switch {
		case n.Malformed:
			lines = append(lines, "not read: "+n.Err.Error())
			continue
		case strings.HasPrefix(n.Order, "11111111-"):
			if whole++; n.Order != recorded.MadeOrder(whole-1) {
				lines = append(lines, "out of order: "+n.Order)
			}
			continue
		}
		at := "none"
		if read, ok := ParseTime(n.CreatedAt, nil); ok {
			at = read.Format("15:04:05.9999999")
		}
		line := fmt.Sprintf("%s %s id=%s site=%s at %s", n.Topic, n.Order, n.ID, n.SiteID, at)
		if n.Err != nil {
			line += ": " + n.Err.Error()
		}
		lines = append(lines, line)
	}
	if whole > 0 {
		lines = append([]string{fmt.Sprintf("%d notifications", whole)}, lines...)
	}
	if page.Truncated {
		lines = append(lines, "truncated")
	}
	return strings.Join(lines, "\n")
}

// Every recorded response, sent over real HTTP, gives the result in the table.
func TestRecordedAnswersReadAsTheyShould(t *testing.T) {
	t.Parallel()
	base, names := recordings(t)
	for name := range theReadings {
		if !slices.Contains(names, name) {
			t.Errorf("%s is read and not recorded", name)
		}
	}
	for _, name := range names {
		want, ok := theReadings[name]
		if !ok {
			t.Errorf("%s is recorded and not read", name)
			continue
		}
		got, err := readRecorded(t, base+name, name)
		if OutcomeOf(err) != want.outcome {
			t.Errorf("%s: %s, want %s (%v)", name, OutcomeOf(err), want.outcome, err)
		}
		whole := got == want.value || strings.HasPrefix(name, "order") && strings.Contains(got, want.value) &&
			(got == "") == (want.value == "")
		if !whole {
			t.Errorf("%s reads\n%s\nwant\n%s", name, got, want.value)
		}
		if says := fmt.Sprint(err); want.says != "" && !strings.Contains(says, want.says) || len(says) > 1000 {
			t.Errorf("%s: the error is %q, want %q in it", name, says, want.says)
		}
		if want.outcome != Done && CorrelationIDOf(err) != recorded.CorrelationID {
			t.Errorf("%s: correlation id %q", name, CorrelationIDOf(err))
		}
	}
}

func readRecorded(t *testing.T, base, name string) (string, error) {
	t.Helper()
	ctx := t.Context()
	if strings.HasPrefix(name, "token") {
		m := tokens(t, http.NotFoundHandler(), newTokenMap(leeds, freshRecord()), func(c *TokensConfig) {
			c.TokenURL, c.DialContext = base, nil
		})
		p, err := m.exchange(ctx, relay.NewSecret("refresh-0"))
		return p.access.Reveal() + " " + p.refresh.Reveal(), err
	}
	c, err := New(Config{BaseURL: base, Logger: quiet, UserAgent: name})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	switch kind, _, _ := strings.Cut(name, "-"); kind {
	case "poll", "refused":
		page, err := c.Poll(ctx, testToken, relay.LevelSite, testSubscription, func(context.Context) error {
			return nil
		})
		return pollReading(page), err
	case "order":
		o, err := c.Order(ctx, testToken, recorded.Order, nil)
		return string(o.JSON), err
	case "whoami":
		return c.Whoami(ctx, testToken)
	case "me":
		me, err := c.Me(ctx, testToken)
		return fmt.Sprint(me), err
	case "topics":
		topics, err := c.Topics(ctx, testToken)
		return fmt.Sprint(topics), err
	case "subscriptions":
		subs, err := c.Subscriptions(ctx, testToken, relay.LevelSite)
		return fmt.Sprint(subs), err
	case "subscribed":
		return c.Subscribe(ctx, testToken, relay.LevelSite, "PARTS.ORDER")
	case "assessment":
		return c.AssessmentID(ctx, testToken, "A", "1")
	}
	t.Fatalf("%s is of no kind", name)
	return "", nil
}

// addRecorded adds the bodies of the recorded responses of these kinds to a fuzz target's corpus.
func addRecorded(f *testing.F, kinds ...string) {
	f.Helper()
	all, err := recorded.Answers()
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if slices.ContainsFunc(kinds, func(kind string) bool { return strings.HasPrefix(name, kind) }) &&
			len(all[name].Body) < 8<<10 {
			f.Add(all[name].Body)
		}
	}
}

// FuzzDescribe: what a response is called is bounded, printable text without line ends.
func FuzzDescribe(f *testing.F) {
	addRecorded(f, "poll", "refused", "order", "whoami", "token")
	f.Add([]byte("<Error><Message>a</Message><ExceptionMessage>\n</ExceptionMessage>"))
	f.Add([]byte(`{"error":{"error":{"error":{"Message":"x"}}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, said := range []string{describe(body), message(refusalText(body), testToken)} {
			if n := utf8.RuneCountInString(said); n > 3*maxMessage {
				t.Errorf("%d characters: %q", n, said)
			}
			if i := strings.IndexFunc(said, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
				t.Errorf("character %d of %q is not printable", i, said)
			}
		}
		if describe(body) == "" && !json.Valid(trimJSON(body)) {
			t.Errorf("%q is called nothing", body)
		}
	})
}
