package backup_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/backup"
	"github.com/audatex-relay/relay/internal/natstest"
)

// No matter what is removed and added between two pages: what is there all the time is listed, and
// nothing that never was.
func TestWhatStaysIsListedBesideWhatGoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size, overlap := rapid.IntRange(2, 12).Draw(t, "page"), rapid.IntRange(1, 4).Draw(t, "overlap")
		name := func(n int) string { return fmt.Sprintf("%03d", n) }
		there, stays, ever := map[string]bool{}, map[string]bool{}, map[string]bool{}
		for n := range 60 {
			if rapid.Bool().Draw(t, "there") {
				there[name(n)], ever[name(n)] = true, true
				if n%2 == 0 {
					stays[name(n)] = true
				}
			}
		}
		changes := rapid.IntRange(0, 30).Draw(t, "pages with changes")
		found, err := backup.ListSubjects(overlap, func(offset int) (int, map[string]uint64) {
			sorted := slices.Sorted(maps.Keys(there))
			total, page := len(sorted), map[string]uint64{}
			for _, subject := range sorted[min(offset, total):min(offset+size, total)] {
				page[subject] = 1
			}
			if changes > 0 {
				changes--
				for range rapid.IntRange(0, 8).Draw(t, "changes") {
					subject := name(2*rapid.IntRange(0, 29).Draw(t, "which") + 1)
					if there[subject] {
						delete(there, subject)
					} else {
						there[subject], ever[subject] = true, true
					}
				}
			}
			return total, page
		})
		if err != nil {
			t.Fatal(err)
		}
		for subject := range stays {
			if !found[subject] {
				t.Errorf("%s was there all the time and is not listed", subject)
			}
		}
		for subject := range found {
			if !ever[subject] {
				t.Errorf("%s never was", subject)
			}
		}
	})
}

// The server returns a hundred thousand at a time: the long run asks for more.
func TestSubjectsOfALargeBucketAreAllListed(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "large", Subjects: []string{"k.*"},
		Storage: jetstream.MemoryStorage, MaxMsgsPerSubject: 1})
	if err != nil {
		t.Fatal(err)
	}
	keys := natstest.Long(2_000, 101_500) // the rules of paging are tried above, on any number of pages
	for n := range keys {
		// a hundred thousand acknowledgements would cost as much again
		if err := nc.Publish(fmt.Sprint("k.", n), nil); err != nil {
			t.Fatal(err)
		}
	}
	for {
		info, err := stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Msgs == uint64(keys) {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	found, err := backup.Subjects(t.Context(), js, "large")
	if err != nil || len(found) != keys {
		t.Errorf("%d of %d are listed: %v", len(found), keys, err)
	}
}
