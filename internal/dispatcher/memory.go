package dispatcher

import "sync/atomic"

// Bounds of the memory that Config.HeldBytes divides.
const (
	// DefaultHeldBytes is Config.HeldBytes unless it is set.
	DefaultHeldBytes = 256 << 20
	// minHeldBytes is what every callback may keep, however many there are: the events that are under way mostly fit.
	minHeldBytes = 32 << 10
)

// memory bounds the bodies of events that all callbacks keep at hand. Each callback has an equal part of the bound,
// and more while others leave it free; so together they keep at most twice the bound. A callback always keeps one
// event.
type memory struct {
	bound     int64
	used      atomic.Int64
	callbacks atomic.Int64
}

// part returns how many bytes a callback may keep in any case.
func (m *memory) part() int {
	return max(int(m.bound/max(m.callbacks.Load(), 1)), minHeldBytes)
}

// admits reports whether a callback that keeps some bytes may keep some more.
func (m *memory) admits(kept, more int) bool {
	return kept == 0 || kept+more <= m.part() || m.used.Load()+int64(more) <= m.bound
}
