package store

import "time"

// NewRoomOf makes a Room that asks free, every time, instead of a disk.
func NewRoomOf(free func() (free, total uint64, err error)) *Room { return &Room{free: free} }

// SetDeadAfter sets how long the embedded server may leave writes unanswered.
func (s *Store) SetDeadAfter(d time.Duration) { s.health.deadAfter = d }

// SetRelist sets after what time the watches of a bucket that begin from now on list everything
// again.
func SetRelist[T any](b *Bucket[T], d time.Duration) { b.relist = d }

// DoubtLogs has the logs compared with what is known of them.
func (s *Store) DoubtLogs() { s.doubtLogs() }

// Compared reports whether the logs were compared since the last sign that they may be cut.
func (s *Store) Compared() bool { return s.signs() == s.intact.compared.Load() }

// Signs returns how often something may have cut a log.
func (s *Store) Signs() uint64 { return s.signs() }
