package cursor

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
)

var hourly = Policy{Schedule: []time.Duration{time.Hour}, Forever: true}

// storeAll plays a store in which everything works.
func storeAll(c *Cursor, lanes map[string]Lane, doc *Document) {
	ch := c.Changes()
	for _, l := range ch.Lanes {
		lanes[l.Order] = l
	}
	if ch.Document != nil {
		*doc = *ch.Document
	}
	for _, o := range ch.Remove {
		delete(lanes, o)
	}
	c.Stored(ch)
}

func TestWindow(t *testing.T) {
	t.Parallel()
	c := New(Policy{Window: 2})
	wantEqual(t, "verdicts", fmt.Sprint(offer(t, c, "a1", "a3", "b5", "b6")), "[accepted accepted full full]")
	wantEqual(t, "room", c.Room(), false)
	c.Advance(9) // does not go past what was refused
	c.Succeed(take(t, c, t0, 1, "a", 1), t0)
	wantEqual(t, "room", c.Room(), true)
	wantEqual(t, "verdicts", fmt.Sprint(offer(t, c, "b6", "b5", "b6")), "[full accepted full]")
	wantEqual(t, "read from", c.ReadFrom(), 6)
	c.Succeed(take(t, c, t0, 1, "a", 3), t0)
	wantEqual(t, "verdicts", fmt.Sprint(offer(t, c, "b8", "b9")), "[accepted full]") // 6 is gone from the log
}

func TestCongested(t *testing.T) {
	t.Parallel()
	p := hourly
	p.MaxLanes, p.Concurrency = 2, 3
	c := New(p)
	stored, doc := map[string]Lane{}, Document{}
	offer(t, c, "a1", "b2", "c3", "d4", "a5")
	a, b, x := take(t, c, t0, 1, "a", 1), take(t, c, t0, 1, "b", 2), take(t, c, t0, 1, "c", 3)
	c.Fail(a, t0, Failure{})
	c.Fail(b, t0, Failure{})
	wantEqual(t, "state", c.State(), Congested)
	takeNone(t, c, t0) // d is fresh
	c.Fail(x, t0, Failure{})
	wantEqual(t, "lanes", c.Lanes(), 3)
	wantEqual(t, "position", c.Position(), 2) // stands before c
	storeAll(c, stored, &doc)
	wantEqual(t, "stored lanes", len(stored), 2)

	now := t0.Add(time.Hour) // due lanes go on
	for _, want := range []string{"a", "b", "c"} {
		if b, ok := c.Take(now, 1); !ok || b.Order != want {
			t.Fatalf("took %+v, want %q", b, want)
		}
	}
	for _, order := range []string{"a", "b"} {
		q := c.queues[order]
		c.Succeed(Batch{Order: order, id: q.batch}, now)
	}
	wantEqual(t, "congested", c.Congested(), true) // b's place is free once the store has removed it
	wantEqual(t, "position", c.Position(), 2)
	storeAll(c, stored, &doc)
	wantEqual(t, "position", c.Position(), 3) // c's lane is to be stored
	storeAll(c, stored, &doc)
	if _, ok := stored["c"]; !ok || len(stored) != 2 || doc.Position != 3 {
		t.Fatalf("stored %v, %+v", stored, doc)
	}
	c.Succeed(take(t, c, now, 1, "a", 5), now)
	storeAll(c, stored, &doc)
	wantEqual(t, "state", c.State(), Failing)
	take(t, c, now, 1, "d", 4)
}

func TestLaneListsAHundredThenReadsOn(t *testing.T) {
	t.Parallel()
	p := hourly
	p.Window = 200
	c := New(p)
	for seq := uint64(1); seq <= 150; seq++ {
		c.Offer(Entry{seq, "a"})
	}
	c.Fail(take(t, c, t0, 1, "a", 1), t0, Failure{})
	wantEqual(t, "position", c.Position(), 150)
	wantEqual(t, "listed", c.Unsettled(), LaneEntries)
	wantEqual(t, "verdict", c.Offer(Entry{151, "a"}), Laned)
	if l, _ := c.Lane("a"); l.OpenFrom != 101 || len(l.Entries) != LaneEntries {
		t.Fatalf("open from %d with %d entries", l.OpenFrom, len(l.Entries))
	}
	wantEqual(t, "skip behind the hundred", c.Settle("a", 120), 1)
	wantEqual(t, "skip it again", c.Settle("a", 120), 0)
	wantEqual(t, "skip what is not read", c.Settle("a", 152), 0)
	wantEqual(t, "where", c.Where(Entry{120, "a"}), Settled)
	wantEqual(t, "where", c.Where(Entry{121, "a"}), InLane)

	c = reload(t, c, p, t0)
	now := t0.Add(time.Hour)
	drain := func() {
		for b, ok := c.Take(now, 50); ok; b, ok = c.Take(now, 50) {
			c.Succeed(b, now)
		}
	}
	if len(c.Refills()) != 0 {
		t.Fatal("a lane with entries asks for more")
	}
	drain()
	wantEqual(t, "lanes", c.Lanes(), 1)
	c.Offer(Entry{152, "a"}) // goes on waiting in the lane
	rs := c.Refills()
	if len(rs) != 1 || rs[0] != (Refill{"a", 101, 152}) {
		t.Fatalf("refills %v", rs)
	}
	wantEqual(t, "a page of nothing", c.Refill(rs[0], nil, 0), false)
	wantEqual(t, "a page", c.Refill(rs[0], []uint64{99, 101, 119, 120, 121}, 130), true)
	wantEqual(t, "the same again", c.Refill(rs[0], []uint64{101}, 130), false)
	b := take(t, c, now, 9, "a", 101, 119, 121)
	wantEqual(t, "attempt", b.Attempt, 1)
	c.Succeed(b, now)
	rs = c.Refills()
	c.Offer(Entry{153, "a"}) // after the log was read
	var rest []uint64
	for seq := uint64(131); seq <= 153; seq++ {
		rest = append(rest, seq)
	}
	wantEqual(t, "the rest", c.Refill(rs[0], rest, 153), true)
	drain()
	rs = c.Refills()
	if len(rs) != 1 || rs[0] != (Refill{"a", 153, 153}) {
		t.Fatalf("refills %v", rs)
	}
	c.Refill(rs[0], []uint64{153}, 153)
	c.Succeed(take(t, c, now, 1, "a", 153), now)
	wantEqual(t, "lanes", c.Lanes(), 0)
	wantEqual(t, "verdict", c.Offer(Entry{154, "a"}), Accepted)
}

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
	wantEqual(t, "verdicts", fmt.Sprint(offer(t, c, "b4", "a5", "b6", "a7", "a8")), "[accepted ignored accepted ignored laned]")
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
	wantEqual(t, "verdicts", fmt.Sprint(offer(t, c, "b4", "a5", "b6", "a7", "a8")), "[accepted ignored accepted ignored accepted]")

	// A lane lists all that waits of its order: what it knows of and does not list was settled before it was stored.
	c = load()
	wantEqual(t, "verdicts", fmt.Sprint(offer(t, c, "b3", "a4", "a5", "a6", "a7", "a8")), "[accepted ignored ignored ignored ignored laned]")
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
	// It comes back while it is being removed: the removal in progress is done with, the lane is to be put again.
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
		[]Lane{{V: 1, Order: "a", Entries: []uint64{3}, Generation: "old"}, {V: 1, Order: "b", Entries: []uint64{4}, Generation: "new"}}, t0)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "lanes", c.Lanes(), 1)
	if ch := c.Changes(); !slices.Equal(ch.Remove, []string{"a"}) {
		t.Fatalf("%+v", ch)
	}
}

// A lane that comes and goes while its removal was never acknowledged is still to be removed; an acknowledgement that
// comes late removes nothing newer.
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

// What was skipped before a crash stays skipped, though the lane that is made after it reads the log over it.
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

func TestExpireBelow(t *testing.T) {
	t.Parallel()
	p := hourly
	p.Concurrency, p.Window = 2, 300
	c := New(p)
	offer(t, c, "a1", "b2", "a3", "c4", "c9", "b11")
	a, b := take(t, c, t0, 1, "a", 1), take(t, c, t0, 1, "b", 2)
	c.Fail(a, t0, Failure{})
	ex := c.ExpireBelow(10)
	if !slices.Equal(ex.Entries, []Entry{{1, "a"}, {3, "a"}, {4, "c"}, {9, "c"}}) || len(ex.Stretches) != 0 {
		t.Fatalf("expired %+v", ex)
	}
	wantEqual(t, "position", c.Position(), 1) // b2 is in flight
	c.Succeed(b, t0)
	wantEqual(t, "position", c.Position(), 10)

	ex = c.ExpireBelow(21)
	if !slices.Equal(ex.Entries, []Entry{{11, "b"}}) || !slices.Equal(ex.Stretches, []Stretch{{"", 12, 20}}) {
		t.Fatalf("expired %+v", ex)
	}
	wantEqual(t, "read from", c.ReadFrom(), 21)

	for seq := uint64(21); seq <= 170; seq++ {
		c.Offer(Entry{seq, "a"})
	}
	c.Fail(take(t, c, t0, 1, "a", 21), t0, Failure{})
	ex = c.ExpireBelow(140)
	if len(ex.Entries) != 100 || !slices.Equal(ex.Stretches, []Stretch{{"a", 121, 139}}) {
		t.Fatalf("expired %d, %+v", len(ex.Entries), ex.Stretches)
	}
	if rs := c.Refills(); len(rs) != 1 || rs[0] != (Refill{"a", 140, 170}) {
		t.Fatalf("refills %v", rs)
	}
	c.ExpireBelow(171)
	wantEqual(t, "unsettled", c.Unsettled()+c.Lanes(), 0)
}

func TestClamp(t *testing.T) {
	t.Parallel()
	p := hourly
	p.Concurrency = 3
	c := New(p)
	offer(t, c, "a1", "b2", "a3", "c4", "a9", "d10", "e12")
	c.Fail(take(t, c, t0, 1, "a", 1), t0, Failure{})
	b := take(t, c, t0, 1, "b", 2)
	c.Settle("d", 10)
	if _, ok := c.Clamp(12); ok {
		t.Fatal("clamped to what is there")
	}
	for name, c := range map[string]*Cursor{"in memory": c, "from the store": reload(t, c, p, t0)} {
		cl, ok := c.Clamp(6)
		if !ok || c.ReadFrom() > 7 {
			t.Fatalf("%s: %+v, reading from %d", name, cl, c.ReadFrom())
		}
		if l, _ := c.Lane("a"); !slices.Equal(l.Entries, []uint64{1, 3}) {
			t.Fatalf("%s: lane of %v", name, l.Entries)
		}
		for e := range slices.Values([]string{"b2", "c4", "x7", "d10", "e12"}) {
			offer(t, c, e)
		}
		wantEqual(t, name+": where a new entry of the same number stands", c.Where(Entry{10, "d"}), Waiting)
	}
	c.Succeed(b, t0)
	wantEqual(t, "position", c.Position(), 3)
	if cl, ok := c.Clamp(0); !ok || c.Position() != 0 || c.Unsettled() != 0 || c.Lanes() != 0 || len(cl.Entries) == 0 {
		t.Fatalf("%+v, %d entries left", cl, c.Unsettled())
	}
	if _, ok := New(p).Clamp(math.MaxUint64); ok {
		t.Fatal("clamped to the end of all numbers")
	}
}

// The document stays within its bound with every hole there can be, with the longest numbers, also after reloads that
// hold more than a document may.
func TestDocumentSize(t *testing.T) {
	t.Parallel()
	const base = math.MaxUint64 - 1<<20
	c := New(Policy{Window: 100_000})
	c.Advance(base)
	for i := range uint64(20_000) {
		c.Offer(Entry{base + 1 + 2*i, fmt.Sprint("order", i)})
	}
	for i := uint64(1); i < 20_000; i += 2 {
		c.Settle(fmt.Sprint("order", i), base+1+2*i)
	}
	for range 3 {
		d := c.Document()
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > MaxDocument || len(d.Done) != MaxDone {
			t.Fatalf("%d bytes, %d ranges", len(b), len(d.Done))
		}
		d, err = DecodeDocument(b)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = Load(Policy{Window: 100_000}, d, nil, t0); err != nil {
			t.Fatal(err)
		}
		ignored := 0
		for i := range uint64(20_000) {
			if c.Offer(Entry{base + 1 + 2*i, fmt.Sprint("order", i)}) == Ignored {
				ignored++
			}
		}
		if ignored < MaxDone { // what was cut off is repeated, the rest is not
			t.Fatalf("%d of what was settled is recognised", ignored)
		}
	}
}

func TestLaneSize(t *testing.T) {
	t.Parallel()
	const base = math.MaxUint64 - 1<<20
	p := hourly
	p.Window = 5000
	c := New(p)
	c.Advance(base)
	for i := range uint64(4000) {
		c.Offer(Entry{base + 1 + i, "a"})
	}
	b, _ := c.Take(t0, 1)
	c.Fail(b, t0, Failure{Reason: string(make([]byte, 1000))})
	skipped := 0
	for i := range uint64(3000) {
		skipped += c.Settle("a", base+500+i)
	}
	wantEqual(t, "skipped", skipped, maxSkipped)
	l, _ := c.Lane("a")
	enc, err := json.Marshal(l)
	if err != nil || len(enc) > 32<<10 {
		t.Fatalf("a lane of %d bytes, %v", len(enc), err)
	}
	if _, err := DecodeLane(enc); err != nil {
		t.Fatal(err)
	}
}

func TestIdleCursorIsSmall(t *testing.T) {
	t.Parallel()
	c := New(Policy{Window: 5000})
	for i := range uint64(5000) {
		c.Offer(Entry{i + 1, fmt.Sprint(i)})
	}
	for b, ok := c.Take(t0, 1); ok; b, ok = c.Take(t0, 1) {
		c.Succeed(b, t0)
	}
	storeAll(c, map[string]Lane{}, &Document{})
	if !c.Idle() || c.queues != nil || cap(c.ready.qs) != 0 || cap(c.dueLanes.qs) != 0 || c.first != nil {
		t.Fatal("an idle cursor holds on to what it once needed")
	}
}
