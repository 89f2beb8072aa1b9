package resolver

import (
	"slices"
	"sync"
)

// maxAnnounced bounds how many pages of one connection are remembered by their sequences; a page holds up to a hundred notifications.
const maxAnnounced = 64

// announced are the pages of a connection that the inbox's tail has told of. The tail misses none, so between two that are listed here
// there is no other.
type announced struct {
	mu   sync.Mutex
	top  uint64
	seqs []uint64 // rising
	lost uint64   // pages at or below it may have been forgotten
}

// add notes a page. One that was told of before, or below another, is nothing new.
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

// highest answers the last page that is known to be there, 0 if none is.
func (a *announced) highest() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.top
}

// after answers the pages above the one given, and whether none that was told of is missing among them. Those at or below are
// forgotten.
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
