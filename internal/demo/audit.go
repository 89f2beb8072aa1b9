package demo

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// event is an event as a receiver reads it, without the relay's own types.
type event struct {
	ID, Type, Subject, Site, Sequence string

	Time time.Time // the vendor's CreatedAt
	Data struct {
		Order          json.RawMessage
		PreviousStatus *string
		Changes        []change
		Notification   *struct{ ID *string }
	}
	sequence uint64
}

// published is when the event was published: the sequence counts microseconds.
func (e event) published() time.Time { return time.UnixMicro(int64(e.sequence)) }

func readEvent(raw []byte) (event, error) {
	var e event
	if err := json.Unmarshal(raw, &e); err != nil {
		return e, fmt.Errorf("read an event: %w", err)
	}
	var err error
	if e.sequence, err = strconv.ParseUint(e.Sequence, 10, 64); err != nil {
		return e, fmt.Errorf("read the sequence of event %s: %w", e.ID, err)
	}
	return e, nil
}

// audit keeps what has arrived and compares it with the vendor's ledger: the two ends of the way, and nothing between.
type audit struct {
	mu          sync.Mutex
	events      map[string]bool       // taken, by id
	orders      map[string]*sightings // by subject
	deliveries  int
	repeats     int
	misordered  int
	unverified  int
	lastArrival time.Time
	toCallback  []time.Duration // from the vendor's CreatedAt
	sinceEvent  []time.Duration // of it, from the event on
}

// sightings are an order's events as they arrived, repeats aside.
type sightings struct {
	last   uint64              // the highest sequence
	states [][sha256.Size]byte // of the order's JSON
	ids    map[string]int      // of the vendor's notifications
	noID   int                 // the older form has none
}

func newAudit() *audit {
	return &audit{events: map[string]bool{}, orders: map[string]*sightings{}}
}

// arrived records a delivery and reports whether it brought something new.
func (a *audit) arrived(e event, at time.Time) (first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deliveries++
	a.lastArrival = time.Now()
	if a.events[e.ID] {
		a.repeats++
		return false
	}
	a.events[e.ID] = true
	o := a.orders[e.Subject]
	if o == nil {
		o = &sightings{ids: map[string]int{}}
		a.orders[e.Subject] = o
	}
	if e.sequence <= o.last {
		a.misordered++
	}
	o.last = max(o.last, e.sequence)
	o.states = append(o.states, digest(e.Data.Order))
	switch {
	case e.Data.Notification == nil: // reconciled: no notification is behind it
	case e.Data.Notification.ID == nil:
		o.noID++
	default:
		o.ids[strings.ToLower(*e.Data.Notification.ID)]++ // in any case: the vendor writes it in either
	}
	a.toCallback = append(a.toCallback, at.Sub(e.Time))
	a.sinceEvent = append(a.sinceEvent, at.Sub(e.published()))
	return true
}

// refused records a delivery whose signature does not verify.
func (a *audit) refused() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unverified++
}

// progress answers how many events have arrived and when the last one did.
func (a *audit) progress() (events int64, last time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return int64(len(a.events)), a.lastArrival
}

// has reports whether an event has arrived.
func (a *audit) has(event string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.events[event]
}

// verdict is what a run came to.
type verdict struct {
	events, deliveries, repeats int
	waiting, failed             int // with --callback: the receiver has not taken them, and the relay says so

	lost       int // handed out by the vendor, never arrived
	misordered int
	doubled    int // more events than notifications
	altered    int // an order that the vendor never served so, or an older state after a newer one
	unverified int

	toCallback, sinceEvent spread
}

func (v verdict) broken() bool { return v.lost+v.misordered+v.doubled+v.altered+v.unverified > 0 }

// judge compares what arrived with the vendor's ledger.
func (a *audit) judge(l sandbox.Ledger) verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := verdict{
		events: len(a.events), deliveries: a.deliveries, repeats: a.repeats, misordered: a.misordered, unverified: a.unverified,
		toCallback: newSpread(a.toCallback), sinceEvent: newSpread(a.sinceEvent),
	}
	known := map[string]bool{}
	for _, o := range l.Orders {
		known[o.ID] = true
		seen := a.orders[o.ID]
		if seen == nil {
			seen = &sightings{}
		}
		lost, doubled := seen.against(o.Notifications)
		v.lost, v.doubled, v.altered = v.lost+lost, v.doubled+doubled, v.altered+seen.notServed(o.States)
	}
	for id, seen := range a.orders {
		if !known[id] {
			v.altered += len(seen.states)
		}
	}
	return v
}

// against compares an order's events with the notifications that left the vendor: one for each, and none twice.
func (s *sightings) against(notes []sandbox.NotificationRecord) (lost, doubled int) {
	noID, left := 0, map[string]int{}
	for _, n := range notes {
		switch {
		case n.HandedOutAt.IsZero() && !n.Dropped: // still in the vendor's queue: not handed on in time, whoever is to blame
			lost++
		case n.Lost || n.Dropped:
		case n.Form == sandbox.Older:
			noID++
		default:
			left[strings.ToLower(n.ID)]++
		}
	}
	for id, n := range left {
		lost, doubled = lost+max(0, n-s.ids[id]), doubled+max(0, s.ids[id]-n)
	}
	for id, n := range s.ids {
		if left[id] == 0 {
			doubled += n
		}
	}
	return lost + max(0, noID-s.noID), doubled + max(0, s.noID-noID)
}

// notServed counts the order's states that the vendor never served, or had served before the one that arrived earlier.
func (s *sightings) notServed(states []sandbox.OrderState) (altered int) {
	var served [][sha256.Size]byte
	for _, state := range states {
		served = append(served, digest(state.JSON))
	}
	at := 0
	for _, state := range s.states {
		i := slices.Index(served[at:], state)
		if i < 0 {
			altered++
			continue
		}
		at += i
	}
	return altered
}

// digest stands for an order's JSON with every digit and letter of it; only white space between them does not count.
func digest(raw json.RawMessage) [sha256.Size]byte {
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return sha256.Sum256(raw)
	}
	return sha256.Sum256(b.Bytes())
}

// spread is how a set of durations lies.
type spread struct{ p50, p99 time.Duration }

func newSpread(d []time.Duration) spread {
	if len(d) == 0 {
		return spread{}
	}
	d = slices.Sorted(slices.Values(d))
	return spread{p50: d[(len(d)-1)/2], p99: d[(len(d)-1)*99/100]}
}
