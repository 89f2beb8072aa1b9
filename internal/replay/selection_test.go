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
