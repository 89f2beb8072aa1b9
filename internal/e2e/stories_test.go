package e2e

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	reference "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// story is a row of the table in docs/receiving.md: what a receiver does until it is mended, what one sees then, and
// the call that puts it right.
type story struct {
	what   string // the first column
	id     string // of the callback
	broken func(order int, path string) int
	call   func(w *stories, s *story) (method, path string, body any) // as documented, with the callback's id
	// what is done to the receiver before; nil: it accepts
	mended func(w *stories, s *story)
	// what is wrong with what one sees while it is broken
	seen func(w *stories, s *story) string
}

// stories are one relay with a callback for each story. What fails is tried again after an hour only, so nothing but
// the call can have made it right.
type stories struct {
	*world
	address string
	orders  []string

	mu      sync.Mutex
	healthy map[string]bool
	secrets map[string]string // that the receivers verify with, of those that do
	all     []*story
	hurried map[string]bool
	over    time.Time // when the five days are
}

const (
	storyOrders = 3
	storyEvents = 2 * storyOrders
)

// retries are the waits between attempts.
var retries = []string{"1h", "1h"}

func always(status int) func(int, string) int { return func(int, string) int { return status } }

func firstOrder(order int, _ string) int {
	if order == 0 {
		return http.StatusInternalServerError
	}
	return http.StatusNoContent
}

func storyTable() []*story {
	post := func(path string, body any) func(*stories, *story) (string, string, any) {
		return func(*stories, *story) (string, string, any) { return http.MethodPost, path, body }
	}
	return []*story{
		{
			what: "the receiver was down for five days", id: "days", broken: always(http.StatusInternalServerError),
			call: post("/v1/callbacks/{id}/resume", nil), seen: (*stories).fiveDays,
		},
		{
			what: "the receiver was down for an hour", id: "down", broken: always(http.StatusInternalServerError),
			call: post("/v1/callbacks/{id}/test", nil), seen: (*stories).waits,
		},
		{
			what: "the receiver has answered 410", id: "gone", broken: always(http.StatusGone),
			call: post("/v1/callbacks/{id}/resume", nil), seen: (*stories).disabled,
		},
		{
			what: "the receiver has a wrong secret", id: "secret", broken: always(http.StatusUnauthorized),
			call: post("/v1/callbacks/{id}/test", nil), seen: (*stories).waits, mended: (*stories).rotate,
		},
		{
			what: "an event of one order is refused again and again", id: "poisoned", broken: firstOrder,
			seen: (*stories).waits,
			call: func(w *stories, s *story) (string, string, any) {
				w.mu.Lock()
				w.healthy[s.id] = false // it goes on to refuse that event
				w.mu.Unlock()
				return http.MethodPost, "/v1/callbacks/{id}/deliveries/{eventId}/skip", nil
			},
		},
		{
			what: "the receiver has moved to another URL", id: "moved", seen: (*stories).waits,
			broken: func(_ int, path string) int {
				if strings.HasSuffix(path, "/new") {
					return http.StatusNoContent
				}
				return http.StatusNotFound
			},
			call: func(w *stories, s *story) (string, string, any) {
				return http.MethodPatch, "/v1/callbacks/{id}", map[string]any{"url": w.address + "/" + s.id + "/new"}
			},
			mended: func(*stories, *story) {},
		},
		{
			what: "deliveries have failed for good", id: "failed", broken: firstOrder, seen: (*stories).failed,
			call: post("/v1/callbacks/{id}/replays", map[string]any{"deliveryStatuses": []string{"failed"}}),
		},
	}
}

// Every row of the table of what to do when deliveries have failed is carried out against a relay.
func TestTheCallThatPutsDeliveriesRight(t *testing.T) {
	t.Parallel()
	rows := documentedStories(t)
	w := &stories{
		world: newWorld(t, 1, sandbox.Config{Seed: 5}, nil), healthy: map[string]bool{}, secrets: map[string]string{},
		hurried: map[string]bool{}, all: storyTable(),
	}
	w.env["RELAY_RETRY_SCHEDULE"] = strings.Join(retries, ",")
	w.address = "http://" + harness.ServeTracked(t, harness.Listen(t), http.HandlerFunc(w.receive)).Addr
	w.start()
	w.connect()
	w.happen()
	for _, s := range w.all {
		w.api().Must(t, http.MethodPut, "/v1/callbacks/"+s.id, map[string]any{
			"url": w.address + "/" + s.id, "startFrom": "earliest", "concurrency": 1,
		}, nil)
	}
	harness.Eventually(t, "every receiver has failed", func() string {
		for _, s := range w.all {
			if len(w.deliveriesOf(s, "retrying")) == 0 && w.disabled(s) != "" {
				return s.id + " has not"
			}
		}
		return ""
	})
	w.end(syscall.SIGTERM)
	w.pass("days", "failed")
	w.start()
	for _, s := range append(w.all[1:], w.all[0]) { // by then the five days are over
		documented, there := rows[s.what]
		if !there {
			t.Errorf("docs/receiving.md has no row %q", s.what)
			continue
		}
		delete(rows, s.what)
		harness.Eventually(t, s.what, func() string { return s.seen(w, s) })
		w.mend(s, documented)
	}
	for what := range rows {
		t.Errorf("the row %q of docs/receiving.md is not tested", what)
	}
}

// mend mends a receiver and makes the call; then everything is delivered but what was skipped.
func (w *stories) mend(s *story, documented string) {
	w.t.Helper()
	event := ""
	if waiting := w.deliveriesOf(s, "retrying"); len(waiting) > 0 {
		event = waiting[0]
	}
	if s.mended != nil {
		s.mended(w, s)
	} else {
		w.mu.Lock()
		w.healthy[s.id] = true
		w.mu.Unlock()
	}
	method, path, body := s.call(w, s)
	if !strings.Contains(documented, "`"+method+" "+path+"`") {
		w.t.Errorf("%s: the call is %s %s, and documented is %s", s.what, method, path, documented)
	}
	path = strings.NewReplacer("{id}", s.id, "{eventId}", event).Replace(path)
	w.api().Must(w.t, method, path, body, nil)
	want := storyEvents
	if s.id == "poisoned" {
		want--
	}
	harness.Eventually(w.t, s.what+": all is delivered", func() string {
		if got := len(w.deliveriesOf(s, "delivered")); got != want {
			return fmt.Sprintf("%d of %d are", got, want)
		}
		return ""
	})
	if left := len(w.deliveriesOf(s, "retrying,failed")); left != 0 {
		w.t.Errorf("%s: %d deliveries are left", s.what, left)
	}
}

// receive responds to deliveries; the path names the callback.
func (w *stories) receive(rw http.ResponseWriter, r *http.Request) {
	id, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	body, _ := io.ReadAll(r.Body)
	w.mu.Lock()
	defer w.mu.Unlock()
	status := http.StatusNoContent
	for _, s := range w.all {
		if s.id == id && !w.healthy[id] {
			status = s.broken(w.orderOf(r.Header.Get("webhook-id")), r.URL.Path)
		}
	}
	if id == "poisoned" && !strings.Contains(string(body), `"revision":1,`) {
		status = http.StatusNoContent // only the first event of the order is refused
	}
	if secret := w.secrets[id]; secret != "" {
		hook, err := reference.NewWebhook(secret)
		if err != nil || hook.Verify(body, r.Header) != nil {
			status = http.StatusUnauthorized
		}
	}
	rw.WriteHeader(status)
}

// orderOf returns which order an event is about, -1 if it is none of the test's.
func (w *stories) orderOf(event string) int {
	for i, order := range w.orders {
		if strings.Contains(event, order) {
			return i
		}
	}
	return -1
}

// happen has two events of each order.
func (w *stories) happen() {
	w.t.Helper()
	for range storyOrders {
		o, err := w.sandbox.CreateOrder(vendorSite(w.sites[0]), sandbox.OrderOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		w.mu.Lock()
		w.orders = append(w.orders, o.ID)
		w.mu.Unlock()
		if err := w.moveOn(o.ID, false); err != nil {
			w.t.Fatal(err)
		}
	}
	harness.Eventually(w.t, "the events are in the log", func() string {
		logged, err := harness.Items[loggedEvent](w.api(), "/v1/events?limit=100")
		if err != nil || len(logged) != storyEvents {
			return fmt.Sprintf("%d are, %v", len(logged), err)
		}
		return ""
	})
}

// rotate gives a receiver the secret that a rotation returns.
func (w *stories) rotate(s *story) {
	w.t.Helper()
	var rotated struct{ Secret string }
	w.api().Must(w.t, http.MethodPost, "/v1/callbacks/"+s.id+"/rotate-secret", map[string]any{}, &rotated)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets[s.id], w.healthy[s.id] = rotated.Secret, true
}

func (w *stories) deliveriesOf(s *story, status string) (events []string) {
	w.t.Helper()
	items, err := harness.Items[struct{ Event string }](w.api(),
		"/v1/callbacks/"+s.id+"/deliveries?limit=100&status="+status)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, item := range items {
		events = append(events, item.Event)
	}
	return events
}

// waits is what one sees while the relay tries again.
func (w *stories) waits(s *story) string {
	if len(w.deliveriesOf(s, "retrying")) == 0 {
		return "nothing is being retried"
	}
	return ""
}

// disabled is what one sees of a disabled callback.
func (w *stories) disabled(s *story) string {
	var cb struct{ State string }
	w.api().Must(w.t, http.MethodGet, "/v1/callbacks/"+s.id, nil, &cb)
	if cb.State != "disabled" {
		return "the callback is " + cb.State
	}
	return ""
}

// hurry has the first that waits be tried again now, once after each attempt: a delivery that has ended would be
// replayed. Such an attempt is not counted.
func (w *stories) hurry(s *story) {
	w.t.Helper()
	items, err := harness.Items[struct {
		Event    string
		Attempts int
	}](w.api(), "/v1/callbacks/"+s.id+"/deliveries?limit=1&status=retrying")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, item := range items[:min(1, len(items))] {
		attempt := fmt.Sprint(s.id, item.Event, item.Attempts)
		if w.hurried[attempt] {
			continue
		}
		a, err := w.api().Call(http.MethodPost, "/v1/callbacks/"+s.id+"/deliveries/"+item.Event+"/retry", nil)
		if err != nil {
			w.t.Fatal(err)
		}
		w.hurried[attempt] = a.Status/100 == 2 // 409: an earlier event of the order waits
	}
}

// failed is what one sees after the last attempts.
func (w *stories) failed(s *story) string {
	w.t.Helper()
	if failed := len(w.deliveriesOf(s, "failed")); failed != 2 {
		return fmt.Sprintf("%d have failed for good", failed)
	}
	return ""
}

// fiveDays has an attempt be made once the five days are over, and is what one sees then.
func (w *stories) fiveDays(s *story) string {
	w.t.Helper()
	if left := time.Until(w.over); left > 0 {
		return fmt.Sprintf("the five days are over in %s", left)
	}
	w.hurry(s)
	return w.disabled(s)
}

// outage is how long a receiver may fail, and almostOver how much of it is left to a relay that starts: one that finds
// it over when it starts gives the receiver another chance.
const (
	outage     = 5 * 24 * time.Hour
	almostOver = 30 * time.Second
)

// pass has time pass while the relay does not run: almost five days for one callback, whose receiver fails, and all but
// the last attempt for the first order of the other.
func (w *stories) pass(callback, exhausted string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), harness.Patience)
	defer cancel()
	server, err := natsd.Start(natsd.Config{Dir: w.dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	defer server.Stop()
	nc, err := server.Connect()
	if err != nil {
		w.t.Fatal(err)
	}
	defer nc.Close()
	keys, err := store.KeysFromFile(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := store.Open(ctx, store.Config{
		Conn: nc, Sealer: sealer, Log: slog.New(slog.DiscardHandler),
		Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: 30 * 24 * time.Hour},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	doc, revision, err := s.Cursors.Get(ctx, store.CallbackCursor(callback))
	if err != nil || doc.Health.FailingSince.IsZero() {
		w.t.Fatalf("the cursor of %s: failing since %s, %v", callback, doc.Health.FailingSince, err)
	}
	w.over = time.Now().Add(almostOver).UTC()
	doc.Health.FailingSince = w.over.Add(-outage)
	if _, err := s.Cursors.Update(ctx, store.CallbackCursor(callback), doc, revision); err != nil {
		w.t.Fatal(err)
	}
	key := store.LaneKey(store.CallbackCursor(exhausted), w.orders[0])
	lane, revision, err := s.Lanes.Get(ctx, key)
	if err != nil {
		w.t.Fatal(err)
	}
	lane.Attempts, lane.Next = len(retries), time.Time{}
	if _, err := s.Lanes.Update(ctx, key, lane, revision); err != nil {
		w.t.Fatal(err)
	}
}

var storyRow = regexp.MustCompile(`(?m)^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$`)

// documentedStories returns the calls of the table in docs/receiving.md by what happened.
func documentedStories(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/receiving.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## When deliveries have failed\n")
	if !found {
		t.Fatal("docs/receiving.md has no section about deliveries that have failed")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	rows := map[string]string{}
	for _, row := range storyRow.FindAllStringSubmatch(section, -1) {
		if row[1] != "what happened" && row[1] != "---" {
			rows[row[1]] = row[2]
		}
	}
	return rows
}
