package cursorstore

import (
	"sync/atomic"
	"time"
)

const (
	// storeEvery is how often what has changed is stored while little does.
	storeEvery = 200 * time.Millisecond
	// documentPace stretches that: about a thousand documents a second of the replica.
	documentPace = time.Millisecond
)

// Pacer spreads what the shards of a replica store: each document moves the next rounds by documentPace. It is safe for
// concurrent use.
type Pacer struct{ next atomic.Int64 }

// Stored notes that so many documents are being stored.
func (p *Pacer) Stored(documents int, now time.Time) {
	for {
		next := p.next.Load()
		if p.next.CompareAndSwap(next, max(next, now.UnixNano())+int64(documents)*int64(documentPace)) {
			return
		}
	}
}

// After returns when a round that has just become necessary may be made.
func (p *Pacer) After(now time.Time) time.Time {
	return now.Add(max(time.Duration(p.next.Load()-now.UnixNano()), storeEvery))
}
