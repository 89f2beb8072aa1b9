// Package backlog calculates how much waits for a callback, and since when: exactly for events that were read, and by
// an estimate for those that were not. What cannot be known otherwise is asked of the log, at most every ten seconds,
// and never by the goroutine that decides about deliveries. Begin reading at Estimate.Waiting.
package backlog

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// countEvery is how often the log is asked at most about a callback that reads nothing and has never read anything.
	countEvery = 10 * time.Second
	// sampleEvery is the same for a callback of which a sample had no events: it would take one again each time.
	sampleEvery = time.Minute
	// maxCounted is the largest number of orders of one callback for which the events that lanes do not list are
	// counted.
	maxCounted = 16
	// maxSampled is how many events are read to estimate how many match a filter that subjects cannot express.
	maxSampled = 1000
)

// Estimate is what is known of the events that wait unread for one callback.
type Estimate struct {
	density    float64   // the callback's own part of the log's events, by what was read or counted
	lastRead   time.Time // log time of the last event offered
	counted    time.Time // when unread events were last counted
	none       bool      // that count was 0
	unlisted   int       // waiting events that lanes do not list, as counted at unlistedAt
	unlistedAt time.Time
	oldest     uint64 // the event whose log time oldestAt is
	oldestAt   time.Time
	gone       gone // unread events that have left the log
	goneLanes  gone // waiting events that lanes do not list and that have left the log
}

// gone is the last stretch of positions that have left the log before a callback got their events.
type gone struct {
	from, through uint64
	counted       int // its events, by estimate
}

// add adds a stretch, and returns how many more events have left the log. A stretch has at least one event. A stretch
// that begins where the last one has ended is counted as one with it.
func (g *gone) add(from, through uint64, density float64) (more int) {
	if from != g.through+1 || g.through == 0 {
		*g = gone{from: from}
	}
	g.through = max(g.through, through)
	n := max(int(math.Round(float64(g.through-g.from+1)*density)), 1)
	more = max(n-g.counted, 0)
	g.counted += more
	return more
}

// Gone returns how many events of the callback have left the log unread with these stretches. It is estimated by
// density for stretches that were never read; of events that lanes do not list it is at least one.
func (e *Estimate) Gone(stretches []cursor.Stretch) (events int) {
	var lanes cursor.Stretch
	for _, s := range stretches {
		switch {
		case s.Order == "":
			events += e.gone.add(s.From, s.To, e.density)
		case lanes.To == 0:
			lanes = s
		default:
			lanes.From, lanes.To = min(lanes.From, s.From), max(lanes.To, s.To)
		}
	}
	if lanes.To > 0 {
		events += e.goneLanes.add(lanes.From, lanes.To, 0)
	}
	return events
}

// Read notes the log time of an event that was offered to the callback.
func (e *Estimate) Read(at time.Time) { e.lastRead = at }

// Passed notes how many positions of the log were read, and how many of their events were the callback's own.
func (e *Estimate) Passed(positions, own uint64) {
	e.density, e.none = min(float64(own)/float64(positions), 1), false
}

// State is the present state of a callback.
type State struct {
	Target  *delivery.Target
	Cursor  *cursor.Cursor
	Offered uint64 // the last position that was offered to it, if it is behind
	Log     uint64 // the position up to which the shared reader has read
	Behind  bool   // it does not read with the shared reader
	Idle    bool   // it is behind, and nothing is being read for it
	Halted  bool   // nothing may be read for it
	Held    *delivery.AtHand
}

// Waiting is what waits for a callback.
type Waiting struct {
	Events int
	Since  time.Time // log time of the oldest event; zero if none waits, or this is not known
}

// Waiting returns what waits, as far as that is known, and a question for the log about the rest.
func (e *Estimate) Waiting(s State, now time.Time) (Waiting, Question) {
	q := e.ask(s, now)
	w := Waiting{Events: s.Cursor.Unsettled()}
	if n := e.unlisted; n > 0 && manyListed(s) && len(s.Cursor.Unlisted()) > 0 {
		w.Events += n
	}
	oldest, waits := s.Cursor.Oldest()
	if s.Behind && s.Log > s.Cursor.Position() {
		if unread := s.Log - min(s.Log, s.Offered); unread > 0 {
			n := math.Round(float64(unread) * e.density)
			if s.Halted && !e.none { // it has left the shared reader because of an event of its own
				n = max(n, 1)
			}
			w.Events += int(n)
			if !waits && n >= 1 {
				w.Since = e.lastRead
			}
		}
	}
	if waits {
		switch ev := s.Held.Get(oldest); {
		case ev != nil:
			w.Since = ev.Time
		case e.oldest == oldest:
			w.Since = e.oldestAt
		default:
			q.oldest = oldest
		}
	}
	return w, q
}

// ask returns what the log must be asked: how many events wait for a callback that reads nothing and has never read
// anything (it is paused since it was registered, or since this process started), and how many wait that lanes do not
// list.
func (e *Estimate) ask(s State, now time.Time) Question {
	q := Question{target: s.Target}
	if from := s.Offered + 1; s.Idle && e.density == 0 && s.Log >= from &&
		now.Sub(e.counted).Abs() >= e.countAgain(s.Target) {
		e.counted = now
		q.from, q.through = from, s.Log
	}
	if manyListed(s) && now.Sub(e.unlistedAt).Abs() >= countEvery {
		q.unlisted = s.Cursor.Unlisted()
		q.unlisted = q.unlisted[:min(len(q.unlisted), maxCounted)]
	}
	return q
}

// countAgain returns the least time between two counts for a callback that reads nothing: sampleEvery where a sample
// has found nothing.
func (e *Estimate) countAgain(t *delivery.Target) time.Duration {
	if e.none && sampled(t) {
		return sampleEvery
	}
	return countEvery
}

// sampled reports whether subjects cannot express a callback's filter, so that events must be read to count its own.
func sampled(t *delivery.Target) bool {
	return len(t.Callback.Filter.OrderStatuses) > 0 || t.Callback.Filter.ChangedOnly
}

// manyListed reports whether a lane may be full, so that more events wait than it lists.
func manyListed(s State) bool {
	return s.Cursor.Lanes() > 0 && s.Cursor.Unsettled() >= cursor.LaneEntries
}

// Question is what the log must be asked about a callback, and the result. The goroutine that wants the callback's
// status asks it.
type Question struct {
	target        *delivery.Target
	from, through uint64          // the positions between which unread events must be counted; 0: none
	unlisted      []cursor.Refill // lanes whose unlisted events must be counted
	oldest        uint64          // the event whose log time must be known; 0: none

	counted        bool
	waiting        uint64
	waitingSince   time.Time
	unlistedEvents int
	oldestAt       time.Time
}

// Empty reports whether there is nothing to ask.
func (q *Question) Empty() bool { return q.from == 0 && len(q.unlisted) == 0 && q.oldest == 0 }

// Generation returns the generation of the callback that the question is about.
func (q *Question) Generation() string { return q.target.Callback.Generation }

// Ask asks the log. What cannot be read now stays as it was.
func (q *Question) Ask(ctx context.Context, events *store.Events) {
	if filters, none := q.target.Subjects(""); q.from > 0 && !none {
		if n, since, err := q.count(ctx, events, q.from, filters); err == nil {
			q.counted, q.waiting, q.waitingSince = true, n, since
		}
	}
	for _, lane := range q.unlisted {
		filters, none := q.target.Subjects(lane.Order)
		if none {
			continue
		}
		n, _, err := q.count(ctx, events, lane.From, filters)
		if err != nil {
			q.unlisted = nil // the count before stays
			break
		}
		q.unlistedEvents += int(n)
	}
	if q.oldest > 0 {
		if ev, err := events.Get(ctx, q.oldest); err == nil {
			q.oldestAt = ev.Time
		}
	}
}

// count returns how many of the callback's events there are from a position on, and the log time of the first. Filters
// must select at least all of them. Status and change are no part of a subject: if the callback's filter asks for them,
// count reads the first events and estimates how many of the others match.
func (q *Question) count(
	ctx context.Context, events *store.Events, from uint64, filters []string,
) (uint64, time.Time, error) {
	if !sampled(q.target) {
		return events.Waiting(ctx, from, filters)
	}
	heads, more, err := events.ScanHeads(ctx, from, filters, maxSampled)
	if err != nil {
		return 0, time.Time{}, err
	}
	var own uint64
	var since time.Time
	for _, head := range heads {
		switch ev, err := delivery.EventOfHead(ctx, head, events); {
		case errors.Is(err, store.ErrNotFound): // it has left the log meanwhile
		case err != nil:
			return 0, time.Time{}, err
		case q.target.Matches(&ev):
			if own++; own == 1 {
				since = head.Time
			}
		}
	}
	if !more || own == 0 {
		return own, since, nil
	}
	all, _, err := events.Waiting(ctx, from, filters)
	return max(all*own/uint64(len(heads)), own), since, err
}

// Learn takes the results of a question.
func (e *Estimate) Learn(q *Question, now time.Time) {
	e.none = q.counted && q.waiting == 0 || !q.counted && e.none
	if q.waiting > 0 {
		e.Passed(q.through-q.from+1, q.waiting)
		if e.lastRead.IsZero() {
			e.lastRead = q.waitingSince
		}
	}
	if len(q.unlisted) > 0 {
		e.unlisted, e.unlistedAt = q.unlistedEvents, now
	}
	if !q.oldestAt.IsZero() {
		e.oldest, e.oldestAt = q.oldest, q.oldestAt
	}
}
