package store

import (
	"fmt"
	"math"
	"sync"
	"syscall"
	"time"
)

const (
	// reserve is the free space, in bytes, below which the embedded store takes no more writes:
	// several of the largest pages, and what the server writes by itself. On a small disk it is a
	// quarter.
	reserve = 64 << 20
	// roomFor is how long the disk is believed to be as it was: at most some megabytes are written
	// in that time.
	roomFor = 100 * time.Millisecond
)

// Room watches the free space of the disk that the embedded server writes to, and how large a file
// this process may write. A stream that has once failed to write takes no writes until the server
// restarts, even when there is space again. A full disk causes this, and so does a file over
// RLIMIT_FSIZE. (With nats-server 2.15.2 that write never gets a response, nor does any later one,
// also after the limit is lifted; the other streams go on; the process survives the signal.) A page
// of the vendor's queue that was read by then would wait in memory in vain. So writes are refused
// before that point, and accepted again when there is room. For failures that get through all the
// same (a quota, a broken disk), Store.Run ends the program.
type Room struct {
	free  func() (free, total uint64, err error)
	every time.Duration // how long its last result is believed
	limit func() uint64 // of a file's size; asked every time, as it is cheap and may be lowered at once

	mu   sync.Mutex
	at   time.Time
	left float64 // free space as a share of the reserve
	have uint64
}

// NewRoom watches the disk of a directory.
func NewRoom(dir string) *Room {
	return &Room{every: roomFor, limit: fileLimit, free: func() (uint64, uint64, error) {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			return 0, 0, err
		}
		size := uint64(st.Bsize)
		return st.Bavail * size, st.Blocks * size, nil
	}}
}

// fileLimit returns the size in bytes that no file of this process may pass. Where it is not known,
// the write itself fails.
func fileLimit() uint64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_FSIZE, &l) != nil {
		return math.MaxUint64
	}
	return l.Cur
}

// check returns an error wrapping ErrUnavailable if there is no room for a write. What exists
// nowhere else (a page read from the vendor, a rotated token) may use half of the reserve. Nil has
// room for all.
func (r *Room) check(precious bool) error {
	if r == nil {
		return nil
	}
	if err := r.checkLimit(precious); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.at.IsZero() || now.Sub(r.at).Abs() >= r.every {
		free, total, err := r.free()
		if err != nil { // then the write itself fails
			return nil
		}
		r.at, r.have, r.left = now, free, float64(free)/float64(max(min(reserve, total/4), 1))
	}
	if r.left >= 1 || precious && r.left >= 0.5 {
		return nil
	}
	return &noRoom{fmt.Sprintf("the disk of the data directory has only %d MiB free", r.have>>20)}
}

// checkLimit takes a limit below the reserve for no room, although the server's files begin small:
// they grow to 8 MiB and one message.
func (r *Room) checkLimit(precious bool) error {
	if r.limit == nil {
		return nil
	}
	limit := r.limit()
	if limit >= reserve || precious && limit >= reserve/2 {
		return nil
	}
	return &noRoom{fmt.Sprintf("a file may have only %d KiB (RLIMIT_FSIZE); %d are needed", limit>>10, reserve>>10)}
}

// noRoom is a write refused before it was sent.
type noRoom struct{ what string }

func (e *noRoom) Error() string { return ErrUnavailable.Error() + ": " + e.what }
func (e *noRoom) Unwrap() error { return ErrUnavailable }
