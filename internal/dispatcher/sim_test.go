package dispatcher

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/logreader"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// The core alone, in a world without goroutines, clock or store: whatever the order in which things happen, and
// whatever the store loses of its responses, whoever takes over and whenever a replica dies,
//
//   - the events of an order are delivered in their order, and none is passed over,
//   - an event does not arrive for the first time after a newer one of its order has, see receive,
//   - what matched ends delivered, failed, skipped, superseded or expired, and a receiver that follows the rule of the
//     sequence ends with the newest state of every order,
//   - what is stored as settled has its attempt recorded,
//   - the watermark is never above what a callback it speaks for has settled,
//   - all that has matched since it was published, and that nobody skips, is delivered in the end or has failed for
//     good, also to those that leave the shared reader, read by themselves or with others and join again, and whatever
//     is changed, deleted and made again meanwhile.
func TestSimulation(t *testing.T) {
	t.Parallel()
	for range 3 { // a try is much cheaper here than in the tests that TestMain sets their number for
		rapid.Check(t, func(rt *rapid.T) {
			w := newSimWorld(rt)
			for range rapid.IntRange(50, 500).Draw(rt, "steps") {
				w.step()
			}
			w.calm()
		})
	}
}

const simCallbacks = 3

var simSites = []string{"leeds", "york", "hull"}

// simWorld is a log, a store, receivers and the replicas that have held the shard.
type simWorld struct {
	t         *rapid.T
	now       time.Time
	log       []*delivery.Event           // ascending, with gaps between positions of other orders
	targets   map[string]*delivery.Target // of the callbacks that are registered
	revision  uint64
	due       map[string]map[uint64]bool // what has to be delivered, by callback and generation
	docs      map[string]cursor.Document
	lanes     map[string]map[string]cursor.Lane
	writes    map[string]int // how often something of a callback was written
	closed    map[string]map[uint64]bool
	mark      store.Watermark
	receivers map[string]*simReceiver // as due
	first     uint64                  // of the log: what is below has aged out
	schedule  []time.Duration
	orders    int // how many there are
	epoch     uint64
	owners    []*simOwner // those that live; the last is the owner
	quiet     bool        // nothing goes wrong any more
}

func newSimWorld(t *rapid.T) *simWorld {
	w := &simWorld{
		t: t, now: time.Now(), targets: map[string]*delivery.Target{}, docs: map[string]cursor.Document{},
		lanes: map[string]map[string]cursor.Lane{}, writes: map[string]int{}, due: map[string]map[uint64]bool{},
		closed: map[string]map[uint64]bool{}, receivers: map[string]*simReceiver{}, first: 1,
		schedule: []time.Duration{time.Second, time.Minute},
		orders:   rapid.SampledFrom([]int{4, 4, 4, 18}).Draw(t, "orders"), // few of them meet one another more often
	}
	if rapid.Bool().Draw(t, "patient") {
		w.schedule = slices.Repeat(w.schedule, 100)
	}
	for i := range simCallbacks {
		id := fmt.Sprint("cb", i)
		w.lanes[id] = map[string]cursor.Lane{}
		w.register(id, relay.Filter{Sites: simSites[:i]})
	}
	w.takeOver()
	return w
}

// register makes a callback.
func (w *simWorld) register(id string, filter relay.Filter) {
	cb := relay.Callback{
		ID: id, Client: "shop", Generation: fmt.Sprint(w.revision),
		Concurrency: rapid.IntRange(1, 3).Draw(w.t, "concurrency"), TimeoutSeconds: 5,
		Mode: rapid.SampledFrom(simModes).Draw(w.t, "mode"), StartSeq: w.last(), Filter: filter,
	}
	key := keyOf(cb)
	w.due[key], w.closed[key], w.receivers[key] = map[uint64]bool{}, map[uint64]bool{}, newSimReceiver()
	w.configure(cb)
}

func keyOf(cb relay.Callback) string { return cb.ID + "/" + cb.Generation }

// configure stores the configuration of a callback.
func (w *simWorld) configure(cb relay.Callback) {
	w.revision++
	t := delivery.NewTarget(cb, relay.Client{ID: "shop", AllSites: true})
	t.Revisions[0] = w.revision
	w.targets[cb.ID] = t
	w.undue(t)
}

// reconfigure deletes a callback, makes it again, has it want more, less or something else, in the other mode, pauses
// it, or resumes it or lets it go on. All owners hear of that.
func (w *simWorld) reconfigure() {
	id := fmt.Sprint("cb", rapid.IntRange(0, simCallbacks-1).Draw(w.t, "callback"))
	t := w.targets[id]
	if t == nil {
		w.register(id, w.filter())
		w.announce(id)
		return
	}
	cb := t.Callback
	switch n := rapid.IntRange(0, 9).Draw(w.t, "change"); {
	case n == 0:
		delete(w.targets, id)
	case n == 1:
		w.register(id, w.filter())
	case n < 4:
		cb.Filter = relay.Filter{}
		w.configure(cb)
	case n < 6:
		cb.Filter = w.filter()
		w.configure(cb)
	case n == 6:
		cb.Mode = rapid.SampledFrom(simModes).Draw(w.t, "mode")
		w.configure(cb)
	case n == 7 || cb.Disabled != nil:
		cb.Disabled = nil
		cb.Resumed++
		w.configure(cb)
	default:
		cb.Paused = !cb.Paused
		w.configure(cb)
	}
	w.announce(id)
}

// announce has all owners hear of a callback's configuration.
func (w *simWorld) announce(id string) {
	for _, o := range w.owners {
		o.do(w.present(id))
	}
}

func (w *simWorld) present(id string) configured { return configured{id, w.targets[id]} }

func (w *simWorld) chance(percent int) bool {
	return rapid.IntRange(0, 99).Draw(w.t, "chance") < percent
}

func (w *simWorld) last() uint64 {
	if len(w.log) == 0 {
		return 0
	}
	return w.log[len(w.log)-1].Seq
}

func (w *simWorld) publish() {
	n := rapid.IntRange(0, w.orders-1).Draw(w.t, "order")
	ev := &delivery.Event{Stored: store.Stored{
		Seq: w.last() + 1 + uint64(rapid.IntRange(0, 1).Draw(w.t, "gap")), Site: simSites[n%3],
		Order: fmt.Sprint("order", n), Type: rapid.SampledFrom(simTypes).Draw(w.t, "type"),
		Status: rapid.SampledFrom(simStatuses).Draw(w.t, "status"), Changed: rapid.Bool().Draw(w.t, "changed"),
		Time: w.now, Body: []byte("{}"),
	}}
	ev.ID = fmt.Sprint(ev.Seq)
	w.log = append(w.log, ev)
	for _, t := range w.targets {
		if key := keyOf(t.Callback); t.Matches(ev) {
			w.due[key][ev.Seq] = true
		} else {
			w.receivers[key].passed[ev.Seq] = true
		}
	}
	for _, o := range w.owners {
		o.readLog(o.feed)
	}
}

// readLog has a reader read what it has not, as far as there is room.
func (w *simWorld) readLog(f *logreader.Shared) {
	for _, ev := range w.log {
		if ev.Seq <= f.Position() {
			continue
		}
		if !f.Add(*ev) {
			return
		}
	}
}

func (w *simWorld) step() {
	o := w.owners[rapid.IntRange(0, len(w.owners)-1).Draw(w.t, "owner")]
	switch n := rapid.IntRange(0, 99).Draw(w.t, "what"); {
	case n < 25:
		w.publish()
	case n < 28:
		w.now = w.now.Add(time.Duration(rapid.IntRange(1, 90_000).Draw(w.t, "ms")) * time.Millisecond)
		o.do(tick{})
	case n < 29:
		o.valid = !o.valid
	case n < 30:
		if len(w.owners) < 3 {
			w.takeOver()
		}
	case n < 31: // a crash: what it was about to do is not done
		w.owners = slices.DeleteFunc(w.owners, func(other *simOwner) bool { return other == o })
		if len(w.owners) == 0 || o.epoch == w.epoch {
			w.takeOver()
		}
	case n < 32 && o.epoch == w.epoch && !o.core.ending.begun:
		o.do(giveUp{})
	case n < 36:
		w.reconfigure()
	case n < 38:
		o.operate()
	case n < 39 && o.chance(20):
		w.ageOut()
	default:
		o.work()
	}
	w.check()
}

// check looks at what is stored: whoever loads it now loses nothing.
func (w *simWorld) check() {
	for id, t := range w.targets {
		doc, there := w.docs[id]
		if !there || doc.Generation != t.Callback.Generation {
			continue
		}
		at := doc.Position
		if !doc.Behind {
			at = max(at, w.mark.Position)
		}
		key := keyOf(t.Callback)
		for _, ev := range w.log {
			settled := ev.Seq <= at || slices.ContainsFunc(doc.Done, func(r cursor.Range) bool {
				return r[0] <= ev.Seq && ev.Seq <= r[1]
			})
			if !settled || !w.due[key][ev.Seq] || w.closed[key][ev.Seq] {
				continue
			}
			l, laned := w.lanes[id][ev.Order]
			if !laned || l.Epoch < doc.Adopted ||
				!slices.Contains(l.Entries, ev.Seq) && (l.OpenFrom == 0 || ev.Seq < l.OpenFrom) {
				w.t.Fatalf("event %d counts as settled for %s and has no end: document %+v, lane %+v, watermark %d",
					ev.Seq, key, doc, l, w.mark.Position)
			}
		}
	}
	for _, o := range w.owners {
		for s, members := range o.core.shared.bySite {
			for cb := range members {
				if o.core.callbacks[cb.id] != cb {
					w.t.Fatalf("%s gets the events of %q twice, or after its end", cb.id, s)
				}
			}
		}
	}
}

// calm lets the last owner alone work until nothing is left to do: everything has been delivered then.
func (w *simWorld) calm() {
	w.quiet = true
	w.owners = w.owners[len(w.owners)-1:]
	if o := w.owners[0]; o.core.ending.begun || o.core.toStore.superseded || o.epoch != w.epoch {
		w.owners = nil
		w.takeOver()
	}
	w.owners[0].valid = true
	w.goOn()
	for range 20_000 {
		o := w.owners[0]
		w.now = w.now.Add(time.Second)
		o.readLog(o.feed)
		events, through, _ := o.feed.Take(0, nil, 100)
		o.do(&newEvents{&o.core.shared, events, through})
		for len(o.attempts) > 0 {
			o.attempt()
		}
		for len(o.reads) > 0 {
			o.readPage()
		}
		for len(o.lanesOf) > 0 {
			o.readLanes()
		}
		for len(o.wakes) > 0 {
			o.do(pick(o.t, &o.wakes))
		}
		for o.round != nil {
			o.store()
		}
		for o.toLoad != nil {
			o.load()
		}
		for len(o.retired) > 0 {
			o.retire()
		}
		for len(o.disables) > 0 {
			o.disable()
		}
		w.goOn()
		o.catchUp()
		o.do(tick{})
		w.check()
		if w.complete(o) {
			w.checkEnds()
			return
		}
	}
	for id, cb := range w.owners[0].core.callbacks {
		w.t.Logf("%s: %s, phase %d, reads %d (fetching %t), %d unsettled, document %+v",
			id, w.targets[id].Key, cb.phase, cb.reading.source, cb.reading.fetching, cb.cur.Unsettled(), w.docs[id])
	}
	w.t.Fatalf("not everything was delivered: %s; watermark %d of %d, %d callbacks of %d",
		w.missing(), w.mark.Position, w.last(), len(w.owners[0].core.callbacks), len(w.targets))
}

// complete reports whether all is delivered, and stored as such.
func (w *simWorld) complete(o *simOwner) bool {
	switch {
	case len(o.core.callbacks) != len(w.targets) || len(w.missing()) > 0:
		return false
	case len(w.targets) > 0 && w.mark.Position != w.last():
		return false
	}
	for _, cb := range o.core.callbacks {
		if cb.reading.source != readsShared || cb.cur.Dirty() || cb.cur.Unsettled() > 0 || w.docs[cb.id].Behind {
			return false
		}
	}
	return true
}

func (w *simWorld) missing() (list []string) {
	for id, t := range w.targets {
		key := keyOf(t.Callback)
		for _, ev := range w.log {
			if w.due[key][ev.Seq] && !w.closed[key][ev.Seq] {
				list = append(list, fmt.Sprint(id, " ", ev.Seq))
			}
		}
	}
	return list
}
