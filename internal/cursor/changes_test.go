package cursor

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// A crash between storing a lane and storing the document.
func TestLaneIsAheadOfTheDocument(t *testing.T) {
	t.Parallel()
	lane := Lane{V: 1, Order: "a", Entries: []uint64{5, 7}, Next: t0.Add(time.Hour), WaitMillis: 3600_000}
	load := func() *Cursor {
		c, err := Load(Policy{Concurrency: 2}, Document{V: 1, Position: 2}, []Lane{lane}, t0)
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "read from", c.ReadFrom(), 3)
		return c
	}
	c := load()
	wantEqual(t, "verdicts", fmt.Sprint(offer(t, c, "b4", "a5", "b6", "a7", "a8")),
		"[accepted ignored accepted ignored laned]")
	if l, _ := c.Lane("a"); !slices.Equal(l.Entries, []uint64{5, 7, 8}) {
		t.Fatalf("entries %v", l.Entries)
	}
	if ch := c.Changes(); ch.Document == nil || ch.Document.Position != 3 {
		t.Fatalf("document %+v: it is to say what the lane has covered", ch.Document)
	}

	c = load() // the lane is through before the reader comes to its entries again
	c.Succeed(take(t, c, t0.Add(time.Hour), 2, "a", 5, 7), t0.Add(time.Hour))
	d := c.Document()
	wantEqual(t, "done", fmt.Sprint(d.Position, d.Done), "2 [[5 5] [7 7]]")
	wantEqual(t, "verdicts", fmt.Sprint(offer(t, c, "b4", "a5", "b6", "a7", "a8")),
		"[accepted ignored accepted ignored accepted]")

	// A lane lists all that waits of its order: what it knows of and does not list was settled
	// before it was stored.
	c = load()
	wantEqual(t, "verdicts", fmt.Sprint(offer(t, c, "b3", "a4", "a5", "a6", "a7", "a8")),
		"[accepted ignored ignored ignored ignored laned]")
	lane.OpenFrom = 9
	c = load()
	wantEqual(t, "verdicts", fmt.Sprint(offer(t, c, "b3", "a8", "a9", "a10")), "[accepted ignored laned laned]")
	now := t0.Add(time.Hour)
	take(t, c, now, 1, "b", 3)
	c.Succeed(take(t, c, now, 3, "a", 5, 7), now)
	if rs := c.Refills(); len(rs) != 1 || rs[0] != (Refill{"a", 9, 10}) {
		t.Fatalf("refills %v", rs)
	}
}

// The reader may wait for a lane that waits for what the reader has not come to again.
func TestLaneReadsOnAheadOfTheReader(t *testing.T) {
	t.Parallel()
	c, err := Load(Policy{MaxLanes: 1, Window: 1}, Document{V: 1}, []Lane{{V: 1, Order: "a", OpenFrom: 9}}, t0)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "verdicts", fmt.Sprint(offer(t, c, "b1", "b2")), "[accepted full]")
	takeNone(t, c, t0) // congested by the lane, which has nothing at hand
	rs := c.Refills()
	if len(rs) != 1 || rs[0] != (Refill{"a", 9, 9}) {
		t.Fatalf("refills %v", rs)
	}
	wantEqual(t, "refilled", c.Refill(rs[0], []uint64{9, 11}, 11), true)
	c.Succeed(take(t, c, t0, 5, "a", 9), t0)
	c.Stored(c.Changes())
	c.Succeed(take(t, c, t0, 5, "b", 1), t0)
	wantEqual(t, "verdicts", fmt.Sprint(offer(t, c, "b2", "a9", "a11")), "[accepted ignored full]")
}

func TestDoneRanges(t *testing.T) {
	t.Parallel()
	c := New(Policy{Concurrency: 9})
	offer(t, c, "a1", "b3", "c5", "d7", "e9")
	c.Advance(20)
	c.Settle("b", 3)
	c.Settle("e", 9)
	d := c.Document()
	wantEqual(t, "done", fmt.Sprint(d.Position, d.Done), "0 [[2 4] [8 20]]") // nothing between 5 and 7 was ours
	c, err := Load(Policy{Concurrency: 9}, d, nil, t0)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "verdicts", fmt.Sprint(offer(t, c, "a1", "b3", "c5", "d7", "e9", "f20", "f21")),
		"[accepted ignored accepted accepted ignored ignored accepted]")
	for _, o := range []string{"a", "c", "d", "f"} {
		c.Settle(o, 1, 5, 7, 21)
	}
	wantEqual(t, "position", c.Position(), 21)
}

func TestChangesAndStored(t *testing.T) {
	t.Parallel()
	c := New(hourly)
	wantEqual(t, "dirty", c.Dirty(), false)
	offer(t, c, "a1", "b2")
	c.Advance(7)
	wantEqual(t, "dirty after reading", c.Dirty(), false)
	c.Fail(take(t, c, t0, 1, "a", 1), t0, Failure{})
	one := c.Changes()
	if len(one.Lanes) != 1 || one.Document == nil || one.Empty() {
		t.Fatalf("%+v", one)
	}
	offer(t, c, "a9") // further changes before it is stored
	c.Stored(one)
	two := c.Changes()
	if len(two.Lanes) != 1 || len(two.Lanes[0].Entries) != 2 || two.Document == nil {
		t.Fatalf("%+v", two)
	}
	if again := c.Changes(); len(again.Lanes) != 1 || again.Document == nil {
		t.Fatalf("what was not stored is to come again: %+v", again)
	}
	c.Settle("a", 1, 9) // the lane goes before it was acknowledged
	c.Stored(two)
	three := c.Changes()
	if len(three.Lanes) != 0 || !slices.Equal(three.Remove, []string{"a"}) {
		t.Fatalf("%+v", three)
	}
	// It comes back while it is being removed: the removal in progress is done with, the lane is to
	// be put again.
	c.Succeed(take(t, c, t0, 1, "b", 2), t0)
	offer(t, c, "a10")
	c.Fail(take(t, c, t0, 1, "a", 10), t0, Failure{})
	c.Stored(three)
	four := c.Changes()
	if len(four.Lanes) != 1 || len(four.Remove) != 0 {
		t.Fatalf("%+v", four)
	}
	c.Stored(four)
	if c.Dirty() {
		t.Fatal("dirty with everything stored")
	}
	c.SetCarried(Carried{Epoch: 3})
	if five := c.Changes(); five.Document == nil || five.Document.Epoch != 3 {
		t.Fatalf("%+v", five)
	}
}

func TestLanesOfAnotherGenerationAreRemoved(t *testing.T) {
	t.Parallel()
	c, err := Load(hourly, Document{V: 1, Position: 9, Carried: Carried{Generation: "new"}},
		[]Lane{{V: 1, Order: "a", Entries: []uint64{3}, Generation: "old"},
			{V: 1, Order: "b", Entries: []uint64{4}, Generation: "new"}}, t0)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "lanes", c.Lanes(), 1)
	if ch := c.Changes(); !slices.Equal(ch.Remove, []string{"a"}) {
		t.Fatalf("%+v", ch)
	}
}

// A lane that comes and goes while its removal was never acknowledged is still to be removed; an
// acknowledgement that comes late removes nothing newer.
func TestLaneComesBackBeforeItIsRemoved(t *testing.T) {
	t.Parallel()
	c := New(hourly)
	fail := func(seq uint64) {
		offer(t, c, fmt.Sprint("a", seq))
		c.Fail(take(t, c, t0, 1, "a", seq), t0, Failure{})
	}
	fail(1)
	c.Stored(c.Changes())
	c.Settle("a", 1)
	lost := c.Changes() // storing this fails
	wantEqual(t, "to be removed", len(lost.Remove), 1)
	fail(2)
	c.Settle("a", 2) // never handed out itself, yet the store knows the lane
	again := c.Changes()
	if !slices.Equal(again.Remove, []string{"a"}) {
		t.Fatalf("%+v", again)
	}
	c.Stored(lost) // too late to mean the removal of what came after
	if again = c.Changes(); !slices.Equal(again.Remove, []string{"a"}) {
		t.Fatalf("%+v", again)
	}
	c.Stored(again)
	wantEqual(t, "dirty", c.Dirty(), false)
}

// What was skipped before a crash stays skipped, though the lane that is made after it reads the
// log over it.
func TestSkippedBeforeThereWasALane(t *testing.T) {
	t.Parallel()
	p := hourly
	p.Window = 300
	c := New(p)
	var all []uint64
	for seq := uint64(1); seq <= 160; seq++ {
		c.Offer(Entry{seq, "a"})
		all = append(all, seq)
	}
	c.Settle("a", 150, 155)
	c = reload(t, c, p, t0)
	for seq := uint64(1); seq <= 152; seq++ {
		c.Offer(Entry{seq, "a"})
	}
	c.Fail(take(t, c, t0, 1, "a", 1), t0, Failure{}) // 155 is read after the lane was made
	for seq := uint64(153); seq <= 160; seq++ {
		c.Offer(Entry{seq, "a"})
	}
	c = reload(t, c, p, t0)
	now := t0.Add(time.Hour)
	for b, ok := c.Take(now, 50); ok; b, ok = c.Take(now, 50) {
		if slices.Contains(b.Seqs, 150) || slices.Contains(b.Seqs, 155) {
			t.Fatalf("what was skipped is attempted: %v", b.Seqs)
		}
		c.Succeed(b, now)
		for _, r := range c.Refills() {
			c.Refill(r, all, r.Through)
		}
	}
	wantEqual(t, "unsettled", c.Unsettled()+c.Lanes(), 0)
}

// Adopt writes all of a cursor under the new epoch. What a former owner writes too late is
// recognised and removed.
func TestAdoptFencesOffAFormerOwner(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := Policy{Schedule: []time.Duration{time.Hour}}
	doc := Document{V: version, Position: 9, Carried: Carried{Epoch: 2, Generation: "g"}}
	lanes := []Lane{
		// before anybody adopted anything: lanes keep old epochs
		{V: version, Order: "a", Entries: []uint64{3}, Epoch: 1, Generation: "g"},
		{V: version, Order: "b", Entries: []uint64{5, 6}, Epoch: 2, Generation: "g"},
	}
	c, err := Load(p, doc, lanes, now)
	if err != nil {
		t.Fatal(err)
	}
	c.Adopt(7)
	ch := c.Changes()
	if len(ch.Lanes) != 2 || ch.Document == nil || len(ch.Remove) != 0 || ch.Lanes[0].Epoch != 7 ||
		ch.Lanes[1].Epoch != 7 ||
		ch.Document.Epoch != 7 || ch.Document.Adopted != 7 || ch.Document.Position != 9 {
		t.Fatalf("%+v, document %+v", ch, ch.Document)
	}
	c.Stored(ch)
	if c.Dirty() {
		t.Error("still dirty once it is stored")
	}

	late := Lane{V: version, Order: "c", Entries: []uint64{8}, Epoch: 2, Generation: "g"}
	again, err := Load(p, *ch.Document, append(ch.Lanes, late), now)
	if err != nil {
		t.Fatal(err)
	}
	left := again.Changes()
	if again.Lanes() != 2 || again.Where(Entry{8, "c"}) != Settled || len(left.Remove) != 1 || left.Remove[0] != "c" {
		t.Errorf("%d lanes, to be removed: %v", again.Lanes(), left.Remove)
	}
	crashed, err := Load(p, doc, ch.Lanes, now) // the lanes were written, the document was not
	if err != nil || crashed.Lanes() != 2 {
		t.Errorf("%v, %d lanes", err, crashed.Lanes())
	}
}
