package relay_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/relay"
)

// Entry numbers rise with the page and, in a page, with the index; a page's last index is above all
// of its notifications.
func TestEntryNumbers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seqs := rapid.Uint64Range(1, 1<<44-2)
		indexes := rapid.IntRange(0, relay.LastIndex-1)
		a, i := seqs.Draw(t, "page"), indexes.Draw(t, "index")
		b, j := seqs.Draw(t, "other page"), indexes.Draw(t, "other index")
		if seq, index := relay.UnpackEntry(relay.PackEntry(a, i)); seq != a || index != i {
			t.Fatalf("%d/%d came back as %d/%d", a, i, seq, index)
		}
		before := a < b || a == b && i < j
		if (relay.PackEntry(a, i) < relay.PackEntry(b, j)) != before {
			t.Fatalf("%d/%d and %d/%d are not in order", a, i, b, j)
		}
		if end := relay.PackEntry(a, relay.LastIndex); end <= relay.PackEntry(a, i) || end >= relay.PackEntry(a+1, 0) {
			t.Fatalf("the end of page %d is not between it and the next", a)
		}
	})
}
