// Package logreader reads the log of events for callbacks: once for all callbacks of a replica that keep up (Shared),
// and in filtered pages for a callback that is behind (Pages). Shared reads and parses an event once, however many
// callbacks want it, and what is kept in memory is bounded. Begin reading at Shared.
package logreader

import (
	"context"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// The bounds of the ring: the first that is reached counts.
const (
	ringEvents = 8192
	ringBytes  = 32 << 20
)

// Shared is a reader of the log that the shards of a replica share. It has a ring of the newest events, and for each
// shard the events of the ring that the shard wants and has not taken. A shard takes them when it is woken. What a
// shard has not taken stays in the ring, so the reader waits for the slowest shard. That does not hurt the others, as a
// shard's loop does no input or output and waits for nothing else. Shared is safe for concurrent use.
type Shared struct {
	maxEvents, maxBytes int       // of the ring
	noteSize            func(int) // is called with the size of every event

	mu     sync.Mutex   // nothing is called while it is locked
	ring   []*ringEvent // ascending; ring[head:] is live
	head   int
	bytes  int
	from   uint64            // the ring holds every event above from, up to pos
	pos    uint64            // the last event read
	bySite map[string]uint64 // which shards want a site's events, a bit for each
	shards [relay.Shards]subscription
	room   chan struct{} // is signalled when a shard has taken events
	over   bool          // nothing more will come
}

// Interest is a change of what a shard wants: the events of a site, or no longer.
type Interest struct {
	Site   string
	Wanted bool
}

// subscription has the events that one shard must take.
type subscription struct {
	events []*ringEvent
	woken  chan struct{}
}

// ringEvent is an event of the ring.
type ringEvent struct {
	delivery.Event
	untaken int // how many shards want it and have not taken it
}

// NewShared returns a reader with a ring of at most so many events and bytes (0: 8,192 and 32 MiB).
func NewShared(events, bytes int, noteSize func(int)) *Shared {
	if events <= 0 {
		events = ringEvents
	}
	if bytes <= 0 {
		bytes = ringBytes
	}
	f := &Shared{maxEvents: events, maxBytes: bytes, noteSize: noteSize, bySite: map[string]uint64{},
		room: make(chan struct{}, 1)}
	for i := range f.shards {
		f.shards[i].woken = make(chan struct{}, 1)
	}
	return f
}

// Start sets the position after which reading begins.
func (f *Shared) Start(pos uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.from, f.pos = pos, pos
}

// Run follows the log until ctx ends. After trouble with the store it goes on where it was.
func (f *Shared) Run(ctx context.Context, events *store.Events, trouble func(error)) {
	for ctx.Err() == nil {
		if err := f.Follow(ctx, events, 0, nil); err != nil && ctx.Err() == nil {
			trouble(err)
			backoff.Sleep(ctx, time.Second)
		}
	}
}

// Follow reads the log until the store is in trouble, or until enough returns true for the position that it has
// reached. If patience is not 0, Follow fails if it waits for the next event for longer.
func (f *Shared) Follow(
	ctx context.Context, events *store.Events, patience time.Duration, enough func(pos uint64) bool,
) error {
	tail, err := events.Tail(ctx, f.Position()+1)
	if err != nil {
		return err
	}
	defer tail.Stop()
	for enough == nil || !enough(f.Position()) {
		next, cancel := ctx, context.CancelFunc(func() {})
		if patience > 0 {
			next, cancel = context.WithTimeout(ctx, patience)
		}
		m, err := tail.Next(next)
		cancel()
		if err != nil {
			return err
		}
		if m.Seq > f.Position() {
			f.noteSize(len(m.Data))
			f.offer(ctx, delivery.EventOf(store.AsEvent(m)))
		}
	}
	return nil
}

// offer puts an event into the ring and wakes the shards that want it.
func (f *Shared) offer(ctx context.Context, ev delivery.Event) {
	for !f.Add(ev) {
		select {
		case <-f.room:
		case <-ctx.Done():
			return
		}
	}
}

// Add puts the next event of the log into the ring and wakes the shards that want it. It returns false if there is no
// room.
func (f *Shared) Add(ev delivery.Event) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for live := len(f.ring) - f.head; live >= f.maxEvents || live > 0 && f.bytes+len(ev.Body) > f.maxBytes; live-- {
		old := f.ring[f.head]
		if old.untaken > 0 {
			return false
		}
		f.from, f.bytes = old.Seq, f.bytes-len(old.Body)
		f.ring[f.head] = nil
		f.head++
	}
	if f.head > f.maxEvents {
		f.ring = append(f.ring[:0:0], f.ring[f.head:]...)
		f.head = 0
	}
	added := &ringEvent{Event: ev}
	f.ring = append(f.ring, added)
	f.bytes += len(ev.Body)
	f.pos = ev.Seq
	wanted := f.bySite[ev.Site] | f.bySite[delivery.EverySite]
	added.untaken = bits.OnesCount64(wanted)
	for ; wanted != 0; wanted &= wanted - 1 {
		s := &f.shards[bits.TrailingZeros64(wanted)]
		s.events = append(s.events, added)
		signal(s.woken)
	}
	return true
}

// Take appends to buf the events that a shard wants and has not taken, at most so many. Up to the position through
// these are all. If over is true nothing more will come.
func (f *Shared) Take(
	shard int, buf []*delivery.Event, most int,
) (events []*delivery.Event, through uint64, over bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.shards[shard]
	n := min(len(s.events), most)
	for _, ev := range s.events[:n] {
		ev.untaken--
		buf = append(buf, &ev.Event)
	}
	if n > 0 {
		signal(f.room)
	}
	if n < len(s.events) {
		s.events = slices.Delete(s.events, 0, n)
		signal(s.woken)
		return buf, buf[len(buf)-1].Seq, false
	}
	clear(s.events)
	if s.events = s.events[:0]; cap(s.events) > most {
		s.events = nil
	}
	return buf, f.pos, f.over
}

// Want changes what a shard wants from now on.
func (f *Shared) Want(shard int, changes []Interest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range changes {
		f.set(shard, i)
	}
}

// RingPage is what the ring has above a position.
type RingPage struct {
	Events  []*delivery.Event
	All     bool   // there are no more, and the shard will have those that follow to take
	Missing bool   // the ring does not reach back so far
	Last    uint64 // the position of the reader
}

// Join returns the events of the ring above pos, at most so many. If these are all, the shard wants the events of the
// sites from now on. If the ring does not reach back to pos, Join returns none.
func (f *Shared) Join(shard int, sites []string, pos uint64, most int) (page RingPage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	page.Last = f.pos
	if page.Missing = pos < f.from; page.Missing {
		return page
	}
	live := f.ring[f.head:]
	i, _ := slices.BinarySearchFunc(live, pos+1, func(ev *ringEvent, seq uint64) int {
		return int(int64(ev.Seq - seq))
	})
	live = live[i:]
	page.All = len(live) <= most
	for _, ev := range live[:min(len(live), most)] {
		page.Events = append(page.Events, &ev.Event)
	}
	if !page.All {
		return page
	}
	for _, s := range sites {
		f.set(shard, Interest{s, true})
	}
	return page
}

// set changes one interest. The caller must hold mu.
func (f *Shared) set(shard int, i Interest) {
	bit := uint64(1) << shard
	switch was := f.bySite[i.Site]; {
	case i.Wanted:
		f.bySite[i.Site] = was | bit
	case was&^bit == 0:
		delete(f.bySite, i.Site)
	default:
		f.bySite[i.Site] = was &^ bit
	}
}

// Leave ends the part of a shard: it wants nothing more, and need not take anything.
func (f *Shared) Leave(shard int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ev := range f.shards[shard].events {
		ev.untaken--
	}
	f.shards[shard].events = nil
	signal(f.room)
	for site := range f.bySite {
		f.set(shard, Interest{site, false})
	}
}

// Finish signals to the shards that nothing more will come.
func (f *Shared) Finish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	for i := range f.shards {
		signal(f.shards[i].woken)
	}
}

// Woken is signalled when there is something for a shard to take.
func (f *Shared) Woken(shard int) <-chan struct{} { return f.shards[shard].woken }

// Position returns up to where the log has been read.
func (f *Shared) Position() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pos
}

// RingFrom returns the position above which the ring has every event.
func (f *Shared) RingFrom() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.from
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
