package resolver

import (
	"slices"
	"sync"
)

// maxAnnounced bounds how many pages of one connection are remembered by their sequences; a page holds up
// to a hundred notifications.
const maxAnnounced = 64

// announced holds the pages of a connection that the inbox's tail has delivered. The tail misses none, so
// there is no other page between two that are listed here.
type announced struct {
	mu   sync.Mutex
	top  uint64
	seqs []uint64 // rising
	lost uint64   // pages at or below it may have been forgotten
}

// add records a page. One that is not above all others is known already.
func (a *announced) add(seq uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if seq <= a.top {
		return
	}
	a.top = seq
	if a.seqs = append(a.seqs, seq); len(a.seqs) > maxAnnounced {
		a.lost, a.seqs = a.seqs[0], slices.Delete(a.seqs, 0, 1)
	}
}

// highest returns the last page that is known, or 0.
func (a *announced) highest() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.top
}

// after returns the pages above the given one, and whether it has all of them. It forgets those at
// or below.
func (a *announced) after(read uint64) (seqs []uint64, complete bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, found := slices.BinarySearch(a.seqs, read)
	if found {
		n++
	}
	a.seqs = slices.Delete(a.seqs, 0, n)
	return slices.Clone(a.seqs), read >= a.lost
}
