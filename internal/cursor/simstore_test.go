package cursor

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// store takes changes, stores some or all of them, now or some moves later, and perhaps crashes in
// between.
func (s *sim) store() {
	if s.pending == nil {
		ch := s.c.Changes()
		s.pending, s.pendingSince = &ch, maps.Clone(s.since)
		if !s.calm && s.chance(30) {
			return // the rest after other moves
		}
	}
	ch, covered := s.pending, s.pendingSince
	s.pending, s.pendingSince = nil, nil
	stop := -1
	if !s.calm && s.chance(25) {
		stop = s.draw(len(ch.Lanes) + len(ch.Remove) + 2)
	}
	n := 0
	next := func() bool { n++; return n-1 != stop }
	if s.fault == ackedUnstored {
		ch.Lanes, ch.Document, ch.Remove, ch.removals = nil, nil, nil, nil
		stop = -1
	}
	if s.fault == documentFirst && len(ch.Lanes) > 0 && ch.Document != nil {
		s.putDocument(ch.Document)
		s.crash()
		return
	}
	complete := func() bool {
		for _, l := range ch.Lanes {
			if !next() {
				return false
			}
			s.putLane(l)
		}
		if !next() {
			return false
		}
		if ch.Document != nil {
			s.putDocument(ch.Document)
			s.checkCovered()
		}
		for _, order := range ch.Remove {
			if !next() {
				return false
			}
			if s.fault != lanesNotRemoved {
				delete(s.lanes, order)
			}
		}
		return true
	}()
	switch {
	case complete:
		s.c.Stored(*ch)
		for seq, n := range covered {
			if s.since[seq] == n { // and not settled again meanwhile
				delete(s.since, seq)
			}
		}
	case s.chance(50):
		s.seen["crash in store"]++
		s.crash()
	default:
		s.seen["failed store"]++
	}
}

func (s *sim) putLane(l Lane) {
	b, err := json.Marshal(l)
	if err != nil {
		s.fail("store", "lane: %v", err)
	}
	if len(l.Entries) > LaneEntries {
		s.fail("bounds", "a lane of %d entries", len(l.Entries))
	}
	if s.fault == lanesNotPut {
		return
	}
	s.lanes[l.Order] = b
	if len(s.lanes) > s.policy.MaxLanes {
		s.fail("bounds", "%d lanes are stored", len(s.lanes))
	}
}

func (s *sim) putDocument(d *Document) {
	b, err := json.Marshal(d)
	if err != nil {
		s.fail("store", "document: %v", err)
	}
	if len(b) > MaxDocument {
		s.fail("bounds", "a document of %d bytes", len(b))
	}
	if s.fault == doneForgotten {
		d.Done = nil
		b, _ = json.Marshal(d)
	}
	s.doc = b
}

// checkCovered checks the stored document against the stored lanes: everything that the document
// counts as done is settled, or in a lane.
func (s *sim) checkCovered() {
	d, lanes := s.load()
	byOrder := map[string]Lane{}
	for _, l := range lanes {
		byOrder[l.Order] = l
	}
	covered := func(seq uint64) bool {
		return seq <= d.Position || slices.ContainsFunc(d.Done, func(r Range) bool {
			return r[0] <= seq && seq <= r[1]
		})
	}
	for seq := uint64(1); seq <= s.lastSeq(); seq++ {
		if s.log[seq] == "" || s.settled[seq] > 0 || !covered(seq) {
			continue
		}
		key := s.key(seq)
		l := byOrder[key]
		if _, listed := slices.BinarySearch(l.Entries, seq); !listed && (l.OpenFrom == 0 || seq < l.OpenFrom) {
			s.fail("lost", "%d of %q is unsettled, in no stored lane, and the stored position has passed it", seq, key)
		}
	}
}

func (s *sim) load() (Document, []Lane) {
	d, err := DecodeDocument(s.doc)
	if err != nil {
		s.fail("store", "%v", err)
	}
	var lanes []Lane
	for _, order := range slices.Sorted(maps.Keys(s.lanes)) {
		l, err := DecodeLane(s.lanes[order])
		if err != nil {
			s.fail("store", "%v", err)
		}
		lanes = append(lanes, l)
	}
	return d, lanes
}

func (s *sim) crash() {
	d, lanes := s.load()
	c, err := Load(s.policy, d, lanes, s.now)
	if err != nil {
		s.fail("store", "%v", err)
	}
	for seq := range s.since {
		s.allowed[seq] = true
	}
	s.c, s.thisLife, s.flying, s.pending, s.pendingSince = c, map[uint64]int{}, nil, nil, nil
	s.staleRefill = nil
	s.crashes++
	s.idle = time.Time{} // what was not stored has not happened
	s.expireBelowFirst()
	s.read = c.ReadFrom()
}

// checkFailing checks that the time for which the receiver has failed has nothing in it in which nothing waited, or in
// which nothing could be sent.
func (s *sim) checkFailing() {
	since, waits := s.c.Health().FailingSince, s.c.Unsettled() > 0 || s.c.Lanes() > 0
	if !waits || s.now.Before(s.idle) { // or the clock was set back
		s.idle = s.now
	}
	switch {
	case since.IsZero():
	case !waits:
		s.fail("failing", "since %s, though nothing waits", since)
	case since.Before(s.idle):
		s.fail("failing", "since %s, but nothing was waiting, or could be sent, at %s", since, s.idle)
	default:
		s.seen["failing"]++
	}
}

// check is what holds after every move.
func (s *sim) check() {
	c := s.c
	if c.Lanes() > 0 {
		s.seen["lanes"]++
	}
	s.checkFailing()
	if c.admitted+len(c.gone) > s.policy.MaxLanes {
		s.fail("bounds", "%d lanes and %d to be removed", c.admitted, len(c.gone))
	}
	if len(c.over) > s.policy.Concurrency {
		s.fail("bounds", "%d lanes over the bound at a concurrency of %d", len(c.over), s.policy.Concurrency)
	}
	if len(c.over) > 0 {
		s.seen["over"]++
	}
	if c.holding > s.policy.Window {
		s.fail("bounds", "%d entries hold the position in a window of %d", c.holding, s.policy.Window)
	}
	if at, ok := c.NextDue(s.now); ok && at.After(s.now.Add(25*time.Hour)) {
		s.fail("time", "the next attempt is %v away", at.Sub(s.now))
	}
	starving, entries, flying := 0, 0, 0
	for _, q := range c.queues {
		entries += len(q.items)
		if q.starving {
			starving++
		}
		if q.batch != 0 {
			flying++
		}
		if q.lane != nil && q.lane.admitted && len(q.items) > LaneEntries {
			s.fail("bounds", "a lane of %d entries", len(q.items))
		}
		if q.lane != nil && q.lane.openFrom != 0 {
			s.seen["open lane"]++
		}
		if q.batch == 0 && !q.starving && (q.in == nil || q.in.qs[q.index] != q) {
			s.fail("stuck", "order %q waits for nothing", q.order)
		}
	}
	if skipped := len(c.Document().Skipped); skipped != c.skipped.n {
		s.fail("counts", "skipped %d/%d", skipped, c.skipped.n)
	}
	if starving != c.starving || entries != c.entries || flying != c.inFlight {
		s.fail("counts", "starving %d/%d, entries %d/%d, in flight %d/%d",
			starving, c.starving, entries, c.entries, flying, c.inFlight)
	}
	if len(c.queues) == 0 && c.first != nil {
		s.fail("stuck", "%d holds the position and waits for nothing", c.first.seq)
	}
	if _, err := json.Marshal(c.Document()); err != nil {
		s.fail("store", "%v", err)
	}
	d := c.Document()
	if err := d.validate(); err != nil {
		s.fail("store", "%v", err)
	}
}
