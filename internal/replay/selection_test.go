package replay

import (
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

// What a replay names outside of its range is not replayed: it may be another event by now.
func TestNamedEventsAreBounded(t *testing.T) {
	t.Parallel()
	doc := relay.Replay{From: 3, Through: 5, Positions: []uint64{2, 3, 5, 6, 70_000}}
	only, err := selectedBy(t.Context(), nil, &doc, nil)
	if err != nil {
		t.Fatal(err)
	}
	if all := only.after(0, 10); len(all) != 2 || all[0] != 3 || all[1] != 5 {
		t.Errorf("it is limited to %v", all)
	}
}

// Wanted events that lie close together are read in one go, however many they are.
func TestStretchesThatAreReadInOneGo(t *testing.T) {
	t.Parallel()
	every := func(n int, step uint64) (seqs []uint64) {
		for i := range uint64(n) {
			seqs = append(seqs, 10+i*step)
		}
		return seqs
	}
	for _, c := range []struct {
		what   string
		wanted []uint64
		want   int
	}{
		{"all in a row", every(countEvents, 1), countEvents},
		{"one of three", every(countEvents, 3), countEvents},
		{"one of five", every(countEvents, 5), 0},
		{"a row before a gap", append(every(100, 1), 1_000_000), 50},
		{"a few", every(leastStretch-1, 1), 0},
		{"none", nil, 0},
	} {
		if got := len(dense(c.wanted)); got != c.want {
			t.Errorf("%s: %d of %d in one go, want %d", c.what, got, len(c.wanted), c.want)
		}
	}
}
