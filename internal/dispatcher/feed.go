package dispatcher

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

// The ring's bounds: whichever is reached first.
const (
	ringEvents = 8192
	ringBytes  = 32 << 20
)

// feed is the one reader of the log: a ring of its newest events, and who gets them. Its mutex goes before a callback's.
type feed struct {
	mu     sync.Mutex
	ring   []*event // ascending; ring[head:] is live
	head   int
	bytes  int
	from   uint64 // the ring holds every event above from, up to pos
	limit  int
	most   int       // bytes
	saw    func(int) // is told the size of every event
	bySite map[string]map[*callback]struct{}
	anyone map[*callback]struct{} // whose client may see every site

	pos atomic.Uint64 // every event up to here has been offered to every callback that is attached
}

func newFeed(limit, bytes int, saw func(int)) *feed {
	if limit <= 0 {
		limit = ringEvents
	}
	if bytes <= 0 {
		bytes = ringBytes
	}
	return &feed{limit: limit, most: bytes, saw: saw, bySite: map[string]map[*callback]struct{}{}, anyone: map[*callback]struct{}{}}
}

// start says where reading begins: at the event after pos.
func (f *feed) start(pos uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.from = pos
	f.pos.Store(pos)
}

// run follows the log until ctx ends. A reader that breaks is made anew where it broke.
func (f *feed) run(ctx context.Context, events *store.Events, trouble func(error)) {
	for ctx.Err() == nil {
		if err := f.follow(ctx, events); err != nil && ctx.Err() == nil {
			trouble(err)
			wait(ctx, time.Second)
		}
	}
}

func (f *feed) follow(ctx context.Context, events *store.Events) error {
	tail, err := events.Tail(ctx, f.pos.Load()+1)
	if err != nil {
		return err
	}
	defer tail.Stop()
	for {
		m, err := tail.Next(ctx)
		if err != nil {
			return err
		}
		if m.Seq > f.pos.Load() {
			f.saw(len(m.Data))
			f.offer(newEvent(store.AsEvent(m)))
		}
	}
}

// offer puts an event into the ring and hands it to every attached callback it is for. One that has no room leaves.
func (f *feed) offer(ev *event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring = append(f.ring, ev)
	f.bytes += len(ev.Body)
	for len(f.ring)-f.head > f.limit || f.bytes > f.most && len(f.ring)-f.head > 1 {
		old := f.ring[f.head]
		f.from, f.bytes = old.Seq, f.bytes-len(old.Body)
		f.ring[f.head] = nil
		f.head++
	}
	if f.head > f.limit {
		f.ring = append(f.ring[:0:0], f.ring[f.head:]...)
		f.head = 0
	}
	for c := range f.bySite[ev.Site] {
		c.push(ev)
	}
	for c := range f.anyone {
		c.push(ev)
	}
	f.pos.Store(ev.Seq)
}

// after answers up to most events of the ring above pos, and whether these are all; ok says whether the ring still holds
// everything above pos. f.mu is held.
func (f *feed) after(pos uint64, most int) (events []*event, all, ok bool) {
	if pos < f.from {
		return nil, false, false
	}
	live := f.ring[f.head:]
	i, _ := slices.BinarySearchFunc(live, pos+1, func(ev *event, seq uint64) int {
		switch {
		case ev.Seq < seq:
			return -1
		case ev.Seq > seq:
			return 1
		}
		return 0
	})
	live = live[i:]
	if len(live) > most {
		return live[:most], false, true
	}
	return live, true, true
}

// enter and leave keep the index of attached callbacks. f.mu is held.
func (f *feed) enter(c *callback, t *target) {
	sites, all := t.sites()
	if all {
		f.anyone[c] = struct{}{}
		return
	}
	for _, s := range sites {
		if f.bySite[s] == nil {
			f.bySite[s] = map[*callback]struct{}{}
		}
		f.bySite[s][c] = struct{}{}
	}
}

func (f *feed) leave(c *callback, t *target) {
	sites, all := t.sites()
	if all {
		delete(f.anyone, c)
		return
	}
	for _, s := range sites {
		if delete(f.bySite[s], c); len(f.bySite[s]) == 0 {
			delete(f.bySite, s)
		}
	}
}

// wait waits for d or ctx's end.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
