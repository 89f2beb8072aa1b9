package replay

import (
	"context"
	"testing"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
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

// largeLog is a log of events of one size.
type largeLog struct {
	body []byte
	last uint64
	most int // events that were asked for at once, whole
}

func (l *largeLog) event(seq uint64) store.Stored {
	return store.Stored{Seq: seq, Site: "leeds", Type: relay.TypeOrderUpdated, Order: "a", Body: l.body}
}

func (l *largeLog) Get(_ context.Context, seq uint64) (store.Stored, error) { return l.event(seq), nil }

func (l *largeLog) ScanWithin(
	_ context.Context, from uint64, _ []string, most, bytes int,
) (found []store.Stored, more bool, err error) {
	l.most = most
	kept := 0
	for seq := from; seq <= l.last && len(found) < most; seq++ {
		ev := l.event(seq)
		if kept += len(ev.Body); kept > bytes && len(found) > 0 {
			ev.Body = nil
		}
		found = append(found, ev)
	}
	return found, from+uint64(len(found)) <= l.last, nil
}

func (l *largeLog) ScanHeads(
	ctx context.Context, from uint64, filters []string, most int,
) ([]store.Stored, bool, error) {
	return l.ScanWithin(ctx, from, filters, most, 0)
}

// A replay asks for as many whole events as its own events let fit, however small those are that others have read of
// late, and keeps no more bodies of a page than that, in whatever way it reads.
func TestPagesOfLargeEventsAreSmall(t *testing.T) {
	t.Parallel()
	const size, events = 300 << 10, 5_000
	for name, tc := range map[string]struct {
		size  int
		only  *positions
		first int // events of the first page at most
		want  int // of the later ones
	}{
		"all, large":       {size: size, first: capacity.FirstEvents, want: capacity.PageBytes / size},
		"all, small":       {size: 100, first: capacity.FirstEvents, want: capacity.PageEvents},
		"larger than fits": {size: 3 * capacity.PageBytes, first: capacity.FirstEvents, want: 1},
		"one by one, large": {size: size, only: newPositions(), first: capacity.FirstEvents,
			want: capacity.PageBytes / size},
		"one by one, small": {size: 100, only: newPositions(), first: capacity.FirstEvents, want: getMost},
	} {
		log := &largeLog{body: make([]byte, tc.size), last: events}
		for seq := uint64(1); tc.only != nil && seq <= events; seq += 10 {
			tc.only.set(seq, true)
		}
		r := &Replayer{c: Config{Schedule: DefaultSchedule}, bodies: capacity.NewBodies(1 << 30),
			memory: capacity.NewMemory(1 << 30)}
		w := &runner{r: r, doc: relay.Replay{From: 1, Through: events}, cur: cursor.New(r.policy(4))}
		w.atHand.Join(r.memory)
		w.sel = &selection{events: log, doc: &w.doc, only: tc.only}
		w.sel = w.sel.of(delivery.NewTarget(relay.Callback{ID: "bms", Client: "shop"},
			relay.Client{ID: "shop", AllSites: true}))
		at := uint64(0)
		for n := range 5 {
			r.bodies.NoteSize(100) // of another's, after larger ones have been forgotten
			if n == 0 {
				for range 1_000 {
					r.bodies.NoteSize(100)
				}
			}
			p, err := w.sel.page(t.Context(), at, capacity.PageEvents, capacity.PageBytes)
			bodies := 0
			for _, ev := range p.events {
				bodies += len(ev.Body)
			}
			if err != nil || bodies > max(capacity.PageBytes, tc.size) {
				t.Errorf("%s: a page keeps bodies of %d bytes: %v", name, bodies, err)
			}
			log.most = 0
			if err := w.readPage(t.Context(), at); err != nil {
				t.Fatal(err)
			}
			if most := tc.want; n == 0 && w.page.read > tc.first || n > 0 && w.page.read != most ||
				log.most > max(tc.first, most) {
				t.Errorf("%s: page %d has %d events", name, n, w.page.read)
			}
			at = w.page.through
		}
	}
}
