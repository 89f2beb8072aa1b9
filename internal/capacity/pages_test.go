package capacity

import "testing"

// A page is as large as the bodies of the page before let fit, or those that others have read of late, and has one
// event in any case. With many callbacks each keeps less.
func TestPagesOfLargeEventsAreSmall(t *testing.T) {
	t.Parallel()
	const large = 300 << 10
	for name, tc := range map[string]struct {
		callbacks     int
		others, own   int // sizes of bodies that others have read of late, and of those of the page before; 0: none
		events, bytes int
	}{
		"nothing is known":               {1, 0, 0, unknownEvents, PageBytes},
		"first page, small bodies":       {1, 2000, 0, FirstEvents, PageBytes},
		"first page, large bodies":       {1, large, 0, 3, PageBytes},
		"first page, bodies beyond it":   {1, 2 * PageBytes, 0, 1, PageBytes},
		"first page, one of many":        {1000, 2000, 0, minPart / 2000, minPart},
		"later page, small bodies":       {1, 2 * PageBytes, 100, PageEvents, PageBytes},
		"later page, large bodies":       {1, 100, large, 3, PageBytes},
		"later page, bodies beyond it":   {1, 100, 2 * PageBytes, 1, PageBytes},
		"later page, one of many":        {1000, 100, 2000, minPart / 2000, minPart},
		"later page, one of many, large": {1000, 100, large, 1, minPart},
	} {
		memory, bodies := NewMemory(8<<20), NewBodies(64<<20)
		memory.Join(tc.callbacks)
		if tc.others > 0 {
			bodies.NoteSize(tc.others)
		}
		if events, bytes := NextPage(memory, bodies, tc.own); events != tc.events || bytes != tc.bytes {
			t.Errorf("%s: %d events and %d bytes, want %d and %d", name, events, bytes, tc.events, tc.bytes)
		}
	}
}

// Large bodies are forgotten once many small ones have been read.
func TestLargeBodiesAreForgotten(t *testing.T) {
	t.Parallel()
	memory, bodies := NewMemory(8<<20), NewBodies(64<<20)
	bodies.NoteSize(PageBytes)
	for range 1000 {
		bodies.NoteSize(2000)
	}
	if n, _ := NextPage(memory, bodies, 0); n != FirstEvents {
		t.Errorf("%d small events at once", n)
	}
}
