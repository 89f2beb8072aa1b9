package cursor

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// sim is a reader, a receiver, a clock and a store around a Cursor, and the truth about what became
// of every entry. It makes random moves and checks after each what the cursor promises. A violation
// is a panic that simulate turns into an error, so that the same simulation serves rapid and the
// tests of the checker itself.
type sim struct {
	draw   func(n int) int // 0 … n-1
	fault  fault
	policy Policy
	c      *Cursor
	now    time.Time

	log    []string // log[seq] is the order of an entry, "" if it is not ours
	first  uint64   // the log's first position
	read   uint64   // the next position the reader looks at
	flying []Batch
	orders int
	down   bool // the receiver sends no response
	calm   bool // everything succeeds, nothing crashes

	doc   []byte // the store
	lanes map[string][]byte

	settled  map[uint64]int  // ever
	thisLife map[uint64]int  // since the last load
	idle     time.Time       // when nothing waited last, or nothing could be sent
	since    map[uint64]int  // since the last complete store, as which settlement
	allowed  map[uint64]bool // may be settled again, because of a crash
	crashes  int

	pending      *Changes // taken, not stored yet
	pendingSince map[uint64]int
	staleRefill  *Refill

	// How much a run has seen of what is rare, so that a test can check that it happened at all.
	seen map[string]int
}

// violation is a broken promise.
type violation struct{ kind, text string }

func (v violation) Error() string { return v.kind + ": " + v.text }

// fault is something done wrong on purpose, to see that the checker notices.
type fault int

const (
	none            fault = iota
	lanesNotPut           // the store loses lanes
	doneForgotten         // the store loses the ranges done above the position
	orderSplit            // the order's key is not the order
	ackedUnstored         // an acknowledgement of nothing
	refillEmpty           // the log seems empty when a lane asks for more
	refusalIgnored        // the reader reads over an entry that was refused
	lanesNotRemoved       // lanes stay in the store for ever
	documentFirst         // the document is stored before the lanes it passes, then a crash
)

func (s *sim) fail(kind, format string, args ...any) {
	panic(violation{kind, fmt.Sprintf(format, args...)})
}

func (s *sim) chance(percent int) bool { return s.draw(100) < percent }

func simulate(draw func(int) int, steps int, f fault) (seen map[string]int, err error) {
	s := &sim{
		draw: draw, fault: f, now: time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC), log: []string{""}, first: 1, read: 1,
		lanes: map[string][]byte{}, settled: map[uint64]int{}, thisLife: map[uint64]int{}, since: map[uint64]int{},
		allowed: map[uint64]bool{}, seen: map[string]int{},
	}
	s.policy = Policy{
		Concurrency: 1 + draw(4), Window: []int{2, 8, 1024}[draw(3)], MaxLanes: []int{1, 3, 1000}[draw(3)],
		Schedule: []time.Duration{5 * time.Second, time.Minute, 10 * time.Minute}[:draw(4)],
		Forever:  s.chance(30), CircuitFailures: draw(6),
	}
	if s.chance(50) {
		s.policy.Jitter = func(d time.Duration) time.Duration { return d - d/10 + time.Duration(draw(int(d/5)+1)) }
	}
	s.orders = 1 + draw(6)
	s.c = New(s.policy)
	s.c.SetCarried(Carried{Epoch: 7, Generation: "g"})
	s.doc, _ = json.Marshal(s.c.Document())
	defer func() {
		if r := recover(); r != nil {
			v, ok := r.(violation)
			if !ok {
				panic(r)
			}
			seen, err = s.seen, v
		}
	}()
	for range steps {
		s.step()
		s.check()
	}
	s.drain()
	return s.seen, nil
}

func (s *sim) step() {
	switch n := s.draw(100); {
	case n < 12:
		s.append()
	case n < 32:
		s.offer(1 + s.draw(20))
	case n < 52:
		s.take()
	case n < 74:
		s.finish()
	case n < 82:
		s.store()
	case n < 85:
		s.refill()
	case n < 91:
		s.now = s.now.Add([]time.Duration{time.Millisecond, 5 * time.Second, time.Minute, time.Hour}[s.draw(4)])
	case n < 93:
		s.now = s.now.Add(-[]time.Duration{time.Millisecond, time.Minute, 48 * time.Hour}[s.draw(3)])
		s.seen["clock back"]++
	case n < 95:
		s.operate()
	case n < 96:
		s.down = !s.down
	case n < 97:
		s.expire()
	case n < 98:
		s.crash()
	case n < 99:
		s.read = s.c.ReadFrom()
	default:
		s.c.SetCarried(Carried{Epoch: s.c.Carried().Epoch, Generation: "g", Behind: s.chance(50)})
	}
}

func (s *sim) append() {
	n := 1 + s.draw(5)
	if s.chance(10) {
		n = 150 // past what a lane lists
	}
	one := ""
	if s.chance(50) {
		one = s.order()
	}
	for range n {
		switch {
		case s.chance(20):
			s.log = append(s.log, "")
		case one != "":
			s.log = append(s.log, one)
		default:
			s.log = append(s.log, s.order())
		}
	}
}

func (s *sim) order() string { return string(rune('a' + s.draw(s.orders))) }

func (s *sim) lastSeq() uint64 { return uint64(len(s.log) - 1) }

// key returns the order key that the cursor gets for an entry.
func (s *sim) key(seq uint64) string {
	if s.fault == orderSplit {
		return fmt.Sprint(s.log[seq], seq%2)
	}
	return s.log[seq]
}

func (s *sim) offer(n int) {
	s.read = max(s.read, s.first)
	for ; n > 0 && s.read <= s.lastSeq(); n-- {
		if s.log[s.read] == "" {
			if s.chance(50) {
				s.c.Advance(s.read)
			}
		} else {
			high := s.c.high
			switch v := s.c.Offer(Entry{s.read, s.key(s.read)}); {
			case v == Full && s.fault != refusalIgnored:
				s.seen["full"]++
				if s.c.high != high {
					s.fail("offer", "a refusal of %d moved the reader from %d to %d", s.read, high, s.c.high)
				}
				if s.chance(50) { // what comes after must be refused as well
					if next := s.read + 1; next <= s.lastSeq() && s.log[next] != "" &&
						s.c.Offer(Entry{next, s.key(next)}) != Full {
						s.fail("offer", "%d was accepted after %d had been refused", next, s.read)
					}
				}
				return
			case v == Ignored && s.settled[s.read] == 0 && s.c.Where(Entry{s.read, s.key(s.read)}) == Settled:
				s.fail("lost", "%d of %q is taken to be settled", s.read, s.log[s.read])
			}
		}
		s.read++
	}
}

func (s *sim) take() bool {
	most := 1
	if s.chance(30) {
		most = 1 + s.draw(120)
	}
	open, congested := s.c.State() == Open, s.c.Congested()
	before := 0
	for _, f := range s.flying {
		if s.c.flying(f) != nil {
			before++
		}
	}
	b, ok := s.c.Take(s.now, most)
	if !ok {
		if at, any := s.c.NextDue(s.now); any && !at.After(s.now) {
			s.fail("stuck", "nothing to take, though something is due since %v", s.now.Sub(at))
		}
		return false
	}
	s.checkBatch(b)
	switch {
	case before >= s.policy.Concurrency:
		s.fail("concurrency", "%d in flight, then one more", before)
	case b.Probe != open:
		s.fail("circuit", "open: %v, probe: %v", open, b.Probe)
	case open && (len(b.Seqs) != 1 ||
		slices.ContainsFunc(s.flying, func(f Batch) bool { return f.Probe && s.c.flying(f) != nil })):
		s.fail("circuit", "a second probe, or a probe of several entries")
	case congested && s.c.queues[b.Order].lane == nil:
		s.fail("bounds", "a fresh order was taken while congested")
	}
	if open {
		s.seen["probe"]++
	}
	if congested {
		s.seen["congested"]++
	}
	s.flying = append(s.flying, b)
	return true
}

// checkBatch checks that everything of the order before and between the batch's entries is settled,
// and that what was settled before is repeated only because of a crash.
func (s *sim) checkBatch(b Batch) {
	order := s.log[b.Seqs[0]]
	for _, f := range s.flying {
		if s.log[f.Seqs[0]] == order && s.c.flying(f) != nil {
			s.fail("order", "two batches of %q are in flight", order)
		}
	}
	for seq := uint64(1); seq <= b.Seqs[len(b.Seqs)-1]; seq++ {
		if s.log[seq] == order && s.settled[seq] == 0 && !slices.Contains(b.Seqs, seq) {
			s.fail("order", "%v of %q is attempted while %d is unsettled", b.Seqs, order, seq)
		}
	}
	for i, seq := range b.Seqs {
		if s.log[seq] != order || i > 0 && seq <= b.Seqs[i-1] {
			s.fail("order", "batch %v of %q is not ascending or not of one order", b.Seqs, order)
		}
		if s.settled[seq] > 0 && !s.allowed[seq] {
			s.fail("repeat", "%d of %q is attempted again without a crash that explains it", seq, order)
		}
	}
}

func (s *sim) settle(seqs ...uint64) {
	for _, seq := range seqs {
		s.settled[seq]++
		s.thisLife[seq]++
		if s.thisLife[seq] > 1 {
			s.fail("repeat", "%d was settled twice in one life", seq)
		}
		if s.settled[seq] > 1 {
			s.seen["repeat"]++
		}
		delete(s.allowed, seq)
		s.since[seq] = s.settled[seq]
	}
}

// drain lets everything succeed and time pass. Then everything in the log must be settled, and
// nothing may be left over.
func (s *sim) drain() {
	s.calm, s.down = true, false
	for range 20*len(s.log) + 1000 {
		s.store()
		if s.read > s.lastSeq() && s.c.Idle() {
			break
		}
		progress := false
		if n := s.read; n <= s.lastSeq() {
			s.offer(100)
			progress = s.read != n
		} else {
			s.c.Advance(s.lastSeq())
		}
		for s.take() {
			progress = true
		}
		for len(s.flying) > 0 {
			progress = true
			s.finish()
		}
		s.refill()
		s.check()
		if at, ok := s.c.NextDue(s.now); !progress && ok && at.After(s.now) {
			s.now = at
		}
	}
	for seq := uint64(1); seq <= s.lastSeq(); seq++ {
		if s.log[seq] != "" && s.settled[seq] == 0 {
			kind := "stuck"
			if s.read > seq && s.c.Where(Entry{seq, s.key(seq)}) == Settled {
				kind = "lost"
			}
			s.fail(kind, "%d of %q was never settled", seq, s.log[seq])
		}
	}
	s.c.Advance(s.lastSeq())
	if !s.c.Idle() || s.c.skipped.n != 0 || s.c.Position() != s.lastSeq() ||
		s.c.Unsettled() != 0 || s.c.InFlight() != 0 ||
		s.c.Lanes() != 0 {
		s.fail("stuck", "all is settled, but the cursor stands at %d of %d with %d entries, %d in flight, %d lanes",
			s.c.Position(), s.lastSeq(), s.c.Unsettled(), s.c.InFlight(), s.c.Lanes())
	}
	if len(s.lanes) != 0 {
		s.fail("stuck", "all is settled, but %d lanes are stored", len(s.lanes))
	}
}
