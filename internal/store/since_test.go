package store_test

import (
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// What is read of several subjects from a time on is complete, also before the first message of one of them.
func TestNothingIsLeftOutOfSeveralSubjectsSinceATime(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	ends := map[string]relay.AttemptsEnd{}
	attempt := func(callback string) {
		t.Helper()
		b := ends[callback].Batch(callback, "g", time.Now(), []relay.AttemptRecord{{Order: order, Seq: 1, Number: 1}})
		r := s.Attempts.AppendAll(t.Context(), []relay.AttemptBatch{b})[0]
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		ends[callback] = b.End(r.Seq)
	}
	publish := func(site string) {
		t.Helper()
		ev, err := relay.NewOperationalEvent("", site, "a", time.Now(), relay.Operational{Kind: relay.KindReconciled})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Events.PublishOperational(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
	}
	attempt("a")
	attempt("b")
	publish("leeds")
	publish("york")
	since := time.Now()
	for _, callback := range []string{"a", "b", "newest", "a"} {
		attempt(callback)
	}
	for _, site := range []string{"leeds", "york", "hull", "leeds"} {
		publish(site)
	}
	of := []string{"a", "b", "newest"}
	for at, want := range map[time.Time]int{since: 4, time.Unix(1, 0): 6, time.Now(): 0} {
		found, err := s.Attempts.Onwards(t.Context(), 0, at, of, order, 100)
		if err != nil || found.Read != want || len(found.Batches) != want || found.More {
			t.Errorf("attempts since %s: %+v, %v, want %d", at, found, err, want)
		}
		events, more, err := s.Events.ScanSince(t.Context(), at, []string{
			topology.OperationalSubject("leeds", "*", "*"), topology.OperationalSubject("york", "*", "*"),
			topology.OperationalSubject("hull", "*", "*"),
		}, 100)
		if err != nil || len(events) != want || more {
			t.Errorf("events since %s: %d, %v, want %d", at, len(events), err, want)
		}
	}
}
