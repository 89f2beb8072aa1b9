package replay

// GiveUpAfter is giveUpAfter.
const GiveUpAfter = giveUpAfter

// HoldLoads has every replay wait before it is loaded, until release is called.
func (r *Replayer) HoldLoads() (release func()) {
	for range loadsAtOnce {
		r.loads.all <- struct{}{}
	}
	return func() {
		for range loadsAtOnce {
			<-r.loads.all
		}
	}
}

// Working returns how many replays are at work.
func (r *Replayer) Working() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.working)
}

// Unready returns how many replays at work wait for their callback or its client to be known.
func (r *Replayer) Unready() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for w := range r.working {
		if k := w.target.known.Load(); k != nil && (k.target == nil || k.target.Orphaned) {
			n++
		}
	}
	return n
}

// Overlook has the owner of a shard learn of no further change, as if each had been made in a moment when nobody looks.
func (r *Replayer) Overlook(shard int) { r.owned[shard].Store(nil) }

// Owns reports whether a shard is owned.
func (r *Replayer) Owns(shard int) bool { return r.owned[shard].Load() != nil }
