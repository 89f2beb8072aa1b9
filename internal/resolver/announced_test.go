package resolver

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestAnnouncedPagesAreAllThereAre: whatever was announced and forgotten, a list that is reported as complete holds
// every page above the one read.
func TestAnnouncedPagesAreAllThereAre(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var a announced
		var there, told []uint64 // pages of the inbox, and those of them that the tail has announced
		read := uint64(0)
		for range rapid.IntRange(1, 300).Draw(t, "moves") {
			switch rapid.SampledFrom([]string{"page", "page", "tell", "tell", "read"}).Draw(t, "move") {
			case "page":
				next := uint64(1)
				if len(there) > 0 {
					next = there[len(there)-1] + uint64(rapid.IntRange(1, 3).Draw(t, "apart"))
				}
				there = append(there, next)
			case "tell": // in order, each once or again
				if len(told) < len(there) {
					told = there[:len(told)+1]
				}
				if len(told) > 0 {
					a.add(told[len(told)-1], time.Time{})
				}
			case "read":
				seqs, complete := a.after(read)
				var want []uint64
				for _, seq := range there {
					if seq > read && seq <= a.highest() {
						want = append(want, seq)
					}
				}
				if complete && !slices.Equal(seqs, want) {
					t.Fatalf("above %d: said to be all %v, there are %v", read, seqs, want)
				}
				if n := len(want); n > 0 {
					read = want[rapid.IntRange(0, n-1).Draw(t, "read on to")]
				}
			}
		}
	})
}
