// Package trouble remembers when work was held up by something that is not the relay's doing: a receiver that fails, a
// callback that is paused, a vendor that does not respond. So what is late by the relay can be distinguished from what
// is late by others. Begin reading at Times.Within.
package trouble

import (
	"slices"
	"time"
)

const (
	// maxKept is how many stretches of time are remembered, the newest ones.
	maxKept = 8
	// longestCatchUp bounds the time to catch up after a trouble.
	longestCatchUp = 24 * time.Hour
)

// Ever is the beginning of a trouble of which nobody here has seen the beginning.
var Ever = time.Unix(0, 0)

// Times are the times of trouble of one callback or connection. The zero value has none. It belongs to one goroutine.
type Times struct {
	since time.Time // it is in trouble since then; zero: it is not
	past  []stretch // ascending; they do not overlap
}

type stretch struct{ from, until time.Time }

// None reports whether there is and was no trouble that could matter.
func (t *Times) None() bool { return t.since.IsZero() && len(t.past) == 0 }

// Began notes that there is trouble. It has no effect while there is.
func (t *Times) Began(at time.Time) {
	if t.since.IsZero() {
		t.since = at
	}
}

// Ended notes that the trouble is over, if there was one. What has piled up has as long again to catch up, or until
// nothing waits: so the time that counts as trouble is at most twice what was, however often it comes.
func (t *Times) Ended(now time.Time) {
	if t.since.IsZero() {
		return
	}
	lasted := max(now.Sub(t.since), 0)
	t.Wait(t.since, now.Add(min(lasted, longestCatchUp)))
	t.since = time.Time{}
}

// Note notes since when there is trouble, if there is now, and whether nothing waits: then what is past does not
// matter.
func (t *Times) Note(since, now time.Time, nothingWaits bool) {
	if since.IsZero() {
		t.Ended(now)
	} else {
		t.Began(since)
	}
	if nothingWaits {
		t.past = nil
	}
}

// Wait notes a wait whose end is known. It begins after the waits noted before, or adds to the last of them.
func (t *Times) Wait(from, until time.Time) {
	n := len(t.past)
	for n > 0 && !t.past[n-1].until.Before(from) {
		n--
		if first := t.past[n]; first.from.Before(from) {
			from = first.from
		}
		if last := t.past[n]; last.until.After(until) {
			until = last.until
		}
	}
	t.past = append(t.past[:n], stretch{from, until})
	if len(t.past) > maxKept {
		t.past = slices.Delete(t.past, 0, 1)
	}
}

// Within returns how much of the time between from and to was trouble.
func (t *Times) Within(from, to time.Time) time.Duration {
	var sum time.Duration
	add := func(begin, end time.Time) {
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		if end.After(begin) {
			sum, from = sum+end.Sub(begin), end
		}
	}
	for _, s := range t.past {
		add(s.from, s.until)
	}
	if !t.since.IsZero() {
		add(t.since, to)
	}
	return sum
}

// Clone returns a copy, for another goroutine.
func (t *Times) Clone() Times { return Times{t.since, slices.Clone(t.past)} }
