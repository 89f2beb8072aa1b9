package harness

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/audatex-relay/relay/internal/ledger"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

// Receiver is a receiver with a server and a callback of its own.
type Receiver struct {
	relaytest.Receiver

	ID       string // of its callback
	Server   *Tracked
	Secret   string         // what its callback was made with
	Rotated  string         // what came after it
	Settings map[string]any // of the callback beside its URL
	Beneath  string         // what its callback's URL has behind the receiver's own address
	Reserved string         // the address of one without a server

	mu     sync.Mutex
	parsed map[string]ledger.Event // by id; an event never comes with two bodies
}

// NewReceiver returns a receiver for a callback.
func NewReceiver(id string, behave relaytest.Behaviour) *Receiver {
	return &Receiver{ID: id, Receiver: relaytest.Receiver{Behave: behave}}
}

// NewCallback returns the settings to make the receiver's callback with: those of the receiver and,
// where it has none, an address, a new secret and the start of the log. The receiver verifies with the
// secret from now on.
func (r *Receiver) NewCallback(t testing.TB) map[string]any {
	t.Helper()
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	settings := map[string]any{
		"url": "http://" + r.Address() + "/hook" + r.Beneath, "timeoutSeconds": 60, "startFrom": "earliest",
		"secret": "whsec_" + base64.StdEncoding.EncodeToString(key),
	}
	maps.Copy(settings, r.Settings)
	r.Secret, _ = settings["secret"].(string)
	if err := r.VerifyWith(r.Secret); err != nil {
		t.Fatal(err)
	}
	return settings
}

// CheckClean fails for every delivery that was not valid.
func (r *Receiver) CheckClean(t *testing.T) {
	t.Helper()
	r.report(t, r.Problems())
}

// CheckOrdered fails unless every subject's events came first in the order of their sequences.
func (r *Receiver) CheckOrdered(t *testing.T) {
	t.Helper()
	r.report(t, r.Misordered())
}

// CheckLedger compares the events that a receiver has with the ledger, order by order.
func (r *Receiver) CheckLedger(t *testing.T, l sandbox.Ledger, except func(sandbox.NotificationRecord) bool) {
	t.Helper()
	r.report(t, ledger.Check(l, r.arrived(t), except).Problems)
}

// report fails for problems, and names the first of them.
func (r *Receiver) report(t *testing.T, problems []string) {
	t.Helper()
	for i, p := range problems {
		if i == 5 {
			t.Errorf("callback %s: … and %d more", r.ID, len(problems)-i)
			break
		}
		t.Errorf("callback %s: %s", r.ID, p)
	}
}

// arrived returns the parsed events, each once, in the order in which they came.
func (r *Receiver) arrived(t *testing.T) []ledger.Event {
	t.Helper()
	var events []ledger.Event
	bodies, seen := r.Bodies(), map[string]bool{}
	for _, d := range r.Deliveries() {
		if seen[d.Event] {
			continue
		}
		seen[d.Event] = true
		e, err := r.parse(d.Event, bodies[d.Event])
		if err != nil {
			t.Errorf("callback %s: %v in %s", r.ID, err, bodies[d.Event])
			continue
		}
		events = append(events, e)
	}
	return events
}

// parse parses an event when it is asked for the first time.
func (r *Receiver) parse(id string, body []byte) (ledger.Event, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.parsed[id]; ok {
		return e, nil
	}
	e, err := ledger.ParseEvent(body)
	if err != nil {
		return e, err
	}
	if r.parsed == nil {
		r.parsed = map[string]ledger.Event{}
	}
	r.parsed[id] = e
	return e, nil
}

// Events returns the parsed events of orders, by order and in the order of their sequences.
func (r *Receiver) Events(t *testing.T) map[string][]ledger.Event {
	t.Helper()
	return ledger.ByOrder(r.arrived(t))
}

// AwaitSubscriptions waits until the vendor queues notifications for n connections.
func AwaitSubscriptions(t testing.TB, vendor *sandbox.Sandbox, n int) {
	t.Helper()
	Eventually(t, "every connection subscribes", func() string {
		if have := len(vendor.Subscriptions()); have < n {
			return fmt.Sprintf("%d of %d have", have, n)
		}
		return ""
	})
}

// AwaitAccepted waits until each of the receivers has accepted n different events.
func AwaitAccepted(t testing.TB, n int, receivers ...*Receiver) {
	t.Helper()
	Eventually(t, "all events are delivered", func() string {
		for _, r := range receivers {
			if got := r.AcceptedEvents(); got < n {
				return fmt.Sprintf("callback %s has %d of %d", r.ID, got, n)
			}
		}
		return ""
	})
}

// Address is where deliveries go.
func (r *Receiver) Address() string {
	if r.Server == nil {
		return r.Reserved
	}
	return r.Server.Addr
}
