package relaytest_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/audatex-relay/relay/relaytest"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// deliver sends an event, signed with a secret, and returns the status of the response.
func deliver(t *testing.T, r http.Handler, secret, id, body string) int {
	t.Helper()
	hook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	signature, err := hook.Sign(id, at, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/hook", strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(standardwebhooks.HeaderWebhookID, id)
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	return w.Code
}

func TestWhatIsNoGoodIsNoticed(t *testing.T) {
	t.Parallel()
	const event = `{"id":"e-1","subject":"o","sequence":"0000000000000002"}`
	for _, sparing := range []bool{false, true} {
		accepted := 0
		r := &relaytest.Receiver{Sparing: sparing, Accepted: func(relaytest.Delivery, []byte) { accepted++ }}
		if got := deliver(t, r, secret, "e-1", event); got != http.StatusServiceUnavailable {
			t.Errorf("without a secret: %d", got)
		}
		if err := r.VerifyWith(secret); err != nil {
			t.Fatal(err)
		}
		for _, d := range []struct {
			secret, id, body string
			want             int
			problem          string
		}{
			{secret, "e-1", event, http.StatusNoContent, ""},
			{secret, "e-1", event, http.StatusNoContent, ""}, // a repeat
			{"whsec_c29tZWJvZHkgZWxzZSdzIHNlY3JldA==", "e-1", event, http.StatusUnauthorized,
				"a signature does not verify"},
			{secret, "e-2", event, http.StatusBadRequest, "is not the event's id"},
			{secret, "e-1", strings.Replace(event, "o", "p", 1), http.StatusBadRequest, "another body than before"},
			{secret, "e-1", "[]", http.StatusBadRequest, "is no event"},
		} {
			before := len(r.Problems())
			got := deliver(t, r, d.secret, d.id, d.body)
			problems := r.Problems()[before:]
			if got != d.want || (d.problem == "") != (len(problems) == 0) ||
				!strings.Contains(strings.Join(problems, ""), d.problem) {
				t.Errorf("%s %s: %d %q, want %d %q", d.id, d.body, got, problems, d.want, d.problem)
			}
		}
		if accepted != 2 || r.AcceptedEvents() != 1 {
			t.Errorf("%d deliveries of %d events are accepted", accepted, r.AcceptedEvents())
		}
	}
}

func TestAnEventBehindALaterOneIsMisordered(t *testing.T) {
	t.Parallel()
	r := &relaytest.Receiver{}
	if err := r.VerifyWith(secret); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"1", "3", "2", "3"} { // the last is a repeat
		deliver(t, r, secret, id, `{"id":"`+id+`","subject":"o","sequence":"000000000000000`+id+`"}`)
	}
	if late := r.Misordered(); len(late) != 1 || len(r.Deliveries()) != 4 {
		t.Errorf("%q is misordered of %d deliveries", late, len(r.Deliveries()))
	}
}
