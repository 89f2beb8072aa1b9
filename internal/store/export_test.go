package store

import "time"

// NewRoomOf makes a Room that asks free, every time, instead of a disk.
func NewRoomOf(free func() (free, total uint64, err error)) *Room { return &Room{free: free} }

// SetDeadAfter sets how long the embedded server may leave writes unanswered.
func (s *Store) SetDeadAfter(d time.Duration) { s.health.deadAfter = d }
