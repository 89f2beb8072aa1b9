package cursor

import (
	"slices"
	"time"
)

func (s *sim) finish() {
	if len(s.flying) == 0 {
		return
	}
	i := s.draw(len(s.flying))
	b := s.flying[i]
	s.flying = slices.Delete(s.flying, i, i+1)
	q := s.c.flying(b)
	if q == nil { // skipped meanwhile
		if s.c.Succeed(b, s.now) != 0 || s.c.Fail(b, s.now, Failure{}).Outcome != Stale {
			s.fail("stale", "a stale batch %v had an effect", b.Seqs)
		}
		return
	}
	now := seqs(q.items[:q.taken]) // without what was skipped meanwhile
	for _, seq := range now {
		if !slices.Contains(b.Seqs, seq) {
			s.fail("settle", "%v is in flight, the cursor says %v", b.Seqs, now)
		}
	}
	switch n := s.draw(100); {
	case s.calm || n < 40 && !s.down:
		s.settle(now...)
		if got := s.c.Succeed(b, s.now); got != len(now) {
			s.fail("settle", "%d entries were settled, not %d", got, len(now))
		}
	case n < 45:
		s.c.Release(b)
	case n < 50 && !s.down: // some of it worked, the rest did not
		part := now[:s.draw(len(now)+1)]
		s.settle(part...)
		if got := s.c.Settle(b.Order, part...); got != len(part) {
			s.fail("settle", "%d entries were settled, not %d", got, len(part))
		}
		if len(part) < len(now) {
			s.failed(b, now[len(part):])
		}
	default:
		s.failed(b, now)
	}
}

func (s *sim) failed(b Batch, now []uint64) {
	f := Failure{Reason: []string{"503", "timeout"}[s.draw(2)], Local: !s.down && s.chance(20)}
	if s.chance(10) {
		f.RetryAfter = time.Duration(s.draw(100)) * time.Hour
	}
	headIsSame := now[0] == b.Seqs[0]
	r := s.c.Fail(b, s.now, f)
	if headIsSame && (r.Outcome == Exhausted) != b.LastTry {
		s.fail("attempts", "last try: %v, outcome: %v", b.LastTry, r.Outcome)
	}
	if r.Outcome != Exhausted {
		return
	}
	s.seen["exhausted"]++
	if s.policy.Forever {
		s.fail("attempts", "exhausted, for ever")
	}
	if s.chance(10) {
		s.c.Release(b)
		return
	}
	n := 1 + s.draw(len(now))
	s.settle(now[:n]...)
	s.c.Settle(b.Order, now[:n]...)
	if s.c.flying(b) != nil {
		s.fail("settle", "an exhausted batch is in flight after it was settled")
	}
}

func (s *sim) operate() {
	switch s.draw(5) {
	case 0:
		s.c.ResumeAll(s.now)
	case 4: // after a pause
		s.c.ForgetFailingSince()
		s.idle = s.now
	case 1:
		s.c.Retry(s.order(), s.now)
	default: // skip one that is listed
		qs := s.c.sorted()
		if len(qs) == 0 {
			return
		}
		q := qs[s.draw(len(qs))]
		if q.held {
			return
		}
		if l := q.lane; l != nil && l.openFrom != 0 && s.chance(50) {
			seq := l.openFrom + uint64(s.draw(100))
			if seq > s.c.high || s.key(seq) != q.order || s.c.Where(Entry{seq, q.order}) != InLane {
				return
			}
			s.settle(seq)
			if s.c.Settle(q.order, seq) != 1 {
				s.fail("settle", "%d behind a lane could not be skipped", seq)
			}
			s.seen["skip unlisted"]++
			return
		}
		if len(q.items) == 0 {
			return
		}
		seq := q.items[s.draw(len(q.items))].seq
		s.settle(seq)
		if s.c.Settle(q.order, seq) != 1 {
			s.fail("settle", "%d could not be skipped", seq)
		}
		s.seen["skip"]++
	}
}

func (s *sim) expire() {
	if s.draw(5) > 0 || s.lastSeq() < 10 {
		return
	}
	s.first = min(s.first+uint64(s.draw(10)), s.lastSeq())
	s.expireBelowFirst()
}

func (s *sim) expireBelowFirst() {
	ex := s.c.ExpireBelow(s.first)
	for _, e := range ex.Entries {
		if e.Seq >= s.first {
			s.fail("expire", "%d is in the log", e.Seq)
		}
		s.settle(e.Seq)
		s.seen["expired"]++
	}
	for _, st := range ex.Stretches {
		for seq := st.From; seq <= st.To; seq++ {
			if s.log[seq] != "" && (st.Order == "" || st.Order == s.key(seq)) && s.settled[seq] == 0 &&
				s.c.Where(Entry{seq, s.key(seq)}) == Settled { // and not in flight
				s.settle(seq)
				s.seen["expired unlisted"]++
			}
		}
	}
}

func (s *sim) refill() {
	rs := s.c.Refills()
	if s.staleRefill != nil && s.chance(50) {
		rs = append(rs, *s.staleRefill)
	}
	for _, r := range rs {
		s.seen["refill"]++
		s.staleRefill = &r
		through := r.Through
		if s.chance(40) {
			through = r.From + uint64(s.draw(int(r.Through-r.From)+1))
		}
		var found []uint64
		for seq := max(r.From, s.first); seq <= through && s.fault != refillEmpty; seq++ {
			if s.log[seq] != "" && s.key(seq) == r.Order {
				found = append(found, seq)
			}
		}
		s.c.Refill(r, found, through)
	}
}
