package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// arrival is one delivery that came in whole.
type arrival struct {
	run      int // of the relay
	event    string
	subject  string
	sequence string
	at       time.Time
	status   int // 0 while there is no answer yet, and for ever if the sender went first
}

// behaviour decides how a receiver answers its n-th delivery (from 1): with a status, or 0 for never.
type behaviour func(n int, r *http.Request) int

func healthy(int, *http.Request) int { return http.StatusNoContent }

// oneInTen answers 503 to every tenth delivery.
func oneInTen(n int, _ *http.Request) int {
	if n%10 == 0 {
		return http.StatusServiceUnavailable
	}
	return http.StatusNoContent
}

// slow takes its time.
func slow(d time.Duration) behaviour {
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

// hanging never answers.
func hanging(_ int, r *http.Request) int {
	<-r.Context().Done()
	return 0
}

// receiver is a BMS: it verifies every delivery with the reference library and writes it down.
type receiver struct {
	id       string // of its callback
	server   *tracked
	behave   behaviour
	world    *world
	webhook  *standardwebhooks.Webhook
	secret   string         // what its callback was made with
	rotated  string         // what came after it
	settings map[string]any // of the callback beside its URL
	echoes   bool           // answers with the request's headers, as frameworks do that show what went wrong
	dead     *reserved      // where a dead receiver may come to life

	mu       sync.Mutex
	count    int
	arrivals []*arrival
	bodies   map[string][]byte // by event
	problems []string
	headers  http.Header // of the last delivery
}

// newReceiver starts a receiver.
func (w *world) newReceiver(id string, behave behaviour, settings map[string]any) *receiver {
	r := &receiver{id: id, behave: behave, world: w, settings: settings, bodies: map[string][]byte{}}
	r.server = serveTracked(w.t, listen(w.t), r)
	w.receivers = append(w.receivers, r)
	return r
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// ServeHTTP takes a delivery.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender died in the middle of it
	}
	a, n := r.note(req, body)
	status := r.behave(n, req)
	if a == nil {
		status = http.StatusBadRequest
	}
	if status == 0 {
		panic(http.ErrAbortHandler) // no answer at all
	}
	if a != nil {
		r.mu.Lock()
		a.status = status
		r.mu.Unlock()
	}
	w.WriteHeader(status)
	if r.echoes {
		_ = req.Header.Write(w) // a sender that has gone needs no answer
	}
}

// note verifies a delivery and writes it down; nil if it is no good.
func (r *receiver) note(req *http.Request, body []byte) (*arrival, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	bad := func(format string, a ...any) (*arrival, int) {
		r.problems = append(r.problems, fmt.Sprintf(format, a...))
		return nil, r.count
	}
	if err := r.webhook.Verify(body, req.Header); err != nil {
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
	if before, ok := r.bodies[ev.ID]; ok && !bytes.Equal(before, body) {
		return bad("event %s came with another body than before:\n%s\n%s", ev.ID, before, body)
	}
	r.bodies[ev.ID], r.headers = body, req.Header
	a := &arrival{run: r.world.currentRun(), event: ev.ID, subject: ev.Subject, sequence: ev.Sequence, at: time.Now()}
	r.arrivals = append(r.arrivals, a)
	return a, r.count
}

// all answers a copy of what has arrived.
func (r *receiver) all() []arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]arrival, len(r.arrivals))
	for i, a := range r.arrivals {
		list[i] = *a
	}
	return list
}

// accepted answers how many different events were answered with 2xx.
func (r *receiver) accepted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	for _, a := range r.arrivals {
		if a.status/100 == 2 {
			seen[a.event] = true
		}
	}
	return len(seen)
}

// checkClean fails for every delivery that was no good.
func (r *receiver) checkClean(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, p := range r.problems {
		if i == 5 {
			t.Errorf("callback %s: … and %d more", r.id, len(r.problems)-i)
			break
		}
		t.Errorf("callback %s: %s", r.id, p)
	}
}
