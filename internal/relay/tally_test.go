package relay

import (
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The tally that the last batch of an hour carries is that of all its records, whatever the batches
// are, and Before leads to the hour before.
func TestTallyIsThatOfTheRecords(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 11, 28, 10, 30, 0, 0, time.UTC)
		var last, wantBefore uint64
		var tally Tally
		var hour []AttemptRecord
		var newest time.Time // the latest hour so far: a clock that is behind does not go back to one before
		for range rapid.IntRange(1, 30).Draw(t, "batches") {
			now = now.Add(rapid.SampledFrom([]time.Duration{0, time.Second, 20 * time.Minute, -2 * time.Hour}).Draw(t,
				"later"))
			if last > 0 && now.Truncate(time.Hour).After(newest) {
				hour, wantBefore = nil, last
			}
			if last == 0 || now.After(newest) {
				newest = now.Truncate(time.Hour)
			}
			records := rapid.SliceOfN(rapid.Custom(drawRecord), 1, 10).Draw(t, "records")
			hour = append(hour, records...)
			tally = tally.After(last, now, records)
			raw, err := json.Marshal(tally)
			if err != nil {
				t.Fatal(err)
			}
			var stored Tally
			if err := json.Unmarshal(raw, &stored); err != nil || !reflect.DeepEqual(stored, tally) {
				t.Fatalf("%s: read %+v of %+v: %v", raw, stored, tally, err)
			}
			tally, last = stored, last+uint64(rapid.IntRange(1, 5).Draw(t, "gap"))
		}
		compareTally(t, tally, hour)
		if tally.Before != wantBefore || !tally.Hour.Equal(newest) {
			t.Errorf("%s, before it: %d, want %s, %d", tally.Hour, tally.Before, newest, wantBefore)
		}
	})
}

func drawRecord(t *rapid.T) AttemptRecord {
	r := AttemptRecord{Number: rapid.IntRange(0, 3).Draw(t, "number")}
	if r.Number > 0 {
		r.Outcome = rapid.SampledFrom([]string{"success", "timeout", "refused"}).Draw(t, "outcome")
		r.DurationMillis = math.Trunc(math.Exp(rapid.Float64Range(-6, 11).Draw(t, "millis"))*1000) / 1000
	}
	if r.Number == 0 || rapid.Bool().Draw(t, "closing") {
		r.Closing = rapid.SampledFrom(
			[]DeliveryStatus{DeliveryDelivered, DeliveryFailed, DeliverySkipped, DeliveryExpired}).Draw(t, "end")
	}
	return r
}

func compareTally(t *rapid.T, got Tally, records []AttemptRecord) {
	ends, outcomes, durations := map[DeliveryStatus]int{}, map[string]int{}, []float64{}
	for _, r := range records {
		if r.Closing != "" {
			ends[r.Closing]++
		}
		if r.Number > 0 {
			outcomes[r.Outcome]++
			durations = append(durations, r.DurationMillis)
		}
	}
	if len(got.Ends) != len(ends) || len(got.Outcomes) != len(outcomes) || got.Attempts() != len(durations) {
		t.Fatalf("%+v, want %v %v", got, ends, outcomes)
	}
	for status, n := range ends {
		if got.Ends[status] != n {
			t.Errorf("%s: %d, want %d", status, got.Ends[status], n)
		}
	}
	for outcome, n := range outcomes {
		if got.Outcomes[outcome] != n {
			t.Errorf("%s: %d, want %d", outcome, got.Outcomes[outcome], n)
		}
	}
	slices.Sort(durations)
	for _, q := range []float64{0.5, 0.95, 1} {
		if len(durations) == 0 {
			break
		}
		want := durations[max(int(math.Ceil(q*float64(len(durations))))-1, 0)]
		if is := got.Durations.Quantile(q); math.Abs(is-want) > 0.07*want+0.001 {
			t.Errorf("quantile %v: %v, want %v of %v", q, is, want, durations)
		}
	}
}

// A batch of an owner whose clock is behind counts in the hour of the batch before it: hours never
// fall along the log, and none comes twice.
func TestHoursNeverFall(t *testing.T) {
	t.Parallel()
	hour := time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)
	record := []AttemptRecord{{Number: 1, Outcome: "success", Closing: DeliveryDelivered}}
	first := Tally{}.After(0, hour.Add(-time.Minute), record)
	second := first.After(1, hour.Add(time.Second), record)
	third := second.After(2, hour.Add(-time.Second), record)
	if !third.Hour.Equal(hour) || third.Before != 1 || third.Attempts() != 2 || third.Ends[DeliveryDelivered] != 2 {
		t.Errorf("after a clock that is ahead: %+v", third)
	}
	if other := second.After(0, hour.Add(-time.Second), record); other.Attempts() != 1 || other.Hour.Equal(hour) {
		t.Errorf("of another callback: %+v", other)
	}
}
