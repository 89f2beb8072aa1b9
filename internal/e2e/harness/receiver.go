package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Arrival is one delivery that came in whole.
type Arrival struct {
	Run      int // of the relay
	Event    string
	Subject  string
	Sequence string
	At       time.Time
	Sender   string // its User-Agent
	Status   int    // 0 while there is no answer yet, and for ever if the sender went first
}

// Behaviour decides how a receiver answers its n-th delivery (from 1): with a status, or 0 for never.
type Behaviour func(n int, r *http.Request) int

// Healthy takes everything at once.
func Healthy(int, *http.Request) int { return http.StatusNoContent }

// OneInTen answers 503 to every tenth delivery.
func OneInTen(n int, _ *http.Request) int {
	if n%10 == 0 {
		return http.StatusServiceUnavailable
	}
	return http.StatusNoContent
}

// Slow takes its time.
func Slow(d time.Duration) Behaviour {
	return func(_ int, r *http.Request) int {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return http.StatusNoContent
		case <-r.Context().Done():
			return 0
		}
	}
}

// Hanging never answers.
func Hanging(_ int, r *http.Request) int {
	<-r.Context().Done()
	return 0
}

// Receiver is a BMS: it verifies every delivery with the reference library and writes it down.
type Receiver struct {
	ID       string // of its callback
	Server   *Tracked
	Behave   Behaviour
	Run      func() int // which run of the relay it is; nil where that does not matter
	Webhook  *standardwebhooks.Webhook
	Secret   string         // what its callback was made with
	Rotated  string         // what came after it
	Settings map[string]any // of the callback beside its URL
	Beneath  string         // what its callback's URL has behind the receiver's own address
	Echoes   bool           // answers with the request's line and headers, as frameworks do that show what went wrong
	Dead     *Reserved      // where a dead receiver may come to life

	Mu       sync.Mutex
	count    int
	arrivals []*Arrival
	accepted map[string]struct{} // events that were answered with 2xx
	Bodies   map[string][]byte   // by event
	problems []string
	Headers  http.Header // of the last delivery
}

// ServeHTTP takes a delivery.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender died in the middle of it
	}
	a, n := r.note(req, body)
	status := r.Behave(n, req)
	if a == nil {
		status = http.StatusBadRequest
	}
	if status == 0 {
		panic(http.ErrAbortHandler) // no answer at all
	}
	if a != nil {
		r.Mu.Lock()
		a.Status = status
		if status/100 == 2 {
			if r.accepted == nil {
				r.accepted = map[string]struct{}{}
			}
			r.accepted[a.Event] = struct{}{}
		}
		r.Mu.Unlock()
	}
	w.WriteHeader(status)
	if r.Echoes {
		_, _ = fmt.Fprintf(w, "Cannot POST %s\n", req.RequestURI) //nolint:gosec // frameworks do it
		_ = req.Header.Write(w)                                   // a sender that has gone needs no answer
	}
}

// note verifies a delivery and writes it down; nil if it is no good.
func (r *Receiver) note(req *http.Request, body []byte) (*Arrival, int) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	r.count++
	bad := func(format string, a ...any) (*Arrival, int) {
		r.problems = append(r.problems, fmt.Sprintf(format, a...))
		return nil, r.count
	}
	if err := r.Webhook.Verify(body, req.Header); err != nil {
		return bad("a signature does not verify: %v", err)
	}
	var ev struct{ ID, Subject, Sequence string }
	if err := json.Unmarshal(body, &ev); err != nil {
		return bad("a body is no event: %v: %s", err, body)
	}
	if id := req.Header.Get("webhook-id"); id != ev.ID {
		return bad("webhook-id %q is not the event's id %q", id, ev.ID)
	}
	if got := req.Header.Get("Content-Type"); req.Method != http.MethodPost || got != "application/json" {
		return bad("event %s came as %s of %q", ev.ID, req.Method, got)
	}
	if before, ok := r.Bodies[ev.ID]; ok && !bytes.Equal(before, body) {
		return bad("event %s came with another body than before:\n%s\n%s", ev.ID, before, body)
	}
	r.Bodies[ev.ID], r.Headers = body, req.Header
	a := &Arrival{Event: ev.ID, Subject: ev.Subject, Sequence: ev.Sequence, At: time.Now(), Sender: req.UserAgent()}
	if r.Run != nil {
		a.Run = r.Run()
	}
	r.arrivals = append(r.arrivals, a)
	return a, r.count
}

// All answers a copy of what has arrived.
func (r *Receiver) All() []Arrival {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	list := make([]Arrival, len(r.arrivals))
	for i, a := range r.arrivals {
		list[i] = *a
	}
	return list
}

// Latest returns when the last delivery came; zero if none has.
func (r *Receiver) Latest() time.Time {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	if len(r.arrivals) == 0 {
		return time.Time{}
	}
	return r.arrivals[len(r.arrivals)-1].At
}

// Accepted answers how many different events were answered with 2xx.
func (r *Receiver) Accepted() int {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	return len(r.accepted)
}

// Problems answers what was wrong with deliveries that were no good.
func (r *Receiver) Problems() []string {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	return append([]string(nil), r.problems...)
}

// CheckClean fails for every delivery that was no good.
func (r *Receiver) CheckClean(t *testing.T) {
	t.Helper()
	r.Mu.Lock()
	defer r.Mu.Unlock()
	for i, p := range r.problems {
		if i == 5 {
			t.Errorf("callback %s: … and %d more", r.ID, len(r.problems)-i)
			break
		}
		t.Errorf("callback %s: %s", r.ID, p)
	}
}
