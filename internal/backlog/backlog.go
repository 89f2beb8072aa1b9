// Package backlog says how much waits for a callback and since when: exactly where the events are at hand, and by an
// estimate where they are still to be read. The log itself is asked only for what cannot be known otherwise, at most every
// ten seconds, and never by who decides about deliveries. Begin reading at Estimate.Waiting.
package backlog

import (
	"context"
	"math"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// countEvery bounds how often the log is asked what waits for a callback that reads nothing and has never read.
	countEvery = 10 * time.Second
	// maxCounted bounds how many orders with more waiting than their lanes list are counted for one callback.
	maxCounted = 16
	// maxSampled is how many events are looked at for a filter that subjects cannot express.
	maxSampled = 1000
)

// Estimate is what is known of the events that wait unread for one callback.
type Estimate struct {
	density    float64   // share of the log's entries that are the callback's own, as seen while reading, or counted
	lastRead   time.Time // log time of the last event offered
	counted    time.Time // when what waits unread was last counted
	none       bool      // nothing was found then
	unlisted   int       // events behind what lanes list, as counted at unlistedAt
	unlistedAt time.Time
	oldest     uint64 // the oldest event that waits, of which oldestAt is known
	oldestAt   time.Time
	gone       gone // what left the log unread
	goneLanes  gone // what left the log of what lanes do not list
}

// gone is the last stretch of the log that was lost to a callback.
type gone struct {
	from, through uint64
	counted       int // events of it, by estimate
}

// add adds a stretch and returns how many more events are lost by that. A stretch has at least one. One that goes on
// where the last has ended is a part of that.
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

// Gone returns how many events of the callback have left the log with these stretches before they were read: of what
// was never read by the density of what was, of what lanes do not list at least one.
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

// Passed notes that so many of the log's positions were passed, and how many of them were the callback's own.
func (e *Estimate) Passed(positions, own uint64) {
	e.density, e.none = min(float64(own)/float64(positions), 1), false
}

// State is where a callback is.
type State struct {
	Target  *delivery.Target
	Cursor  *cursor.Cursor
	Offered uint64 // the last position that was offered to it, if it is behind
	Log     uint64 // up to where the log has been read for those that are not behind
	Behind  bool   // it does not read with those
	Idle    bool   // it is behind, and nothing is being read for it
	Halted  bool   // nothing may be read for it
	Held    *delivery.AtHand
}

// Waiting is what waits for a callback.
type Waiting struct {
	Events int
	Since  time.Time // log time of the oldest; zero if nothing waits, or it is not known
}

// Waiting returns what waits, as far as is known, and what the log must be asked for to know more.
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
			if s.Halted && !e.none { // it left the shared reader at an event that was its own
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

// ask returns what the log must be asked for: what waits for a callback that makes no progress where nothing that it has
// read shows it (one that was registered paused, or was paused when this process started), and what waits behind what
// lanes list.
func (e *Estimate) ask(s State, now time.Time) Question {
	q := Question{target: s.Target}
	if from := s.Offered + 1; s.Idle && e.density == 0 && s.Log >= from && now.Sub(e.counted).Abs() >= countEvery {
		e.counted = now
		q.from, q.through = from, s.Log
	}
	if manyListed(s) && now.Sub(e.unlistedAt).Abs() >= countEvery {
		q.unlisted = s.Cursor.Unlisted()
		q.unlisted = q.unlisted[:min(len(q.unlisted), maxCounted)]
	}
	return q
}

// manyListed reports whether a lane may list all that it can.
func manyListed(s State) bool {
	return s.Cursor.Lanes() > 0 && s.Cursor.Unsettled() >= cursor.LaneEntries
}

// Question is what the log must be asked for. Who asks for a callback's status reads it.
type Question struct {
	target        *delivery.Target
	from, through uint64          // 0, or from where what waits must be counted, and up to where it counts
	unlisted      []cursor.Refill // lanes whose unlisted events must be counted
	oldest        uint64          // 0, or the event whose age must be known

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

// Ask asks the log. What it cannot tell now stays as it was.
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
			q.unlisted = nil // what was counted before holds
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

// count counts the callback's events from a position on, of which filters select at least all, and returns when the log took the
// first of them. Status and change are no part of a subject: where the callback's filter asks for them the first events are
// looked at, and as many of the others are taken to be the callback's own.
func (q *Question) count(ctx context.Context, events *store.Events, from uint64, filters []string) (uint64, time.Time, error) {
	if f := &q.target.Callback.Filter; len(f.OrderStatuses) == 0 && !f.ChangedOnly {
		return events.Waiting(ctx, from, filters)
	}
	heads, more, err := events.ScanHeads(ctx, from, filters, maxSampled)
	if err != nil {
		return 0, time.Time{}, err
	}
	var own uint64
	var since time.Time
	for _, head := range heads {
		if ev := delivery.EventOf(head); q.target.Matches(&ev) {
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

// Learn notes what the log has answered.
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
