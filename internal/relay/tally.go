package relay

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"maps"
	"math/bits"
	"slices"
	"time"
)

// Tally counts what the log of attempts has of one callback in one hour. Every batch carries the
// tally of its hour up to and including itself. So the last batch of an hour has all of it, and
// Before leads to the last batch of the hour before, however many lie between.
//
// A batch belongs to the hour in which its owner stored it, or to that of the batch before it if that
// is later, because the clocks of owners differ: hours never fall. So a tally is never wrong about the log
// and never changes once its hour is over.
type Tally struct {
	Hour   time.Time `json:"hour"`             // when it began
	Before uint64    `json:"before,omitempty"` // position of the callback's last batch before it, 0 if there is none
	// Ends counts ended deliveries by how they ended, Outcomes attempts by their outcome.
	Ends      map[DeliveryStatus]int `json:"ends,omitempty"`
	Outcomes  map[string]int         `json:"outcomes,omitempty"`
	Durations Durations              `json:"durations,omitzero"` // of the attempts
}

// After returns the tally of a batch with these records, stored at now after a batch at position
// last that carries t. If there is none, last is 0.
func (t Tally) After(last uint64, now time.Time, records []AttemptRecord) Tally {
	next := Tally{Hour: now.UTC().Truncate(time.Hour), Before: last}
	if last != 0 && !next.Hour.After(t.Hour) { // also if this clock is behind the one before
		next = Tally{t.Hour, t.Before, maps.Clone(t.Ends), maps.Clone(t.Outcomes),
			Durations{slices.Clone(t.Durations.counts)}}
	}
	for i := range records {
		next.add(&records[i])
	}
	return next
}

func (t *Tally) add(r *AttemptRecord) {
	if r.Closing != "" {
		if t.Ends == nil {
			t.Ends = map[DeliveryStatus]int{}
		}
		t.Ends[r.Closing]++
	}
	if r.Number > 0 {
		if t.Outcomes == nil {
			t.Outcomes = map[string]int{}
		}
		t.Outcomes[r.Outcome]++
		t.Durations.Add(r.DurationMillis)
	}
}

// Attempts returns how many attempts it counts.
func (t Tally) Attempts() (n int) {
	for _, of := range t.Outcomes {
		n += of
	}
	return n
}

// Durations counts durations by their size, in buckets that are an eighth wide: a quantile is exact
// to 7 %. It takes room for the buckets only that have something in them.
type Durations struct{ counts []bucketCount } // sorted by bucket

type bucketCount struct {
	bucket int
	n      uint64
}

// perOctave is how many buckets there are between a duration and twice as much.
const perOctave, octaveBits = 8, 3

// Add counts one duration.
func (d *Durations) Add(millis float64) { d.count(bucketOf(millis), 1) }

func (d *Durations) count(bucket int, n uint64) {
	i, found := slices.BinarySearchFunc(d.counts, bucket, func(c bucketCount, bucket int) int {
		return c.bucket - bucket
	})
	if !found {
		d.counts = slices.Insert(d.counts, i, bucketCount{bucket: bucket})
	}
	d.counts[i].n += n
}

// bucketOf returns the bucket of a duration: microseconds below perOctave have one each.
func bucketOf(millis float64) int {
	micros := uint64(max(millis, 0) * 1000)
	if micros < perOctave {
		return int(micros)
	}
	octave := bits.Len64(micros) - 1
	return (octave-octaveBits+1)*perOctave + int(micros>>(octave-octaveBits))&(perOctave-1)
}

// middle returns the middle of a bucket in milliseconds.
func middle(bucket int) float64 {
	if bucket < perOctave {
		return float64(bucket) / 1000
	}
	shift := bucket/perOctave - 1
	low := uint64(perOctave+bucket%perOctave) << shift
	return (float64(low) + float64(uint64(1)<<shift)/2) / 1000
}

// Quantile returns the duration in milliseconds that a part q of all do not exceed, 0 if there are
// none.
func (d Durations) Quantile(q float64) float64 {
	var all, seen uint64
	for _, c := range d.counts {
		all += c.n
	}
	for _, c := range d.counts {
		if seen += c.n; float64(seen) >= q*float64(all) {
			return middle(c.bucket)
		}
	}
	return 0
}

// IsZero reports whether there is none.
func (d Durations) IsZero() bool { return len(d.counts) == 0 }

// MarshalText writes the distances of the buckets and their counts, as short as they are.
func (d Durations) MarshalText() ([]byte, error) {
	raw, last := make([]byte, 0, 4*len(d.counts)), 0
	for _, c := range d.counts {
		raw = binary.AppendUvarint(raw, uint64(c.bucket-last))
		raw = binary.AppendUvarint(raw, c.n)
		last = c.bucket
	}
	return base64.RawStdEncoding.AppendEncode(nil, raw), nil
}

// UnmarshalText reads what MarshalText wrote.
func (d *Durations) UnmarshalText(text []byte) error {
	raw, err := base64.RawStdEncoding.AppendDecode(nil, text)
	d.counts = nil
	for bucket := 0; err == nil && len(raw) > 0; {
		distance, a := binary.Uvarint(raw)
		n, b := binary.Uvarint(raw[max(a, 0):])
		if a <= 0 || b <= 0 || distance > 64*perOctave {
			return errDurations
		}
		bucket, raw = bucket+int(distance), raw[a+b:]
		d.counts = append(d.counts, bucketCount{bucket, n})
	}
	return err
}

var errDurations = errors.New("not what counts of durations look like")
