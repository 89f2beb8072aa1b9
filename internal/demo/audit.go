package demo

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/ledger"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// published is when an event was published: its sequence counts microseconds.
func published(e ledger.Event) time.Time {
	micros, _ := strconv.ParseInt(e.Sequence, 10, 64) // what is no number was published at no time
	return time.UnixMicro(micros)
}

// receivedEvents keeps what has arrived, and compares it with the vendor's ledger.
type receivedEvents struct {
	mu          sync.Mutex
	known       map[string]bool // events, by id
	events      []ledger.Event  // in the order of their arrival
	deliveries  int
	repeats     int
	unverified  int
	lastArrival time.Time
	toCallback  []time.Duration // from the vendor's CreatedAt
	sinceEvent  []time.Duration // of it, from the event on
}

func newReceivedEvents() *receivedEvents { return &receivedEvents{known: map[string]bool{}} }

// arrived records a delivery and reports whether it brought something new.
func (a *receivedEvents) arrived(e ledger.Event, at time.Time) (first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deliveries++
	a.lastArrival = time.Now()
	if a.known[e.ID] {
		a.repeats++
		return false
	}
	a.known[e.ID] = true
	a.events = append(a.events, e)
	a.toCallback = append(a.toCallback, at.Sub(e.Time))
	a.sinceEvent = append(a.sinceEvent, at.Sub(published(e)))
	return true
}

// refused records a delivery that is not valid.
func (a *receivedEvents) refused() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unverified++
}

// progress returns how many events have arrived and when the last one did.
func (a *receivedEvents) progress() (events int64, last time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return int64(len(a.events)), a.lastArrival
}

// has reports whether an event has arrived.
func (a *receivedEvents) has(event string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known[event]
}

// verdict is the result of a run.
type verdict struct {
	ledger.Verdict
	unverified int

	events, deliveries, repeats int
	waiting, failed             int // with --callback: not taken by the receiver, as the relay reports

	toCallback, sinceEvent spread
}

func (v verdict) broken() bool { return v.Lost+v.Misordered+v.Doubled+v.Altered+v.unverified > 0 }

// judge compares what arrived with the vendor's ledger. What is still in the vendor's queue is lost
// as well: it was not fetched in time.
func (a *receivedEvents) judge(l sandbox.Ledger) verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := verdict{
		Verdict: ledger.Check(l, a.events, ledger.NoExceptions), unverified: a.unverified,
		events: len(a.events), deliveries: a.deliveries, repeats: a.repeats,
		toCallback: newSpread(a.toCallback), sinceEvent: newSpread(a.sinceEvent),
	}
	for _, o := range l.Orders {
		for _, n := range o.Notifications {
			if n.HandedOutAt.IsZero() && !n.Dropped {
				v.Lost++
			}
		}
	}
	return v
}

// spread is the median and the 99th percentile of a set of durations.
type spread struct{ p50, p99 time.Duration }

func newSpread(d []time.Duration) spread {
	if len(d) == 0 {
		return spread{}
	}
	d = slices.Sorted(slices.Values(d))
	return spread{p50: d[(len(d)-1)/2], p99: d[(len(d)-1)*99/100]}
}
