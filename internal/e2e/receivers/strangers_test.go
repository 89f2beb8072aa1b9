package receivers

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// stranger is a secret that the receiver does not know.
const stranger = "whsec_c29tZWJvZHkgZWxzZSdzIHNlY3JldCwgbm90IG91cnM="

// published is an event of the log, with the bytes that are delivered.
type published struct {
	id   string
	body []byte
}

// published returns the order's events, oldest first.
func (j *journey) published() []published {
	j.t.Helper()
	list, err := harness.Items[struct{ ID string }](j.w.api, "/v1/orders/"+j.order+"/events")
	if err != nil {
		j.t.Fatal(err)
	}
	var events []published
	for _, e := range list {
		raw, err := j.w.api.Call(http.MethodGet, "/v1/events/"+e.ID, nil)
		if err != nil || raw.Status != http.StatusOK {
			j.t.Fatalf("event %s: %d %v", e.ID, raw.Status, err)
		}
		events = append(events, published{e.ID, raw.Body})
	}
	if len(events) != j.events {
		j.t.Fatalf("the order has %d events, want %d", len(events), j.events)
	}
	return events
}

// request is a delivery to make. The zero values of its fields mean what the relay does.
type request struct {
	published
	method    string
	path      string
	secret    string
	late      time.Duration
	tamper    bool
	unsigned  bool
	signature func(right string) string
}

func (p published) request() request { return request{published: p} }

// send delivers to the receiver and returns the status of its response, 0 if there is none.
func (j *journey) send(r request) int {
	j.t.Helper()
	secret := r.secret
	if secret == "" {
		secret = j.secret
	}
	hook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		j.t.Fatal(err)
	}
	at := time.Now().Add(-r.late)
	signature, err := hook.Sign(r.id, at, r.body)
	if err != nil {
		j.t.Fatal(err)
	}
	if r.signature != nil {
		signature = r.signature(signature)
	}
	body := r.body
	if r.tamper {
		body = bytes.Replace(body, []byte("Confirmed"), []byte("Delivered"), 1)
	}
	method := r.method
	if method == "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(j.t.Context(), method, j.url+r.path, bytes.NewReader(body))
	if err != nil {
		j.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if !r.unsigned {
		req.Header.Set(standardwebhooks.HeaderWebhookID, r.id)
		req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
		req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	}
	res, err := j.w.api.Client.Do(req)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// strangers sends what a receiver must drop, and what it must refuse. None of it may reach the work.
func (j *journey) strangers() {
	j.t.Helper()
	events := j.published()
	older, newest := events[0], events[len(events)-1]
	made := func(id, body string) request { return request{published: published{id, []byte(body)}} }
	with := func(change func(*request)) request {
		r := newest.request()
		change(&r)
		return r
	}
	for _, c := range []struct {
		name string
		want int // 2: any 2xx
		r    request
	}{
		{name: "a repeat", want: 2, r: newest.request()},
		{name: "an older event", want: 2, r: older.request()},
		{name: "the signature behind others", want: 2, r: with(func(r *request) {
			r.signature = func(right string) string { return "v1,bm90IHRoaXM= v1a,bm90IHRoaXM= garbage v1, " + right }
		})},
		{name: "four minutes late", want: 2, r: with(func(r *request) { r.late = 4 * time.Minute })},
		{name: "an operational event", want: 2, r: made("r-1", `{"type":"audatex.relay.order-unresolved","site":"go",`+
			`"subject":"`+j.order+`","sequence":"9999999999999999","data":{}}`)},
		{name: "a test", want: 2,
			r: made("t-1", strings.Replace(string(newest.body), `"specversion"`, `"test":true,"specversion"`, 1))},
		{name: "a secret of somebody else", want: 401, r: with(func(r *request) { r.secret = stranger })},
		{name: "another body", want: 401, r: with(func(r *request) { r.tamper = true })},
		{name: "six minutes late", want: 401, r: with(func(r *request) { r.late = 6 * time.Minute })},
		{name: "six minutes early", want: 401, r: with(func(r *request) { r.late = -6 * time.Minute })},
		{name: "no signature", want: 401, r: with(func(r *request) { r.unsigned = true })},
		{name: "an empty signature", want: 401, r: with(func(r *request) {
			r.signature = func(string) string { return "" }
		})},
		{name: "half a signature", want: 401, r: with(func(r *request) {
			r.signature = func(right string) string { return right[:20] }
		})},
		{name: "another version", want: 401, r: with(func(r *request) {
			r.signature = func(right string) string { return "v2" + right[2:] }
		})},
		{name: "no JSON", want: 400, r: made("n-1", "not JSON")},
		{name: "no event", want: 400, r: made("n-2", `{"an":"object"}`)},
		{name: "no sequence", want: 400,
			r: made("n-3", `{"type":"audatex.parts.order.updated","subject":"`+j.order+`"}`)},
		{name: "another method", want: 405, r: with(func(r *request) { r.method = http.MethodPut })},
		{name: "a body that is too large", want: 413, r: made("n-4", `"`+strings.Repeat("x", 16<<20)+`"`)},
	} {
		got := j.send(c.r)
		gone := c.want == http.StatusRequestEntityTooLarge && got == 0 // it need not read all of the body first
		if got != c.want && (c.want != 2 || got/100 != 2) && !gone {
			j.t.Errorf("the receiver in %s responds %d to %s, want %d", j.of.name, got, c.name, c.want)
		}
	}
	var test struct {
		Delivered bool
		Status    int
		Event     struct{ Test bool }
	}
	j.w.api.Must(j.t, http.MethodPost, "/v1/callbacks/"+j.of.name+"/test", map[string]any{}, &test)
	if !test.Delivered || !test.Event.Test {
		j.t.Errorf("the receiver in %s responds %d to a test of its callback: %+v", j.of.name, test.Status, test)
	}
}
