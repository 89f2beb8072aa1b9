package cursor

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/notice"
)

// version is the "v" of documents and lanes.
const version = 1

// Range is an inclusive range [from, to] of log positions.
type Range [2]uint64

// Carried are fields of the Document that belong to the caller. The cursor stores them, and writes
// Epoch and Generation into every lane.
type Carried struct {
	// Epoch is the lease's epoch under which the document is written (fencing).
	Epoch uint64 `json:"epoch,omitempty"`
	// Adopted is the epoch of the last owner that adopted the document, after writing all its lanes
	// (Adopt). A lane with an earlier epoch was written too late by a former owner. 0: nobody has
	// adopted it, and the lanes' epochs are ignored.
	Adopted uint64 `json:"adopted,omitempty"`
	// Generation is the random generation of the callback or connection. Lanes of another one are
	// not loaded.
	Generation string `json:"generation,omitempty"`
	// Behind is set if the reader has left the shared reader and reads pages by itself.
	Behind bool `json:"behind,omitempty"`
	// Resumed is the callback's count of that name up to which everything has been made due.
	Resumed int `json:"resumedCount,omitempty"`
	// Notices are what must be published about the callback.
	Notices notice.Notices `json:"notices,omitzero"`
}

// OwnerEpoch is the epoch of the owner who wrote the document.
func (c Carried) OwnerEpoch() uint64 { return c.Epoch }

// Health describes how the receiver has been answering.
type Health struct {
	// Failures counts failed attempts and probes in a row. Any response of the receiver resets it.
	Failures int `json:"failures,omitempty"`
	// Several is set if those failures were of more than one order.
	Several bool `json:"several,omitempty"`
	// FailingSince is when the first of those failures happened, after the last time in which nothing waited or nothing
	// could be sent (ForgetFailingSince). Zero if there was none since.
	FailingSince time.Time `json:"failingSince,omitzero"`
	// Open is set if the circuit is open: only probes are sent.
	Open bool `json:"open,omitempty"`
	// Probes counts failed probes since the circuit opened.
	Probes int `json:"probes,omitempty"`
	// NextProbe is when the next probe is due, ProbeWaitMillis the wait that it was computed from.
	NextProbe       time.Time `json:"nextProbe,omitzero"`
	ProbeWaitMillis int64     `json:"probeWaitMillis,omitempty"`
}

// Document is the stored state of a cursor, but for its lanes.
type Document struct {
	V int `json:"v"`
	// Position: every entry at or below it is settled or in a lane.
	Position uint64 `json:"position"`
	// Done are ranges above Position whose entries are settled or in a lane, ascending and not
	// adjacent.
	Done []Range `json:"done,omitempty"`
	// Skipped are entries that were settled while earlier ones of their order waited, ascending; at
	// most MaxSkipped.
	Skipped []Entry `json:"skipped,omitempty"`
	Health  Health  `json:"health,omitzero"`
	// Resumed is when all lanes were last made due at once: a lane whose wait began earlier is due.
	// (This takes one write instead of one for each lane.)
	Resumed time.Time `json:"resumed,omitzero"`
	Carried
}

// Lane is the stored record of one order that is being retried.
type Lane struct {
	V     int    `json:"v"`
	Order string `json:"order"`
	// Entries are the sequence numbers of the waiting entries, ascending; at most LaneEntries.
	Entries []uint64 `json:"entries,omitempty"`
	// OpenFrom, if not 0, means that everything of this order from here on waits as well.
	OpenFrom uint64 `json:"openFrom,omitempty"`
	// Attempts counts the failed attempts of the head.
	Attempts int `json:"attempts,omitempty"`
	// Spent is set if a head has failed for good and nothing has succeeded since: each entry gets
	// one attempt.
	Spent bool `json:"spent,omitempty"`
	// FailingSince is the time of the lane's first failure after its last success.
	FailingSince time.Time `json:"failingSince,omitzero"`
	// Reason is that of the last failure, ReasonSince the time since which failures have had this
	// reason.
	Reason      string    `json:"reason,omitempty"`
	ReasonSince time.Time `json:"reasonSince,omitzero"`
	// Next is when the next attempt is due (zero: now), WaitMillis the wait that it was computed
	// from.
	Next       time.Time `json:"next,omitzero"`
	WaitMillis int64     `json:"waitMillis,omitempty"`
	Early      bool      `json:"early,omitempty"` // it is due now, before Next; a failure until then is not counted
	Epoch      uint64    `json:"epoch,omitempty"`
	Generation string    `json:"generation,omitempty"`
}

// OwnerEpoch is the epoch of the owner who wrote the lane.
func (l Lane) OwnerEpoch() uint64 { return l.Epoch }

// Settled reports whether an entry is settled, by what is stored: the document, the lane of its order (nil for none),
// and quiet, up to where everything of readers that are not behind is settled. They must be read in the opposite order:
// quiet, the document, the lane.
func (d Document) Settled(e Entry, lane *Lane, quiet uint64) bool {
	if slices.Contains(d.Skipped, e) {
		return true
	}
	if lane != nil && (slices.Contains(lane.Entries, e.Seq) || lane.OpenFrom != 0 && e.Seq >= lane.OpenFrom) {
		return false
	}
	position := d.Position
	if !d.Behind {
		position = max(position, quiet)
	}
	return e.Seq <= position || slices.ContainsFunc(d.Done, func(r Range) bool {
		return r[0] <= e.Seq && e.Seq <= r[1]
	})
}

// DecodeDocument parses a stored Document. It ignores unknown fields; contradictory data is an
// error.
func DecodeDocument(b []byte) (Document, error) {
	return decode[Document]("cursor", b)
}

// DecodeLane parses a stored Lane. It ignores unknown fields; contradictory data is an error.
func DecodeLane(b []byte) (Lane, error) {
	return decode[Lane]("lane", b)
}

func decode[T any, P interface {
	*T
	validate() error
}](what string, b []byte) (T, error) {
	var v, none T
	err := json.Unmarshal(b, &v)
	if err == nil {
		err = P(&v).validate()
	}
	if err != nil {
		return none, fmt.Errorf("decoding %s: %w", what, err)
	}
	return v, nil
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
			return fmt.Errorf("done range %d [%d,%d] is not above the one before it, which ends at %d",
				i, r[0], r[1], end)
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

// maxWaitMillis is one year. No schedule waits longer, and durations computed from it cannot
// overflow.
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

// storable reports whether times can be written and read again in any zone.
func storable(ts ...time.Time) bool {
	for _, t := range ts {
		if t.Year() < 1 || t.Year() > 9000 {
			return false
		}
	}
	return true
}

// stamp returns a time as it is stored: in UTC, in whole milliseconds.
func stamp(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Millisecond)
}

// cut shortens a reason to maxReason bytes without splitting a character.
func cut(s string) string {
	if len(s) <= maxReason {
		return s
	}
	return strings.ToValidUTF8(s[:maxReason], "")
}
