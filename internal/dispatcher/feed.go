package dispatcher

import (
	"context"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/delivery"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// The ring's bounds: whichever is reached first.
const (
	ringEvents = 8192
	ringBytes  = 32 << 20
)

// feed is a reader of the log that the shards of a replica share: a ring of its newest events, and for each shard the
// events of the ring that it wants and has not taken. A shard takes them when it is woken. The reader waits for the
// slowest: what a shard has not taken stays in the ring. That is no danger to the others, as a shard's loop does no
// input or output and waits for nobody.
//
// Its mutex is the only one of this package. Nothing is called while it is locked.
type feed struct {
	limit, most int       // events and bytes of the ring
	saw         func(int) // is given the size of every event

	mu     sync.Mutex
	ring   []*ringEvent // ascending; ring[head:] is live
	head   int
	bytes  int
	from   uint64            // the ring holds every event above from, up to pos
	pos    uint64            // the last event read
	bySite map[string]uint64 // which shards want a site's events, a bit for each
	shards [relay.Shards]subscription
	room   chan struct{} // a shard has taken what it had not
	over   bool          // nothing comes any more
}

// subscription is what one shard has to take.
type subscription struct {
	events []*ringEvent
	woken  chan struct{}
}

// ringEvent is an event of the ring, and how many shards want it and have not taken it.
type ringEvent struct {
	delivery.Event
	untaken int
}

func newFeed(limit, bytes int, saw func(int)) *feed {
	if limit <= 0 {
		limit = ringEvents
	}
	if bytes <= 0 {
		bytes = ringBytes
	}
	f := &feed{limit: limit, most: bytes, saw: saw, bySite: map[string]uint64{}, room: make(chan struct{}, 1)}
	for i := range f.shards {
		f.shards[i].woken = make(chan struct{}, 1)
	}
	return f
}

// start sets where reading begins: at the event after pos.
func (f *feed) start(pos uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.from, f.pos = pos, pos
}

// run follows the log until ctx ends. A reader that breaks is replaced where it broke.
func (f *feed) run(ctx context.Context, events *store.Events, trouble func(error)) {
	for ctx.Err() == nil {
		if err := f.follow(ctx, events, 0, nil); err != nil && ctx.Err() == nil {
			trouble(err)
			backoff.Sleep(ctx, time.Second)
		}
	}
}

// follow reads the log until the store is in trouble, or enough reports after an event that it has come far enough. With
// patience, the log must give the next event within that time.
func (f *feed) follow(ctx context.Context, events *store.Events, patience time.Duration, enough func(pos uint64) bool) error {
	tail, err := events.Tail(ctx, f.position()+1)
	if err != nil {
		return err
	}
	defer tail.Stop()
	for enough == nil || !enough(f.position()) {
		next, cancel := ctx, context.CancelFunc(func() {})
		if patience > 0 {
			next, cancel = context.WithTimeout(ctx, patience)
		}
		m, err := tail.Next(next)
		cancel()
		if err != nil {
			return err
		}
		if m.Seq > f.position() {
			f.saw(len(m.Data))
			f.offer(ctx, delivery.EventOf(store.AsEvent(m)))
		}
	}
	return nil
}

// offer puts an event into the ring and wakes the shards that want it.
func (f *feed) offer(ctx context.Context, ev delivery.Event) {
	for !f.put(ev) {
		select {
		case <-f.room:
		case <-ctx.Done():
			return
		}
	}
}

// put reports whether there was room.
func (f *feed) put(ev delivery.Event) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for live := len(f.ring) - f.head; live >= f.limit || live > 0 && f.bytes+len(ev.Body) > f.most; live-- {
		old := f.ring[f.head]
		if old.untaken > 0 {
			return false
		}
		f.from, f.bytes = old.Seq, f.bytes-len(old.Body)
		f.ring[f.head] = nil
		f.head++
	}
	if f.head > f.limit {
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

// take appends to buf what a shard wants and has not taken, at most so many events. Through is up to where that is
// everything; over means that nothing more will come.
func (f *feed) take(shard int, buf []*delivery.Event, most int) (events []*delivery.Event, through uint64, over bool) {
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

// want sets which sites' events a shard wants from now on, or wants no more.
func (f *feed) want(shard int, changes []interest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range changes {
		f.set(shard, i)
	}
}

// join has a shard want the events of a target's sites, if the ring has everything above pos and that is at most so
// many events, and returns those. Else it returns the first of them, or that the ring does not reach back so far.
func (f *feed) join(shard int, t *delivery.Target, pos uint64, most int) (page ringPage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	page.last = f.pos
	if page.missing = pos < f.from; page.missing {
		return page
	}
	live := f.ring[f.head:]
	i, _ := slices.BinarySearchFunc(live, pos+1, func(ev *ringEvent, seq uint64) int { return int(int64(ev.Seq - seq)) })
	live = live[i:]
	page.all = len(live) <= most
	for _, ev := range live[:min(len(live), most)] {
		page.events = append(page.events, &ev.Event)
	}
	if !page.all {
		return page
	}
	for _, s := range t.Sites() {
		f.set(shard, interest{s, true})
	}
	return page
}

// set changes one interest, with mu locked.
func (f *feed) set(shard int, i interest) {
	bit := uint64(1) << shard
	switch was := f.bySite[i.site]; {
	case i.wanted:
		f.bySite[i.site] = was | bit
	case was&^bit == 0:
		delete(f.bySite, i.site)
	default:
		f.bySite[i.site] = was &^ bit
	}
}

// leave ends a shard's part: it wants and takes nothing any more.
func (f *feed) leave(shard int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ev := range f.shards[shard].events {
		ev.untaken--
	}
	f.shards[shard].events = nil
	signal(f.room)
	for site := range f.bySite {
		f.set(shard, interest{site, false})
	}
}

// finish means that nothing more will come.
func (f *feed) finish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	for i := range f.shards {
		signal(f.shards[i].woken)
	}
}

// position is up to where the log has been read, reach from where on the ring has it.
func (f *feed) position() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pos
}

func (f *feed) reach() uint64 {
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
