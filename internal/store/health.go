package store

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// quietFirst is how long a stream must have failed no write before the probe that heals it.
	// Each time it fails again soon after, the wait doubles up to quietMost, so that the log does
	// not report an outage as over too early.
	quietFirst = time.Second
	quietMost  = time.Minute
	// cutMost is how long there may be no connection before that is an outage: going over to
	// another node takes less.
	cutMost = time.Second
	// calm is how long nothing must have failed for an outage to be over: after a cluster's return
	// stream by stream elects its leader.
	calm = 3 * time.Second
	// deadWrites is how many writes in a row, over deadAfter, must get no response before a stream
	// of the embedded server is taken for dead.
	deadWrites = 3
	// deadAfter is that time. A busy disk responds sooner.
	deadAfter = time.Minute
	// waited is for how long a request must have waited for its response before that is the store's
	// failure. One that had less time came at the end of its caller's: the limits of single requests
	// are longer.
	waited = 300 * time.Millisecond
)

// Health reports whether the store takes writes and serves reads. It judges by how the reads and
// writes of this process ended. Failures are recorded per stream, as each has a leader and limits
// of its own. One outage lasts from the first failure until nothing fails for a while; it is logged
// once when it begins and once when it ends. A failure is healed by a success of the same kind at
// the same stream, or by Store.Run. After a write found no room, a smaller one proves nothing: the
// next may be as large as the one that was refused.
type Health struct {
	log *slog.Logger
	cut atomic.Pointer[time.Time] // since when there is no connection; nil: there is one

	mu        sync.Mutex
	since     time.Time // of the outage; zero: none
	fine      time.Time // since when nothing fails in spite of the outage
	watched   bool      // Store.Run ends the outage when that has lasted; without it the first moment does
	bad       map[target]*failure
	flap      map[target]flap
	answered  map[target]time.Time // when the store last responded in a way that shows it works
	silent    map[string]*silence  // streams whose writes get no response
	deadAfter time.Duration        // the constant of the name; tests have no minute
	outages   int
	before    time.Duration // all outages that have ended
}

// target is what can fail by itself: the reads or the writes of a stream. The connection is the
// target without a stream.
type target struct {
	stream string
	write  bool
}

type failure struct {
	since, last time.Time
	why         Reason
	err         error
	size        int // of the largest write refused
	full        int // the same of those for which there was no room
}

// flap remembers a target that was healed by a probe and not by a write: it may fail again at once.
type flap struct {
	at    time.Time
	quiet time.Duration
}

// silence is a run of writes to a stream none of which got a response.
type silence struct {
	first time.Time
	n     int
}

// Trouble is an outage.
type Trouble struct {
	Since         time.Time // zero: there is none
	Reason        Reason
	Writes, Reads bool // what fails
	Err           error
}

func newHealth(log *slog.Logger) *Health {
	return &Health{
		log: log, bad: map[target]*failure{}, flap: map[target]flap{}, answered: map[target]time.Time{},
		silent:    map[string]*silence{},
		deadAfter: deadAfter,
	}
}

// wrote notes how a write of size bytes, sent at a given time, ended. A refused condition is a
// response: the store works.
func (h *Health) wrote(stream string, size int, sent time.Time, err error) {
	h.observe(target{stream, true}, size, sent, err)
}

// read notes how a read ended.
func (h *Health) read(stream string, sent time.Time, err error) {
	h.observe(target{stream, false}, 0, sent, err)
}

// connection notes whether there is one. For a long time nothing else may show it.
func (h *Health) connection(there bool) {
	now := time.Now()
	switch since := h.cut.Load(); {
	case there:
		h.cut.Store(nil)
		h.observe(target{}, 0, now, nil)
	case since == nil:
		h.cut.Store(&now)
	case now.Sub(*since) >= cutMost:
		h.observe(target{}, 0, now, nats.ErrConnectionReconnecting)
	}
}

// reachable refuses requests to NATS while there is no connection. The client library would refuse
// them too, but while it tries to connect its calls do not return.
func (h *Health) reachable() error {
	if h.cut.Load() != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, nats.ErrConnectionReconnecting)
	}
	return nil
}

func (h *Health) observe(at target, size int, sent time.Time, err error) {
	var why Reason
	if err != nil {
		reason, kind := judge(err)
		if why = reason; why == "" && errors.Is(kind, ErrUnclear) {
			return // given up, or in flight: neither one nor the other
		}
		if why == Unreachable && at.stream != "" {
			return // connection notes that, if it lasts
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	switch {
	case why == "":
		h.answered[at] = now
	case why == NoAnswer && (sent.Before(h.answered[at]) || now.Sub(sent) < waited):
		return // later responses count for more; or it shows nothing but its caller's time
	}
	if at.write {
		h.countUnanswered(at.stream, why == NoAnswer, now)
	}
	f := h.bad[at]
	if why == "" {
		if f != nil && (f.full == 0 || err == nil && size >= f.full) {
			h.heal(at)
		}
		return
	}
	if f == nil {
		f = &failure{since: now}
		h.bad[at] = f
		if r, ok := h.flap[at]; ok {
			r.quiet = min(2*r.quiet, quietMost)
			if now.Sub(r.at) > quietMost {
				r.quiet = quietFirst
			}
			h.flap[at] = r
		}
	}
	f.last, f.why, f.err, f.size = now, why, err, max(f.size, size)
	if why == Full {
		f.full = max(f.full, size)
	}
	h.fine = time.Time{}
	if !h.since.IsZero() {
		return
	}
	h.since = now
	h.outages++
	what := "the store does not take writes; nothing is read from the vendor until it does"
	if !at.write && at.stream != "" {
		what = "the store does not answer reads"
	}
	h.log.Error(what, "reason", string(why), "stream", at.stream, "error", err)
}

// heal ends the trouble of a target, and with the last of them sooner or later the outage. Called
// with the lock held.
func (h *Health) heal(at target) {
	if _, was := h.bad[at]; !was {
		return
	}
	delete(h.bad, at)
	if len(h.bad) > 0 {
		return
	}
	if h.fine = time.Now(); !h.watched {
		h.end()
	}
}

// end ends the outage. Called with the lock held.
func (h *Health) end() {
	took := h.fine.Sub(h.since)
	h.before += took
	h.since, h.fine = time.Time{}, time.Time{}
	h.log.Info("the store works again", "after", took.Round(time.Millisecond).String())
}

// watch sets whether somebody calls settle.
func (h *Health) watch(watched bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watched = watched
}

// countUnanswered counts the writes to a stream that got no response. Called with the lock held.
func (h *Health) countUnanswered(stream string, silent bool, now time.Time) {
	switch s := h.silent[stream]; {
	case !silent:
		delete(h.silent, stream)
	case s == nil:
		h.silent[stream] = &silence{first: now, n: 1}
	default:
		s.n++
	}
}

// unresponsive returns a stream whose writes have got no response for too long, "" if there is
// none. A probe that finds a leader does not end the silence, only a response does.
func (h *Health) unresponsive() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for stream, s := range h.silent {
		if s.n >= deadWrites && time.Since(s.first) >= h.deadAfter {
			return stream
		}
	}
	return ""
}

// settle ends the outage if nothing has failed for long enough.
func (h *Health) settle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.since.IsZero() && !h.fine.IsZero() && time.Since(h.fine) >= calm {
		h.end()
	}
}

// probed ends the trouble of a target that was looked at, unless it has failed again lately.
func (h *Health) probed(at target) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.bad[at]
	if f == nil {
		return
	}
	r, ok := h.flap[at]
	if !ok {
		r.quiet = quietFirst
	}
	now := time.Now()
	if now.Sub(f.last) < r.quiet {
		return
	}
	r.at = now
	h.flap[at] = r
	h.heal(at)
}

// troubled returns what fails now, and how.
func (h *Health) troubled() map[target]failure {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.bad) == 0 {
		return nil
	}
	targets := make(map[target]failure, len(h.bad))
	for at, f := range h.bad {
		targets[at] = *f
	}
	return targets
}

// Trouble returns the present outage; its Since is zero when there is none. The reason is that of
// the target that has failed longest.
func (h *Health) Trouble() Trouble {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.bad) == 0 { // it is as good as over
		return Trouble{}
	}
	t := Trouble{Since: h.since}
	oldest := slices.SortedFunc(maps.Keys(h.bad), func(a, b target) int {
		return h.bad[a].since.Compare(h.bad[b].since)
	})
	for i, at := range oldest {
		f := h.bad[at]
		t.Writes = t.Writes || at.write || at.stream == ""
		t.Reads = t.Reads || !at.write
		if i == 0 || at.stream == "" { // without a connection nothing else matters
			t.Reason, t.Err = f.why, f.err
		}
	}
	return t
}

// Outages returns how many outages there were, and how long they took together; the present one
// counts as far as it goes.
func (h *Health) Outages() (n int, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	took = h.before
	switch {
	case !h.fine.IsZero():
		took += h.fine.Sub(h.since)
	case !h.since.IsZero():
		took += time.Since(h.since)
	}
	return h.outages, took
}
