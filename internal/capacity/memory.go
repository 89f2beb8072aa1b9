package capacity

import "sync/atomic"

// minPart is what every callback may keep, however many callbacks there are: mostly enough for the events under way.
const minPart = 32 << 10

// Memory bounds the bodies of events that all callbacks keep at hand. Each callback has an equal part of the bound,
// and more while others leave it free; so together they keep at most twice the bound. A callback always keeps one
// event. Memory is safe for concurrent use.
type Memory struct {
	bound     int64
	used      atomic.Int64
	callbacks atomic.Int64
}

// NewMemory returns a bound of so many bytes.
func NewMemory(bound int64) *Memory { return &Memory{bound: bound} }

// Join adds callbacks among which the bound is divided, or takes them out.
func (m *Memory) Join(callbacks int) { m.callbacks.Add(int64(callbacks)) }

// Add counts bytes that a callback keeps from now on, or no longer keeps.
func (m *Memory) Add(bytes int) { m.used.Add(int64(bytes)) }

// Used returns how many bytes are kept.
func (m *Memory) Used() int64 { return m.used.Load() }

// Part returns how many bytes each callback may keep, however much the others keep.
func (m *Memory) Part() int {
	return max(int(m.bound/max(m.callbacks.Load(), 1)), minPart)
}

// Admits reports whether a callback that keeps some bytes may keep some more.
func (m *Memory) Admits(kept, more int) bool {
	return kept == 0 || kept+more <= m.Part() || m.used.Load()+int64(more) <= m.bound
}
