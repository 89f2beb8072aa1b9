package receivers

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// TestTheExamplesReceive takes each example through the life of a receiver: deliveries, repeats, a rotation of its
// secret, a time when it is down, a loss of all that it knew, and strangers.
func TestTheExamplesReceive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			newJourney(t, w, newProgram(t, l), vendorSite(i)).run()
		})
	}
}

// journey is one example with its callback and its order.
type journey struct {
	*program
	w         *world
	reference string
	order     string
	events    int // that were made of the order
	secret    string
	// steps is how many events the receiver should have worked on.
	steps int
}

func newJourney(t *testing.T, w *world, p *program, site string) *journey {
	t.Helper()
	j := &journey{program: p, w: w, reference: "PO-" + p.of.name}
	const first = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwIA=="
	p.start(first)
	j.secret = first
	w.api.Must(t, http.MethodPut, "/v1/callbacks/"+p.of.name,
		map[string]any{"url": p.url, "secret": first, "sites": []string{p.of.name}}, nil)
	order, err := w.sandbox.CreateOrder(site, sandbox.OrderOptions{Reference: j.reference})
	if err != nil {
		t.Fatal(err)
	}
	j.order = order.ID
	j.next("created", "New")
	return j
}

func (j *journey) run() {
	j.change("Confirmed")
	j.strangers()
	j.change("Dispatched")
	if got := j.printed(); len(got) != j.steps {
		j.t.Errorf("the receiver in %s worked on what it should have dropped: %q", j.of.name, got)
	}
	j.storeFails()
	j.rotates()
	j.wasDown()
	j.replays()
	j.lostEverything()
}

// next waits for the receiver to work on the order's next event.
func (j *journey) next(kind, status string) {
	j.t.Helper()
	j.events++
	j.steps++
	j.handles(j.steps, fmt.Sprintf("audatex.parts.order.%s %s %s %s", kind, j.of.name, j.reference, status))
}

// move changes the order at the vendor's.
func (j *journey) move(status string) {
	j.t.Helper()
	if _, err := j.w.sandbox.ChangeOrder(j.order, sandbox.Change{Status: status}); err != nil {
		j.t.Fatal(err)
	}
}

// change changes the order at the vendor's and waits for the receiver to work on it.
func (j *journey) change(status string) {
	j.t.Helper()
	j.move(status)
	j.next("updated", status)
}

// restart starts the receiver again, with other secrets and at another address.
func (j *journey) restart(secrets ...string) {
	j.t.Helper()
	j.kill()
	j.start(secrets...)
	j.w.api.Must(j.t, http.MethodPatch, "/v1/callbacks/"+j.of.name, map[string]any{"url": j.url}, nil)
}

// rotates: the receiver needs no moment in which both sides change. It may know the old secret, both or the new one.
func (j *journey) rotates() {
	j.t.Helper()
	var rotated struct{ Secret string }
	j.w.api.Must(j.t, http.MethodPost, "/v1/callbacks/"+j.of.name+"/rotate-secret", map[string]any{}, &rotated)
	j.change("ReturnRejected")
	j.restart(rotated.Secret, j.secret)
	j.change("ReturnRequested")
	j.restart(rotated.Secret)
	j.change("ReturnAccepted")
	j.secret = rotated.Secret
}

// storeFails: what cannot be stored is refused, so that it comes again.
func (j *journey) storeFails() {
	j.t.Helper()
	away := j.data + ".away"
	if err := os.Rename(j.data, away); err != nil {
		j.t.Fatal(err)
	}
	j.move("Delivered")
	harness.Eventually(j.t, "a delivery to "+j.of.name+" is refused", func() string {
		var list struct {
			Items []struct{ LastAttempt struct{ Status int } }
		}
		j.w.api.Must(j.t, http.MethodGet, "/v1/callbacks/"+j.of.name+"/deliveries?status=retrying", nil, &list)
		if len(list.Items) != 1 || list.Items[0].LastAttempt.Status != http.StatusServiceUnavailable {
			return fmt.Sprintf("%+v", list.Items)
		}
		return ""
	})
	if err := os.Rename(away, j.data); err != nil {
		j.t.Fatal(err)
	}
	j.next("updated", "Delivered")
}

// wasDown: what happens meanwhile comes when the receiver is there again, and nothing that it had comes again.
func (j *journey) wasDown() {
	j.t.Helper()
	j.kill()
	j.move("Confirmed")
	harness.Eventually(j.t, "a delivery to "+j.of.name+" fails", func() string {
		var list struct{ Items []struct{ Status string } }
		j.w.api.Must(j.t, http.MethodGet, "/v1/callbacks/"+j.of.name+"/deliveries?status=retrying", nil, &list)
		if len(list.Items) == 0 {
			return "none is being retried"
		}
		return ""
	})
	j.restart(j.secret)
	j.next("updated", "Confirmed")
}

// replays: a receiver that has everything accepts a replay and does nothing else.
func (j *journey) replays() {
	j.t.Helper()
	before := len(j.printed())
	j.replay()
	j.change("Cancelled")
	if got := j.printed(); len(got) != before+1 {
		j.t.Errorf("the receiver in %s worked on what was replayed: %q", j.of.name, got)
	}
}

// lostEverything: a replay brings a receiver with an empty store to the newest state of the order.
func (j *journey) lostEverything() {
	j.t.Helper()
	j.data, j.book = j.t.TempDir(), &harness.Logbook{}
	j.restart(j.secret)
	j.replay()
	want := fmt.Sprintf("audatex.parts.order.updated %s %s Cancelled\n", j.of.name, j.reference)
	harness.Eventually(j.t, "the receiver in "+j.of.name+" is where it was", func() string {
		if got := j.printed(); !slices.Contains(got, want) {
			return fmt.Sprintf("%q", got)
		}
		return ""
	})
	if status := j.send(j.published()[0].request()); status/100 != 2 {
		j.t.Errorf("the receiver in %s responds %d to the oldest event", j.of.name, status)
	}
	if got := j.printed(); got[len(got)-1] != want {
		j.t.Errorf("the receiver in %s ends at %q", j.of.name, got)
	}
}

// replay has all events of the order delivered again, and waits until they are.
func (j *journey) replay() {
	j.t.Helper()
	type replay struct {
		ID, State                  string
		Matched, Delivered, Failed int
	}
	var made, now replay
	replays := "/v1/callbacks/" + j.of.name + "/replays"
	j.w.api.Must(j.t, http.MethodPost, replays, map[string]any{"orders": []string{j.order}}, &made)
	harness.Eventually(j.t, "the replay to "+j.of.name+" is done", func() string {
		j.w.api.Must(j.t, http.MethodGet, replays+"/"+made.ID, nil, &now)
		if now.State != "done" {
			return fmt.Sprintf("%+v", now)
		}
		return ""
	})
	if now.Matched != j.events || now.Delivered != j.events || now.Failed != 0 {
		j.t.Errorf("the replay of %d events to %s: %+v", j.events, j.of.name, now)
	}
}
