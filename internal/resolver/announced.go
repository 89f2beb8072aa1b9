package resolver

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/each"
)

// maxAnnounced is how many pages of one connection are remembered at most; a page has up to a hundred
// notifications.
const maxAnnounced = 64

// announced has the last pages of a connection that have arrived in the inbox. None is missing between two
// of them.
type announced struct {
	mu    sync.Mutex
	top   uint64
	pages announcedPages
	lost  uint64 // pages up to this one may have been dropped
}

// announcedPage is a page's sequence and when it was announced.
type announcedPage struct {
	seq uint64
	at  time.Time
}

// announcedPages are pages by rising sequence.
type announcedPages []announcedPage

// through returns how many of the pages are at or below a sequence.
func (p announcedPages) through(seq uint64) int {
	n, found := slices.BinarySearchFunc(p, seq, func(p announcedPage, seq uint64) int {
		return cmp.Compare(p.seq, seq)
	})
	if found {
		n++
	}
	return n
}

// add adds a page. If it is not above all others, it is known already.
func (a *announced) add(seq uint64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if seq <= a.top {
		return
	}
	a.top = seq
	if a.pages = append(a.pages, announcedPage{seq, now}); len(a.pages) > maxAnnounced {
		a.lost, a.pages = a.pages[0].seq, slices.Delete(a.pages, 0, 1)
	}
}

// highest returns the last page that is known, or 0.
func (a *announced) highest() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.top
}

// after returns the known pages above the given one, and whether these are all. It drops the pages up to
// the given one.
func (a *announced) after(read uint64) (seqs []uint64, complete bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pages = slices.Delete(a.pages, 0, a.pages.through(read))
	return each.Of(a.pages, func(p announcedPage) uint64 { return p.seq }), read >= a.lost
}

// unread returns how many pages above the given one are known, and when the first of them was announced.
func (a *announced) unread(read uint64) (n int, since time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	above := a.pages[a.pages.through(read):]
	if len(above) == 0 {
		return 0, time.Time{}
	}
	return len(above), above[0].at
}
