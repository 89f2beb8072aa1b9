package replay

// HoldLoads has every replay wait before it is loaded, until release is called.
func (r *Replayer) HoldLoads() (release func()) {
	for range cap(r.loads) {
		r.loads <- struct{}{}
	}
	return func() {
		for range cap(r.loads) {
			<-r.loads
		}
	}
}

// Working returns how many replays are at work.
func (r *Replayer) Working() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.working)
}
