package cursorstore_test

import (
	"context"
	"testing"

	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/store"
)

// A watermark knows what it has stored, also after it has written over what a former owner has put in its place.
func TestAWatermarkKnowsWhatIsStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := func(_ context.Context, at uint64) (uint64, error) { return max(at, 100), nil }
	adopt := func(s *cursorstore.Store, epoch uint64) cursorstore.Watermark {
		mark, later, err := s.AdoptWatermark(t.Context(), 7, epoch, end)
		if err != nil || later != 0 || !mark.Adopted {
			t.Fatalf("adopted as %+v, %d, %v", mark, later, err)
		}
		return mark
	}
	move := func(s *cursorstore.Store, mark *cursorstore.Watermark, at, want, wantLater uint64) {
		t.Helper()
		later, err := s.StoreWatermark(t.Context(), mark, at)
		there, _, failed := w.store.Watermarks.Get(t.Context(), store.WatermarkKey(7, "events"))
		if err != nil || failed != nil || later != wantLater || mark.Stored != want ||
			later == 0 && there.Position != want {
			t.Fatalf("after %d: %+v, stored is %+v, later %d, %v, %v", at, mark, there, later, err, failed)
		}
	}
	first := adopt(w.first, 5)
	move(w.first, &first, 20, 20, 0)
	move(w.first, &first, 30, 30, 0)
	second := adopt(w.second, 6)
	if second.Stored != 30 || second.Base != 30 {
		t.Fatalf("the next owner begins with %+v", second)
	}
	move(w.second, &second, 40, 40, 0)
	move(w.first, &first, 50, 30, 6)
	move(w.second, &second, 60, 60, 0)
}
