// Package relaytest has a receiver of the relay's callbacks, for tests of what receives them and of
// the relay itself.
//
// It verifies every delivery with the public library of Standard Webhooks, which shares no code
// with the relay, and keeps what came and everything that was wrong with it. Begin reading at
// Receiver; with net/http/httptest it is a server:
//
//	receiver := &relaytest.Receiver{}
//	server := httptest.NewServer(receiver) // make a callback with its URL; the response has the secret
//	err := receiver.VerifyWith(secret)
package relaytest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// maxBody is the largest delivery that is read.
const maxBody = 16 << 20

// Delivery is one delivery that came in whole and verified.
type Delivery struct {
	Event    string // its id
	Subject  string
	Sequence string
	At       time.Time
	Sender   string // its User-Agent
	Replay   string // the replay that it came by; "" if by none
	Run      int    // what Receiver.Run returned
	Status   int    // of the response; 0 before there is one, and for ever if the sender went first
}

// Receiver is an http.Handler that takes deliveries. Its zero value responds 204 to everything that
// verifies. Set the fields before the first delivery. All methods may be called at any time.
type Receiver struct {
	// Behave chooses the responses to what verifies; nil: Healthy.
	Behave Behaviour
	// Echoes repeats the request's line and headers in the response, as frameworks do that show
	// what went wrong.
	Echoes bool
	// Run returns which run of the relay is being tested; nil where that does not matter.
	Run func() int
	// Accepted is called for every delivery with a response of 2xx, with its body, after the
	// response was written. If it is nil, it is not called.
	Accepted func(d Delivery, body []byte)
	// Refused is called for every delivery that was not valid, with the reason. If it is nil, it is
	// not called.
	Refused func(problem string)
	// Sparing keeps no deliveries and no bodies, for a receiver that runs for long: of each event
	// it keeps a hash.
	Sparing bool

	hook atomic.Pointer[standardwebhooks.Webhook]

	mu         sync.Mutex
	count      int
	deliveries []*Delivery
	accepted   map[string]struct{} // events
	bodies     map[string][]byte   // by event; with Sparing their hashes
	problems   []string
	header     http.Header
}

// VerifyWith sets the secret of the callback. Before that deliveries get the response 503.
func (r *Receiver) VerifyWith(secret string) error {
	hook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return fmt.Errorf("read the callback's secret: %w", err)
	}
	r.hook.Store(hook)
	return nil
}

// ServeHTTP takes a delivery.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	at := time.Now()
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		return // the sender died in the middle of it
	}
	if r.hook.Load() == nil {
		http.Error(w, "no secret to verify with yet", http.StatusServiceUnavailable)
		return
	}
	d, n, status := r.note(req, body, at)
	if d != nil {
		status = r.behave(n, req)
	}
	if status == 0 {
		panic(http.ErrAbortHandler) // no response at all
	}
	if d != nil {
		r.answered(d, status)
	}
	w.WriteHeader(status)
	if r.Echoes {
		_, _ = fmt.Fprintf(w, "Cannot POST %s\n", req.RequestURI) //nolint:gosec // frameworks do it
		_ = req.Header.Write(w)                                   // a sender that has gone needs no response
	}
	if d != nil && status/100 == 2 && r.Accepted != nil {
		r.Accepted(*d, body)
	}
}

func (r *Receiver) behave(n int, req *http.Request) int {
	if r.Behave == nil {
		return Healthy(n, req)
	}
	return r.Behave(n, req)
}

// note verifies a delivery and keeps it. It returns the delivery and its number. If the delivery is
// not valid, it returns nil, the number and the status to respond with.
func (r *Receiver) note(req *http.Request, body []byte, at time.Time) (d *Delivery, n, status int) {
	d, problem, status := r.verify(req, body, at)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	if problem == "" {
		problem = r.keep(d, req, body)
	}
	if problem == "" {
		return d, r.count, 0
	}
	r.problems = append(r.problems, problem)
	if r.Refused != nil {
		r.Refused(problem)
	}
	return nil, r.count, status
}

// verify checks one delivery and returns what is wrong with it, "" if nothing is.
func (r *Receiver) verify(req *http.Request, body []byte, at time.Time) (d *Delivery, problem string, status int) {
	if err := r.hook.Load().Verify(body, req.Header); err != nil {
		return nil, fmt.Sprintf("a signature does not verify: %v", err), http.StatusUnauthorized
	}
	var event struct{ ID, Subject, Sequence string }
	if err := json.Unmarshal(body, &event); err != nil {
		return nil, fmt.Sprintf("a body is no event: %v: %s", err, body), http.StatusBadRequest
	}
	if id := req.Header.Get(standardwebhooks.HeaderWebhookID); id != event.ID {
		return nil, fmt.Sprintf("webhook-id %q is not the event's id %q", id, event.ID), http.StatusBadRequest
	}
	if got := req.Header.Get("Content-Type"); req.Method != http.MethodPost || got != "application/json" {
		return nil, fmt.Sprintf("event %s came as %s of %q", event.ID, req.Method, got), http.StatusBadRequest
	}
	return &Delivery{
		Event: event.ID, Subject: event.Subject, Sequence: event.Sequence, At: at, Sender: req.UserAgent(),
		Replay: req.Header.Get("webhook-replay"),
	}, "", http.StatusBadRequest
}

// keep keeps a delivery, unless its event came with another body before. The caller holds the lock.
func (r *Receiver) keep(d *Delivery, req *http.Request, body []byte) (problem string) {
	kept := body
	if r.Sparing {
		sum := sha256.Sum256(body)
		kept = sum[:]
	}
	if before, ok := r.bodies[d.Event]; ok && !bytes.Equal(before, kept) {
		return fmt.Sprintf("event %s came with another body than before:\n%s\n%s", d.Event, before, body)
	}
	if r.bodies == nil {
		r.bodies, r.accepted = map[string][]byte{}, map[string]struct{}{}
	}
	r.bodies[d.Event], r.header = kept, req.Header
	if r.Run != nil {
		d.Run = r.Run()
	}
	if !r.Sparing {
		r.deliveries = append(r.deliveries, d)
	}
	return ""
}

func (r *Receiver) answered(d *Delivery, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d.Status = status
	if status/100 == 2 {
		r.accepted[d.Event] = struct{}{}
	}
}

// Deliveries returns a copy of what has come, in the order in which it came.
func (r *Receiver) Deliveries() []Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Delivery, len(r.deliveries))
	for i, d := range r.deliveries {
		list[i] = *d
	}
	return list
}

// Bodies returns the bodies that have come, by event.
func (r *Receiver) Bodies() map[string][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.bodies)
}

// Header returns the headers of the last delivery.
func (r *Receiver) Header() http.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.header
}

// Latest returns when the last delivery came; zero if none has.
func (r *Receiver) Latest() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.deliveries) == 0 {
		return time.Time{}
	}
	return r.deliveries[len(r.deliveries)-1].At
}

// AcceptedEvents returns how many different events got a response of 2xx.
func (r *Receiver) AcceptedEvents() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.accepted)
}

// Problems returns what was wrong with deliveries that were not valid.
func (r *Receiver) Problems() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.problems)
}

// Misordered returns every event whose first delivery came after that of a later event of its
// subject.
func (r *Receiver) Misordered() []string {
	var late []string
	for subject, list := range Firsts(r.Deliveries()) {
		for i := 1; i < len(list); i++ {
			if list[i].Sequence <= list[i-1].Sequence { // sixteen digits each
				late = append(late,
					fmt.Sprintf("order %s: event %s came after %s", subject, list[i].Event, list[i-1].Event))
			}
		}
	}
	return late
}

// Firsts returns the first delivery of each event, by subject and in the order in which they came.
func Firsts(deliveries []Delivery) map[string][]Delivery {
	seen := map[string]bool{}
	by := map[string][]Delivery{}
	for _, d := range deliveries {
		if !seen[d.Event] {
			seen[d.Event] = true
			by[d.Subject] = append(by[d.Subject], d)
		}
	}
	return by
}
