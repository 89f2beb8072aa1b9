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
	wantEqual(t, "position", c.Position(), 3) // c's lane must be stored
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

// The document stays within its bound with every hole there can be, with the longest numbers, also
// after reloads that hold more than a document may.
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
	wantEqual(t, "skipped", skipped, MaxSkipped)
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
