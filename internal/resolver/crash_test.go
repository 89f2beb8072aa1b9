package resolver_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// cutter cuts a program off its store at one of its writes, as a crash right there would: before it was sent, or after
// it was stored and before the response came. Nothing is written after.
type cutter struct {
	mu     sync.Mutex
	at     int    // the write to cut at, from 1
	kind   string // counts only writes of this kind; "": all
	after  bool
	writes int
	dead   bool
	died   chan struct{}
	where  string
}

func (c *cutter) before(w store.Write) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return fmt.Errorf("%w: cut off", store.ErrUnavailable)
	}
	if !c.counts(w) {
		return nil
	}
	c.writes++
	if c.writes == c.at && !c.after {
		return c.die(w, store.ErrUnavailable)
	}
	return nil
}

func (c *cutter) answered(w store.Write) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || c.writes >= c.at && c.after && c.counts(w) {
		return c.die(w, store.ErrUnclear)
	}
	return nil
}

func (c *cutter) counts(w store.Write) bool { return c.kind == "" || c.kind == kindOf(w.Subject) }

func (c *cutter) die(w store.Write, why error) error {
	if !c.dead {
		c.dead, c.where = true, w.Subject
		close(c.died)
	}
	return fmt.Errorf("%w: cut off", why)
}

// gate lets the cutter in force see every write.
type gate struct {
	mu sync.Mutex
	c  *cutter
}

func (g *gate) set(c *cutter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.c = c
}

func (g *gate) get() *cutter {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.c
}

func (g *gate) store() store.Gate {
	return store.Gate{
		Before: func(w store.Write) error { return g.get().before(w) },
		After:  func(w store.Write) error { return g.get().answered(w) },
	}
}

// One event per notification, always: a life of two orders is cut off before and after each of its writes, and a fresh
// resolver goes on from what the store holds.
func TestCrashBetweenEveryTwoWrites(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after=%v", after), func(t *testing.T) {
			t.Parallel()
			crashEverywhere(t, after)
		})
	}
}

func crashEverywhere(t *testing.T, after bool) {
	r := newRig(t)
	g := &gate{}
	gated := r.open(g.store())
	cuts := map[string]bool{}
	for at := 1; ; at++ {
		c := &cutter{at: at, after: after, died: make(chan struct{})}
		g.set(c)
		name := fmt.Sprintf("after=%v write %d", after, at)
		r.crash(name, gated, c, fmt.Sprintf("c%d-%t", at, after))
		if t.Failed() {
			t.Fatalf("%s at %s", name, c.where)
		}
		if !c.dead {
			if at < 15 {
				t.Errorf("only %d writes were cut: the scenario has lost its point", at-1)
			}
			break
		}
		cuts[kindOf(c.where)] = true
	}
	// Orders are worked on at the same time, so which write is the n-th differs from life to life: what chance has left
	// out is cut by kind.
	for _, kind := range []string{"event", "order", "unresolved", "operational", "lane", "cursor"} {
		if cuts[kind] {
			continue
		}
		c := &cutter{at: 1, kind: kind, after: after, died: make(chan struct{})}
		g.set(c)
		name := fmt.Sprintf("after=%v first %s", after, kind)
		r.crash(name, gated, c, fmt.Sprintf("c-%s-%t", kind, after))
		if !c.dead {
			t.Errorf("%s: there was none to cut", name)
		}
	}
}

func (r *rig) crash(name string, gated *store.Store, c *cutter, id string) {
	t := r.t
	moving, failing := relay.NewID(), relay.NewID()
	one, two := uuidOf(moving), uuidOf(failing)
	r.vendor.set(one, "New")
	r.vendor.set(two, "Dispatched")
	failed := 0
	r.vendor.mu.Lock()
	r.vendor.fail = func(_, order string) error {
		r.vendor.mu.Lock()
		defer r.vendor.mu.Unlock()
		if order == two && failed < 2 { // the first two readings: so that a lane comes and goes
			failed++
			return &audatex.Error{Operation: audatex.OpOrder, Outcome: audatex.Unavailable}
		}
		return nil
	}
	r.vendor.mu.Unlock()
	r.connect(id, id)
	first := r.page(id, id, created(one), updated(two), `{"Topic":"PARTS.ORDER.UPDATED"}`, updated(one))
	stop := r.run(r.config(gated))
	restarted := false
	restart := func() {
		stop()
		restarted = true
		stop = r.run(r.config(r.store))
	}
	// Until the first page is settled, or the cut.
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		r.passed(id, first, c.died)
	}()
	<-settled
	select {
	case <-c.died:
		restart()
		r.settled(id, first)
	default:
	}
	r.vendor.set(one, "Confirmed")
	second := r.page(id, id, updated(one), updated(one))
	if !restarted {
		r.passed(id, second, c.died)
		select {
		case <-c.died:
			restart()
		default:
		}
	}
	r.settled(id, second)
	stop()
	select {
	case <-c.died: // perhaps by the last write of all
	default:
	}

	want := []store.InboxRef{{Connection: id, Seq: first, Index: 0}, {Connection: id, Seq: first, Index: 3},
		{Connection: id, Seq: second, Index: 0}, {Connection: id, Seq: second, Index: 1}}
	r.verify(name, id, one, want, "Confirmed")
	r.verify(name, id, two, []store.InboxRef{{Connection: id, Seq: first, Index: 1}}, "Dispatched")
	var aside []string
	for _, u := range r.unresolved() {
		if u.Connection == id {
			aside = append(aside, u.ID)
		}
	}
	if !slices.Equal(aside, []string{fmt.Sprintf("%s.%d-2", id, first)}) {
		t.Errorf("%s: unresolved %v, want one", name, aside)
	}
	if err := r.store.Connections.Delete(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
}

// passed waits until the page is settled or the cut has come.
func (r *rig) passed(connection string, page uint64, cut <-chan struct{}) {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		select {
		case <-cut:
			return
		case <-time.After(2 * time.Millisecond):
		}
		d, _, err := r.store.Cursors.Get(r.t.Context(), store.InboxCursors.Key(connection))
		if err != nil || d.Position < relay.PackEntry(page, relay.LastIndex) {
			continue
		}
		lanes, err := r.lanes(connection)
		if err == nil && len(lanes) == 0 {
			return
		}
	}
	r.t.Errorf("page %d of %s neither settled nor cut", page, connection)
}

// verify holds an order's events against the notifications that must have made them, and its document against its
// events.
func (r *rig) verify(name, site, order string, want []store.InboxRef, status string) {
	t := r.t
	t.Helper()
	events := r.events(site, order)
	refs := make([]store.InboxRef, len(events))
	var before told
	for i, e := range events {
		refs[i] = e.Inbox
		now := relay.StatusOf(e.data.Order)
		if e.data.Revision != i+1 {
			t.Errorf("%s: event %d has revision %d", name, i, e.data.Revision)
		}
		if i > 0 {
			was := relay.StatusOf(before.data.Order)
			if e.Sequence <= before.Sequence {
				t.Errorf("%s: sequence %s follows %s", name, e.Sequence, before.Sequence)
			}
			if e.data.PreviousStatus == nil || *e.data.PreviousStatus != was {
				t.Errorf("%s: event %d: previousStatus is not %q", name, i, was)
			}
			if (len(e.data.Changes) > 0) != (was != now) {
				t.Errorf("%s: event %d from %s to %s has %d changes", name, i, was, now, len(e.data.Changes))
			}
		} else if e.data.PreviousStatus != nil || len(e.data.Changes) > 0 {
			t.Errorf("%s: the first event tells of something before", name)
		}
		before = e
	}
	if !slices.Equal(refs, want) {
		t.Errorf("%s: events of %v, want one for each of %v", name, refs, want)
		return
	}
	if got := relay.StatusOf(before.data.Order); got != status {
		t.Errorf("%s: last status %q, want %q", name, got, status)
	}
	state, _, err := r.store.Orders.Get(t.Context(), site+"."+order)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	last := events[len(events)-1]
	if n, _ := last.SequenceNumber(); state.Revision != len(events) || state.LogPosition != last.Seq ||
		state.Sequence != n || state.Status != status {
		t.Errorf("%s: document %+v is not what the log says: %d events, last at %d", name, state, len(events), last.Seq)
	}
}
