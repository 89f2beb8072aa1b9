package resolver_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/resolver"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/store"
)

// replica is one resolver among several on a store.
type replica struct {
	*resolver.Resolver
	r *rig
}

// replica starts a resolver that holds nothing yet.
func (r *rig) replica(g store.Gate) *replica {
	r.t.Helper()
	p := &replica{resolver.New(r.config(r.open(g))), r}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Run(ctx)
	}()
	r.t.Cleanup(func() {
		cancel()
		<-done
	})
	return p
}

// own holds the shard of a connection until giveUp, which waits for the drain.
func (p *replica) own(connection string, epoch uint64) (lease *shardtest.Manual, giveUp func()) {
	lease = shardtest.NewManual(relay.ShardOf(connection), epoch)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Own(ctx, lease.Lease)
	}()
	giveUp = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	p.r.t.Cleanup(giveUp)
	return lease, giveUp
}

// document returns a connection's stored cursor.
func (r *rig) document(connection string) cursor.Document {
	d, _, err := r.store.Cursors.Get(r.t.Context(), store.InboxCursors.Key(connection))
	if err != nil {
		return cursor.Document{}
	}
	return d
}

// A shard goes back and forth between two replicas while notifications come in and the vendor fails now and then. Every
// other time its owner does not know that it has lost it, and goes on for a while. Each notification has exactly one
// event, in the order in which they came.
func TestHandOverUnderLoad(t *testing.T) {
	t.Parallel()
	newRig(t).handOver(8, func(int) {})
}

// The same on three nodes, of which one is gone for a while at a time.
func TestHandOverOnAClusterThatLosesNodes(t *testing.T) {
	t.Parallel()
	// .ci/full sets it; three nodes in one process take half a minute
	kills, _ := strconv.Atoi(os.Getenv("RELAY_CRASH_KILLS"))
	if kills == 0 {
		t.Skip("RELAY_CRASH_KILLS is not set")
	}
	c := natstest.NewCluster(t)
	r := newRigOn(t, 3, func() *nats.Conn { return c.Connect(t) })
	down := -1
	r.handOver(4*min(kills, 10), func(round int) {
		switch round % 4 {
		case 1:
			down = c.Leader(t, "KV_relay_cursors")
			c.Stop(down)
		case 3:
			c.Start(t, down)
			c.Settle(t)
		}
	})
}

func (r *rig) handOver(rounds int, before func(round int)) {
	t := r.t
	t.Helper()
	r.connect("leeds", "leeds")
	var asked atomic.Int64
	r.vendor.fail = func(string, string) error {
		if asked.Add(1)%7 == 0 {
			return &audatex.Error{Operation: audatex.OpOrder, Outcome: audatex.Unavailable}
		}
		return nil
	}
	const orders = 5
	want := make([][]store.InboxRef, orders)
	for n := range orders {
		r.vendor.set(orderID(n), "New")
	}
	replicas := []*replica{r.replica(store.Gate{}), r.replica(store.Gate{})}
	load := func(pages int) (last uint64) {
		for i := range pages {
			var notifications []string
			var which []int
			for n := range orders {
				if (i+n)%3 != 0 {
					notifications, which = append(notifications, updated(orderID(n))), append(which, n)
				}
			}
			last = r.page("leeds", "leeds", notifications...)
			for index, n := range which {
				want[n] = append(want[n], store.InboxRef{Connection: "leeds", Seq: last, Index: index})
			}
		}
		return last
	}
	var last uint64
	giveUp := func() {}
	for round := range rounds {
		before(round)
		unaware := round%2 == 1
		if !unaware {
			giveUp() // else the one before goes on under its lower epoch
		}
		former := giveUp
		_, giveUp = replicas[round%2].own("leeds", uint64(10+round))
		last = load(6)
		position := r.document("leeds").Position
		eventually(t, "the cursor moves", func() bool { return r.document("leeds").Position > position })
		if unaware {
			former()
		}
	}
	giveUp()
	_, giveUp = replicas[rounds%2].own("leeds", uint64(10+rounds)) // what a former owner wrote too late goes now
	r.settled("leeds", last)
	giveUp()
	for n := range orders {
		r.verify(fmt.Sprintf("order %d", n), "leeds", orderID(n), want[n], "New")
	}
	for _, u := range r.unresolved() {
		t.Errorf("set aside: %s, %s", u.ID, u.Reason)
	}
}

// An owner is suspended right before it stores its cursor, or a lane. When it wakes, a successor has taken the
// connection over: nothing of what it writes counts, and it steps back by itself.
func TestAnOwnerThatWakesUp(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"cursor", "lane", "order", "event"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.connect("leeds", "leeds")
			at, woken := make(chan struct{}), make(chan struct{})
			hold := sync.OnceFunc(func() {
				close(at)
				<-woken
			})
			var failed atomic.Bool
			r.vendor.fail = func(_, order string) error {
				if order == orderID(2) && kind == "lane" && !failed.Swap(true) {
					return &audatex.Error{Operation: audatex.OpOrder, Outcome: audatex.Unavailable}
				}
				return nil
			}
			r.vendor.set(orderID(1), "New")
			r.vendor.set(orderID(2), "New")
			first := r.page("leeds", "leeds", created(orderID(1)), updated(orderID(2)))
			a := r.replica(store.Gate{Before: func(w store.Write) error {
				if kindOf(w.Subject) == kind {
					hold()
				}
				return nil
			}})
			lease, _ := a.own("leeds", 3)
			<-at
			lease.Expire()
			b := r.replica(store.Gate{})
			other, giveUp := b.own("leeds", 8)
			second := r.page("leeds", "leeds", updated(orderID(1)), updated(orderID(2)))
			r.settled("leeds", second)
			close(woken)
			lease.Renew(time.Hour) // so that it does write
			third := r.page("leeds", "leeds", updated(orderID(2)))
			eventually(t, "the successor goes on", func() bool {
				return r.document("leeds").Position >= relay.PackEntry(third, relay.LastIndex)
			})
			if kind == "cursor" || kind == "lane" {
				eventually(t, "it steps back", func() bool {
					_, err := a.Waiting(t.Context(), "leeds")
					return err != nil
				})
				if found := lease.Found(); len(found) == 0 || found[0] != 8 {
					t.Errorf("told the lease of %v", found)
				}
			}
			if len(other.Found()) != 0 {
				t.Errorf("the successor steps back before %v", other.Found())
			}
			if d := r.document("leeds"); d.Epoch != 8 || d.Adopted != 8 {
				t.Errorf("document %+v", d)
			}
			giveUp()
			if kind == "lane" { // nobody's: the one that woke wrote it too late, and the next owner removes it
				if lanes, err := r.lanes("leeds"); err != nil || len(lanes) != 1 || lanes[0].Value.Epoch != 3 {
					t.Errorf("lanes %+v, %v", lanes, err)
				}
			}
			b.own("leeds", 12)
			r.settled("leeds", third)
			ref := func(page uint64, index int) store.InboxRef {
				return store.InboxRef{Connection: "leeds", Seq: page, Index: index}
			}
			r.verify(kind, "leeds", orderID(1), []store.InboxRef{ref(first, 0), ref(second, 0)}, "New")
			r.verify(kind, "leeds", orderID(2), []store.InboxRef{ref(first, 1), ref(second, 1), ref(third, 0)}, "New")
		})
	}
}

// waiting stores a cursor that has passed a page of two notifications, and their lanes, as an owner of the epoch left
// them.
func (r *rig) waiting(epoch uint64) (page uint64) {
	r.t.Helper()
	r.vendor.set(orderID(1), "New")
	r.vendor.set(orderID(2), "New")
	page = r.page("leeds", "leeds", created(orderID(1)), updated(orderID(2)))
	for index, order := range []string{orderID(1), orderID(2)} {
		r.lane("leeds."+order, epoch, relay.PackEntry(page, index))
	}
	d := cursor.New(cursor.Policy{}).Document()
	d.Position, d.Generation, d.Epoch, d.Adopted = relay.PackEntry(page, relay.LastIndex), "g-leeds", epoch, epoch
	if _, err := r.store.Cursors.Create(r.t.Context(), store.InboxCursors.Key("leeds"), d); err != nil {
		r.t.Fatal(err)
	}
	return page
}

func (r *rig) lane(order string, epoch, entry uint64) {
	r.t.Helper()
	l := cursor.Lane{V: 1, Epoch: epoch, Generation: "g-leeds", Order: order, Entries: []uint64{entry}, Attempts: 1,
		FailingSince: time.Now(), Reason: "unavailable", ReasonSince: time.Now()}
	if _, err := r.store.Lanes.Create(r.t.Context(), store.InboxCursors.Key("leeds")+"."+order, l); err != nil {
		r.t.Fatal(err)
	}
}

// What a former owner wrote after it had been fenced off is no lane: it is removed unread.
func TestLeftoversOfAFencedOwnerAreRemoved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	page := r.waiting(7)
	r.vendor.set(orderID(3), "New")
	r.lane("leeds."+orderID(3), 5, relay.PackEntry(page, 7))
	r.replica(store.Gate{}).own("leeds", 9)
	r.settled("leeds", page) // no lane is left
	for n, want := range map[int]int{1: 1, 2: 1, 3: 0} {
		if got := len(r.events("leeds", orderID(n))); got != want {
			t.Errorf("order %d: %d events, want %d", n, got, want)
		}
	}
	if len(r.unresolved()) != 0 {
		t.Error("the leftover was taken for a notification")
	}
}

// Taking over is cut off before and after each of its writes: the next owner loads what waits, all of it, once.
func TestTakingOverIsCutOffAtEveryWrite(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		for at := 1; at <= 3; at++ { // two lanes, the document
			t.Run(fmt.Sprintf("write %d after %v", at, after), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				r.connect("leeds", "leeds")
				page := r.waiting(7)
				g := &gate{}
				c := &cutter{at: at, after: after, died: make(chan struct{})}
				g.set(c)
				_, giveUp := r.replica(g.store()).own("leeds", 9)
				<-c.died
				if kind := kindOf(c.where); (at <= 2) != (kind == "lane") {
					t.Errorf("cut at %s: lanes come before the document", c.where)
				}
				giveUp()
				if n := r.vendor.count(); n != 0 {
					t.Errorf("%d orders were read before the connection was taken over", n)
				}
				r.replica(store.Gate{}).own("leeds", 11)
				r.settled("leeds", page)
				ref := func(index int) []store.InboxRef {
					return []store.InboxRef{{Connection: "leeds", Seq: page, Index: index}}
				}
				r.verify("one", "leeds", orderID(1), ref(0), "New")
				r.verify("two", "leeds", orderID(2), ref(1), "New")
				if d := r.document("leeds"); d.Epoch != 11 || d.Adopted != 11 {
					t.Errorf("document %+v", d)
				}
			})
		}
	}
}

// The one before still writes while its cursor is being taken over: the load is done again, on what is there then.
func TestACursorThatMovesWhileItIsTakenOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	page := r.waiting(7)
	var once sync.Once
	g := store.Gate{Before: func(w store.Write) error {
		if kindOf(w.Subject) == "cursor" {
			once.Do(func() { // the last write of the one before
				d, revision, err := r.store.Cursors.Get(t.Context(), store.InboxCursors.Key("leeds"))
				if err == nil {
					d.Health.Failures = 2
					_, err = r.store.Cursors.Update(t.Context(), store.InboxCursors.Key("leeds"), d, revision)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		return nil
	}}
	lease, _ := r.replica(g).own("leeds", 9)
	r.settled("leeds", page)
	if d := r.document("leeds"); d.Epoch != 9 {
		t.Errorf("document %+v", d)
	}
	if len(lease.Found()) != 0 {
		t.Errorf("steps back before %v", lease.Found())
	}
	for n := 1; n <= 2; n++ {
		if got := len(r.events("leeds", orderID(n))); got != 1 {
			t.Errorf("order %d: %d events", n, got)
		}
	}
}

// Ten thousand connections are taken on together: their cursors and lanes in a few readings, and written under the new
// epoch in one go. RELAY_TEST_CONNECTIONS is how many there are.
func TestManyConnectionsAreTakenOnTogether(t *testing.T) {
	t.Parallel()
	connections := 600
	if s := os.Getenv("RELAY_TEST_CONNECTIONS"); s != "" {
		var err error
		if connections, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t)
	var documents []store.Put[relay.Connection]
	var cursors []store.Put[cursor.Document]
	for n := range connections {
		id := fmt.Sprintf("c%d", n)
		documents = append(documents,
			store.Put[relay.Connection]{Key: id, Value: relay.Connection{ID: id, Site: "leeds", Generation: "g-" + id}})
		if n%2 == 0 {
			d := cursor.New(cursor.Policy{}).Document()
			d.Position, d.Generation, d.Epoch = relay.PackEntry(1, relay.LastIndex), "g-"+id, 1
			cursors = append(cursors, store.Put[cursor.Document]{Key: store.InboxCursors.Key(id), Value: d})
		}
	}
	r.vendor.set(orderID(1), "New")
	first := r.page("c0", "leeds", created(orderID(1)))   // its cursor has passed it
	waiting := r.page("c1", "leeds", created(orderID(1))) // waits
	if first != 1 || waiting != 2 {
		t.Fatal("not the inbox this test is about")
	}
	for _, results := range [][]store.Result{r.store.Connections.PutAll(t.Context(), documents),
		r.store.Cursors.PutAll(t.Context(), cursors)} {
		for _, result := range results {
			if result.Err != nil {
				t.Fatal(result.Err)
			}
		}
	}
	var writes atomic.Int64
	gated := r.open(store.Gate{Before: func(w store.Write) error {
		if strings.Contains(w.Subject, "_cursors.") {
			writes.Add(1)
		}
		return nil
	}})
	began := time.Now()
	stop := r.work(resolver.New(r.config(gated)), 9)
	eventually(t, "every cursor under the new epoch", func() bool {
		all, err := r.store.Cursors.All(t.Context(), store.InboxCursors.Everywhere(), func(string, error) {})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, e := range all {
			if e.Value.Epoch == 9 {
				n++
			}
		}
		return n == len(cursors)+1 // and the one of c1, which had none
	})
	t.Logf("%d connections, %d cursors: taken on in %s",
		connections, len(cursors), time.Since(began).Round(time.Millisecond))
	r.settled("c1", waiting)
	last := fmt.Sprintf("c%d", connections-1)
	began = time.Now()
	seq := r.page(last, "leeds", updated(orderID(1)))
	r.settled(last, seq)
	t.Logf("a page of another connection: settled after %s", time.Since(began).Round(time.Millisecond))
	if got := len(r.events("leeds", orderID(1))); got != 2 {
		t.Errorf("%d events, want 2", got)
	}
	stop()
	if n := int(writes.Load()); n > len(cursors)+10 {
		t.Errorf("%d writes for %d cursors", n, len(cursors))
	}
}

// An order waits for the vendor's turn, which may take minutes, when its owner loses the shard: it is not asked for any
// more.
func TestAnOrderWhoseTurnComesTooLateIsNotAskedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.grace = 2 * patience
	r.connect("leeds", "leeds")
	r.vendor.set(orderID(1), "New")
	waiting, turn := make(chan struct{}, 1), make(chan struct{})
	r.vendor.turn = func(ctx context.Context) error {
		select {
		case waiting <- struct{}{}:
		default:
		}
		select {
		case <-turn:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	awaitWaiting := func() {
		t.Helper()
		select {
		case <-waiting:
		case <-time.After(patience):
			t.Fatal("nothing waits for the vendor's turn")
		}
	}
	page := r.page("leeds", "leeds", created(orderID(1)))
	a := r.replica(store.Gate{})
	lease, giveUp := a.own("leeds", 3)
	awaitWaiting()
	lease.Expire() // suspended, and woken
	turn <- struct{}{}
	begun := time.Now()
	giveUp() // not after the grace
	if took := time.Since(begun); took > patience {
		t.Errorf("given up after %s", took)
	}
	_, giveUp = a.own("leeds", 4)
	awaitWaiting()
	begun = time.Now()
	giveUp() // with nothing under way
	if took := time.Since(begun); took > patience {
		t.Errorf("given up while it waits after %s", took)
	}
	if n := r.vendor.count(); n != 0 {
		t.Errorf("asked for %d times", n)
	}
	close(turn)
	a.own("leeds", 5)
	r.settled("leeds", page)
	r.verify("the order", "leeds", orderID(1), []store.InboxRef{{Connection: "leeds", Seq: page}}, "New")
}
