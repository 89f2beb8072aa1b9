package cursor

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// version is the "v" of the documents this package writes and the highest it reads.
const version = 1

// Range is an inclusive stretch [from, to] of log positions.
type Range [2]uint64

// Carried are fields of the Document that belong to the caller; the cursor carries them and stamps Epoch and
// Generation on every lane.
type Carried struct {
	// Epoch is the lease's epoch under which the document is written (fencing).
	Epoch uint64 `json:"epoch,omitempty"`
	// Adopted is the epoch whose owner last took the document on, having written all of its lanes anew first (Adopt): a lane of an
	// earlier epoch is what a former owner wrote too late. 0: nobody has, and the lanes' epochs say nothing.
	Adopted uint64 `json:"adopted,omitempty"`
	// Generation is the random generation of the callback or connection; lanes of another one are not loaded.
	Generation string `json:"generation,omitempty"`
	// Behind says that the reader has left the shared reader and reads pages of its own.
	Behind bool `json:"behind,omitempty"`
	// FilterFrom is the position from which the present filter holds.
	FilterFrom uint64 `json:"filterFrom,omitempty"`
}

// Health is how the receiver has been answering.
type Health struct {
	// Failures counts failed attempts and probes in a row; any answer of the receiver sets it back to 0.
	Failures int `json:"failures,omitempty"`
	// Several says that those failures were of more than one order.
	Several bool `json:"several,omitempty"`
	// FailingSince is when the first of those failures happened.
	FailingSince time.Time `json:"failingSince,omitzero"`
	// Open says that the circuit is open: only probes go.
	Open bool `json:"open,omitempty"`
	// Probes counts failed probes since the circuit opened.
	Probes int `json:"probes,omitempty"`
	// NextProbe is when the next probe is due, ProbeWaitMillis the wait it was computed with.
	NextProbe       time.Time `json:"nextProbe,omitzero"`
	ProbeWaitMillis int64     `json:"probeWaitMillis,omitempty"`
}

// Document is the stored state of a cursor, but for its lanes.
type Document struct {
	V int `json:"v"`
	// Position: every entry at or below is settled, or in a lane.
	Position uint64 `json:"position"`
	// Done are ranges above Position, ascending and apart, whose entries are settled or in a lane.
	Done []Range `json:"done,omitempty"`
	// Skipped are entries that were settled while earlier ones of their order wait, ascending; at most MaxSkipped.
	Skipped []Entry `json:"skipped,omitempty"`
	Health  Health  `json:"health,omitzero"`
	// Resumed is when all lanes were last made due at once: a lane whose wait began earlier is due. (One write in
	// place of one for every lane.)
	Resumed time.Time `json:"resumed,omitzero"`
	Carried
}

// Lane is the stored record of one order that is being retried.
type Lane struct {
	V     int    `json:"v"`
	Order string `json:"order"`
	// Entries are the sequence numbers that wait, ascending, the head first; at most LaneEntries.
	Entries []uint64 `json:"entries,omitempty"`
	// OpenFrom, if not 0, says that everything of this order from here on waits as well.
	OpenFrom uint64 `json:"openFrom,omitempty"`
	// Attempts counts the failed attempts of the head.
	Attempts int `json:"attempts,omitempty"`
	// Spent says that a head failed for good and nothing succeeded since: each entry gets one attempt.
	Spent bool `json:"spent,omitempty"`
	// FailingSince is when the lane's first failure since its last success happened.
	FailingSince time.Time `json:"failingSince,omitzero"`
	// Reason is the last failure's, ReasonSince when the failures with just this reason began.
	Reason      string    `json:"reason,omitempty"`
	ReasonSince time.Time `json:"reasonSince,omitzero"`
	// Next is when the next attempt is due (zero: at once), WaitMillis the wait it was computed with.
	Next       time.Time `json:"next,omitzero"`
	WaitMillis int64     `json:"waitMillis,omitempty"`
	Epoch      uint64    `json:"epoch,omitempty"`
	Generation string    `json:"generation,omitempty"`
}

// DecodeDocument reads a stored Document. Unknown fields are passed over; contradictions are an error.
func DecodeDocument(b []byte) (Document, error) {
	var d Document
	if err := json.Unmarshal(b, &d); err != nil {
		return Document{}, fmt.Errorf("decoding cursor: %w", err)
	}
	if err := d.validate(); err != nil {
		return Document{}, fmt.Errorf("decoding cursor: %w", err)
	}
	return d, nil
}

// DecodeLane reads a stored Lane. Unknown fields are passed over; contradictions are an error.
func DecodeLane(b []byte) (Lane, error) {
	var l Lane
	if err := json.Unmarshal(b, &l); err != nil {
		return Lane{}, fmt.Errorf("decoding lane: %w", err)
	}
	if err := l.validate(); err != nil {
		return Lane{}, fmt.Errorf("decoding lane: %w", err)
	}
	return l, nil
}

func (d *Document) validate() error {
	if d.V != version {
		return fmt.Errorf("version %d is not %d", d.V, version)
	}
	if len(d.Done) > MaxDone {
		return fmt.Errorf("%d done ranges, at most %d are allowed", len(d.Done), MaxDone)
	}
	end := d.Position
	for i, r := range d.Done {
		switch {
		case r[0] > r[1]:
			return fmt.Errorf("done range %d [%d,%d] is the wrong way round", i, r[0], r[1])
		case i == 0 && r[0] <= end:
			return fmt.Errorf("position %d is beyond done range [%d,%d]", end, r[0], r[1])
		case r[0] <= end:
			return fmt.Errorf("done range %d [%d,%d] is not above the one before it, which ends at %d", i, r[0], r[1], end)
		}
		end = r[1]
	}
	if len(d.Skipped) > MaxSkipped {
		return fmt.Errorf("%d skipped, at most %d are allowed", len(d.Skipped), MaxSkipped)
	}
	for i, e := range d.Skipped {
		if e.Seq == 0 || i > 0 && e.Seq <= d.Skipped[i-1].Seq {
			return fmt.Errorf("skipped %d (%d) is not above the one before it", i, e.Seq)
		}
	}
	if !storable(d.Health.FailingSince, d.Health.NextProbe, d.Resumed) {
		return errors.New("a time is out of bounds")
	}
	h := d.Health
	if h.Failures < 0 || h.Probes < 0 || h.ProbeWaitMillis < 0 || h.ProbeWaitMillis > maxWaitMillis {
		return errors.New("health counts are out of bounds")
	}
	return nil
}

// maxWaitMillis is a year: no schedule waits longer, and durations computed from it cannot overflow.
const maxWaitMillis = 365 * 24 * 3600 * 1000

func (l *Lane) validate() error {
	if l.V != version {
		return fmt.Errorf("version %d is not %d", l.V, version)
	}
	if len(l.Entries) == 0 && l.OpenFrom == 0 {
		return errors.New("nothing waits in it")
	}
	if len(l.Entries) > LaneEntries {
		return fmt.Errorf("%d entries, at most %d are allowed", len(l.Entries), LaneEntries)
	}
	var last uint64
	for i, seq := range l.Entries {
		if seq <= last {
			return fmt.Errorf("entry %d (%d) is not above the one before it (%d)", i, seq, last)
		}
		last = seq
	}
	if l.OpenFrom != 0 && l.OpenFrom <= last {
		return fmt.Errorf("open from %d, which is not above its last entry %d", l.OpenFrom, last)
	}
	if l.Attempts < 0 || l.WaitMillis < 0 || l.WaitMillis > maxWaitMillis {
		return errors.New("attempts or wait are out of bounds")
	}
	if !storable(l.FailingSince, l.ReasonSince, l.Next) {
		return errors.New("a time is out of bounds")
	}
	return nil
}

// storable says whether times can be written as they were read, in any zone.
func storable(ts ...time.Time) bool {
	for _, t := range ts {
		if t.Year() < 1 || t.Year() > 9000 {
			return false
		}
	}
	return true
}

// stamp is how times are stored: UTC, whole milliseconds.
func stamp(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Millisecond)
}

// cut bounds a reason, at the border of a character.
func cut(s string) string {
	if len(s) <= maxReason {
		return s
	}
	return strings.ToValidUTF8(s[:maxReason], "")
}
