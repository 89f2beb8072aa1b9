package demo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/ledger"
)

// follower reads from the relay's records what a developer's own receiver is sent: the feed of
// events and the deliveries.
type follower struct {
	api     api
	audit   *receivedEvents
	journey *printer

	after  string                  // where the feed goes on
	events map[string]ledger.Event // published and not delivered yet
	seen   map[string]seenDelivery // the deliveries' last state
	health string
}

// seenDelivery is a state of a delivery that has been printed.
type seenDelivery struct {
	status   string
	attempts int
}

// delivery is an item of GET /v1/callbacks/{id}/deliveries.
type delivery struct {
	Event, Status, Reason string
	Attempts              int
	At, NextAttemptAt     time.Time
	LastAttempt           struct {
		DurationMillis float64
		Outcome, Error string
		Status         int
	}
}

func newFollower(a api, au *receivedEvents, j *printer) *follower {
	return &follower{api: a, audit: au, journey: j, events: map[string]ledger.Event{}, seen: map[string]seenDelivery{}}
}

// run reads twice a second until ctx ends.
func (f *follower) run(ctx context.Context) error {
	for more := true; more; more = backoff.Sleep(ctx, 500*time.Millisecond) {
		if err := f.readWhole(ctx); err != nil {
			return err
		}
	}
	return nil
}

// readWhole reads to the end also when ctx ends meanwhile: what an interrupted request would have
// returned would be missing.
func (f *follower) readWhole(ctx context.Context) error {
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return f.read(whole)
}

// read takes what is new and prints it. Deliveries are listed before events, so that every
// delivery's event is known.
func (f *follower) read(ctx context.Context) error {
	fresh, err := f.freshDeliveries(ctx)
	if err != nil {
		return err
	}
	if err := f.readEvents(ctx); err != nil {
		return err
	}
	for _, d := range fresh {
		f.seen[d.Event] = seenDelivery{d.Status, d.Attempts}
		e, known := f.events[d.Event]
		if !known {
			continue
		}
		at := d.At.Add(time.Duration(d.LastAttempt.DurationMillis * float64(time.Millisecond)))
		if d.Status == "delivered" {
			f.journey.delivered(e, at, d.answer())
			delete(f.events, d.Event)
			continue
		}
		f.journey.attempted(e, at, d.answer())
	}
	return f.readHealth(ctx)
}

// answer describes how the receiver responded to the last attempt, in a few words.
func (d delivery) answer() string {
	said := strconv.Itoa(d.LastAttempt.Status)
	if d.LastAttempt.Status == 0 {
		said = d.LastAttempt.Outcome
	}
	if d.Status == "delivered" && d.Attempts > 1 {
		return fmt.Sprintf("%s at attempt %d", said, d.Attempts)
	}
	if d.Status == "delivered" {
		return said
	}
	if !d.NextAttemptAt.IsZero() {
		return fmt.Sprintf("%s, again at %s", said, d.NextAttemptAt.Local().Format(time.TimeOnly))
	}
	return said + ", " + d.Status
}

// freshDeliveries returns what changed since the last time, oldest first. The list is newest first:
// it is read down to what is known.
func (f *follower) freshDeliveries(ctx context.Context) ([]delivery, error) {
	var fresh []delivery
	for after := ""; ; {
		page, err := readPage[delivery](ctx, f, "/v1/callbacks/"+demoID+"/deliveries", 200, after)
		if err != nil {
			return nil, err
		}
		known := false
		for _, d := range page.Items {
			if f.seen[d.Event] == (seenDelivery{d.Status, d.Attempts}) {
				known = true
				continue
			}
			fresh = append(fresh, d)
		}
		if known || page.Next == "" {
			break
		}
		after = page.Next
	}
	slices.SortStableFunc(fresh, func(a, b delivery) int { return a.At.Compare(b.At) })
	return fresh, nil
}

// readEvents reads the feed to its end.
func (f *follower) readEvents(ctx context.Context) error {
	for {
		page, err := readPage[json.RawMessage](ctx, f, "/v1/events", 1000, f.after)
		if err != nil {
			return err
		}
		f.after = page.Next
		for _, raw := range page.Items {
			e, err := ledger.ParseEvent(raw)
			if err != nil {
				return err
			}
			f.events[e.ID] = e
		}
		if len(page.Items) == 0 {
			return nil
		}
	}
}

// page is a page of a list of the API.
type page[T any] struct {
	Items []T
	Next  string
}

func readPage[T any](ctx context.Context, f *follower, path string, limit int, after string) (p page[T], err error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if after != "" {
		query.Set("after", after)
	}
	err = f.get(ctx, path+"?"+query.Encode(), &p)
	return p, err
}

// readHealth prints when the callback's health changes: a receiver that is down is only probed, and
// then there is nothing else to see.
func (f *follower) readHealth(ctx context.Context) error {
	var c struct {
		State, Health, DisabledReason string
		Backlog                       int
	}
	if err := f.get(ctx, "/v1/callbacks/"+demoID, &c); err != nil {
		return err
	}
	health := c.Health
	if c.State != "active" {
		health = c.State
	}
	if health == f.health || health == "" {
		return nil
	}
	if f.health != "" || health != "ok" {
		f.journey.note(fmt.Sprintf("your receiver: %s, %d waiting", cmp.Or(healthInWords[health], health), c.Backlog))
	}
	f.health = health
	return nil
}

var healthInWords = map[string]string{
	"ok":       "takes everything",
	"failing":  "fails; what it did not take is tried again",
	"open":     "fails again and again; it is only probed until it answers",
	"disabled": "answered 410 and gets nothing any more",
}

// explain distinguishes what is still on its way from what is lost: an event that the receiver has
// not taken is not lost while the relay reports that it waits, or that it failed.
func (f *follower) explain(ctx context.Context, v *verdict) error {
	v.events += len(f.events) // published all the same
	for id := range f.events {
		if f.audit.has(id) {
			continue
		}
		var d struct{ Status string }
		err := f.get(ctx, "/v1/callbacks/"+demoID+"/deliveries/"+id, &d)
		if p, ok := errors.AsType[*problem](err); ok && p.Status == http.StatusNotFound {
			continue // the relay knows of no such delivery: it is lost
		}
		if err != nil {
			return err
		}
		switch d.Status {
		case "pending", "retrying":
			v.waiting++
		case "failed", "skipped", "expired":
			v.failed++
		default:
			continue
		}
		v.Lost--
	}
	return nil
}

func (f *follower) get(ctx context.Context, path string, out any) error {
	return f.api.do(ctx, http.MethodGet, path, nil, out)
}
