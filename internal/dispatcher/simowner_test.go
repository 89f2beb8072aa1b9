package dispatcher

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/logreader"
	"github.com/audatex-relay/relay/internal/store"
)

// simOwner is a replica that holds the shard, or believes that it does.
type simOwner struct {
	*simWorld
	epoch    uint64
	core     *core
	feed     *logreader.Shared
	together *logreader.Shared
	members  []read // that wait for together
	slots    *capacity.Slots
	attempts []*job
	reads    []read
	lanesOf  [][]refill
	round    *round
	wakes    []message
	retired  []*callback
	facts    []*operationalEvent // being published
	disables []disablement       // under way
	toLoad   *loadRequest
	snapshot map[string]int
	taken    []*callback // written under the owner's epoch, and not adopted yet
	partly   bool        // not all that had to be loaded
	valid    bool
	next     []message
}

// takeOver lets a new replica take the shard; the ones before go on until they notice.
func (w *simWorld) takeOver() {
	w.epoch++
	conf := Config{
		Schedule: w.schedule, Jitter: func(d time.Duration) time.Duration { return d }, CircuitFailures: 6,
		Lookback: 1000, DisableAfter: 30 * time.Minute, MaxLanes: 4, Log: slog.New(slog.DiscardHandler),
	}.withDefaults()
	o := &simOwner{simWorld: w, epoch: w.epoch,
		slots: capacity.NewSlots(rapid.IntRange(1, 4).Draw(w.t, "slots")), valid: true}
	memory := capacity.NewMemory(1 << 20)
	o.core = newCore(&environment{conf: &conf, metrics: delivery.NewMetrics(nil), memory: memory, slots: o.slots,
		pacer: &cursorstore.Pacer{}, maxBatch: 1 << 20})
	o.feed = logreader.NewShared(8, 1<<20, func(int) {})
	o.feed.Start(w.last() - min(w.last(), uint64(rapid.IntRange(0, 12).Draw(w.t, "recent")))) // some before its end
	w.owners = append(w.owners, o)
	o.do(tick{})
}

func (o *simOwner) do(m message) {
	o.next = append(o.next, m)
	for len(o.next) > 0 {
		m := o.next[0]
		o.next = o.next[1:]
		e := o.core.step(m, o.now, o.valid)
		o.feed.Want(0, e.interest)
		slices.SortStableFunc(e.begin, func(a, b *job) int { return strings.Compare(a.cb.id, b.cb.id) })
		o.attempts = append(append(o.attempts, e.begin...), e.next...)
		for _, id := range e.recheck {
			o.next = append(o.next, o.present(id))
		}
		for _, r := range e.ring {
			o.next = append(o.next, &ringPage{r, o.feed.Join(0, r.target.Sites(), r.pos, 5)})
		}
		o.reads = append(o.reads, e.pages...)
		o.lanesOf = append(o.lanesOf, e.refills...)
		o.members = append(o.members, e.catchUp...)
		if e.round != nil {
			o.round = e.round
		}
		if e.load != nil {
			o.toLoad, o.snapshot, o.taken, o.partly = e.load, nil, nil, false
		}
		o.retired = append(o.retired, e.retired...)
		o.facts = append(o.facts, e.publish...)
		o.disables = append(o.disables, e.disables...)
		o.noteEnds()
	}
}

// pick takes a random element out.
func pick[T any](t *rapid.T, list *[]T) T {
	i := rapid.IntRange(0, len(*list)-1).Draw(t, "which")
	v := (*list)[i]
	*list = slices.Delete(slices.Clone(*list), i, i+1)
	return v
}

// work does one of the things that are under way.
func (o *simOwner) work() {
	o.readLog(o.feed)
	switch n := rapid.IntRange(0, 99).Draw(o.t, "work"); {
	case n < 20 && !o.core.ending.begun:
		events, through, _ := o.feed.Take(0, nil, rapid.IntRange(1, 9).Draw(o.t, "most"))
		o.do(&newEvents{&o.core.shared, events, through})
	case n < 60 && len(o.attempts) > 0:
		o.attempt()
	case n < 70 && len(o.reads) > 0:
		o.readPage()
	case n < 72 && len(o.lanesOf) > 0:
		o.readLanes()
	case n < 77 && len(o.wakes) > 0:
		o.do(pick(o.t, &o.wakes))
	case n < 90 && o.round != nil:
		o.store()
	case n < 93 && o.toLoad != nil:
		o.load()
	case n < 95:
		o.catchUp()
	case n < 97 && len(o.retired) > 0:
		o.retire()
	case len(o.facts) > 0:
		f := pick(o.t, &o.facts)
		f.stored = o.quiet || o.chance(70)
		o.do(done{published: f})
	case len(o.disables) > 0:
		o.disable()
	default:
		o.do(tick{})
	}
}

// retire erases what is stored of a callback that is not registered any more.
func (o *simOwner) retire() {
	cb := pick(o.t, &o.retired)
	if cb.phase == retiring && o.valid {
		keep := ""
		if t := o.targets[cb.id]; t != nil {
			keep = t.Callback.Generation
		}
		o.erase(cb.id, keep)
	}
	cb.sending.allowance.Leave()
	o.do(done{retired: cb})
}

func (o *simOwner) erase(id, keep string) {
	for order, l := range o.lanes[id] {
		if l.Epoch <= o.epoch && (keep == "" || l.Generation != keep) {
			delete(o.lanes[id], order)
			o.writes[id]++
		}
	}
	if doc, there := o.docs[id]; there && doc.Epoch <= o.epoch && (keep == "" || doc.Generation != keep) {
		delete(o.docs, id)
		o.writes[id]++
	}
}

func (o *simOwner) readPage() {
	r := pick(o.t, &o.reads)
	page := &logPage{read: r, Page: logreader.Page{First: o.first, Through: max(o.last(), r.pos)}}
	if !o.quiet && o.chance(10) {
		page.err = store.ErrUnavailable
	}
	for _, ev := range o.log {
		if ev.Seq > r.pos && ev.Seq >= o.first && r.target.Matches(ev) && page.err == nil {
			if len(page.Events) == 4 {
				page.Through = page.Events[3].Seq
				break
			}
			page.Events = append(page.Events, ev)
		}
	}
	o.do(page)
}

func (o *simOwner) readLanes() {
	lanes := pick(o.t, &o.lanesOf)
	for i, r := range lanes {
		found := &refilled{refill: r, through: r.of.Through, more: i < len(lanes)-1}
		for _, ev := range o.log {
			if ev.Order == r.of.Order && ev.Seq >= max(r.of.From, o.first) &&
				ev.Seq <= r.of.Through && r.target.Matches(ev) {
				found.seqs = append(found.seqs, ev.Seq)
			}
		}
		o.do(found)
	}
}

// catchUp reads on for those that catch up together, or begins to.
func (o *simOwner) catchUp() {
	if o.core.ending.begun {
		return
	}
	if f := o.together; f != nil {
		for _, ev := range o.log {
			if ev.Seq > f.Position() && ev.Seq >= o.first && f.Position() < o.feed.RingFrom() {
				f.Add(*ev)
				break
			}
		}
		if f.Position() >= o.feed.RingFrom() || !o.quiet && o.chance(10) {
			f.Finish()
		}
		events, through, over := f.Take(0, nil, 3)
		if o.do(&newEvents{&o.core.catchingUp, events, through}); over {
			o.together = nil
			o.do(catchUpEnds{})
		}
		return
	}
	if len(o.members) == 0 {
		return
	}
	from := o.members[0].pos
	for _, r := range o.members {
		from = min(from, r.pos)
	}
	o.together = logreader.NewShared(8, 1<<20, func(int) {})
	o.together.Start(from)
	for _, r := range o.members {
		o.together.Join(0, r.target.Sites(), from, 0)
	}
	o.do(&catchUpBegins{members: o.members, from: from})
	o.members = nil
}

// load reads what is stored and then, of those that nobody has written meanwhile, writes it under the owner's epoch and
// hands them over.
func (o *simOwner) load() {
	what := o.toLoad
	switch {
	case o.snapshot == nil:
		o.snapshot = maps.Clone(o.writes)
		if m := &what.mark; !m.Adopted {
			if o.mark.Epoch > o.epoch {
				o.fail()
				return
			}
			m.Base, m.Stored, m.Highest, m.Adopted = o.mark.Position, o.mark.Position, o.mark.Position, true
			o.mark.Epoch = o.epoch
		}
	case o.taken == nil:
		o.taken = []*callback{}
		f := &loadedState{first: o.first, last: o.last()}
		for i := range simCallbacks {
			if id := fmt.Sprint("cb", i); !what.except[id] && (what.whole || slices.Contains(what.ids, id)) {
				o.adopt(id, f)
			}
		}
	default: // the callbacks may have changed again
		o.do(&adopted{callbacks: o.taken, mark: what.mark, first: o.first})
		o.toLoad = nil
		o.do(loadEnded{what, o.partly})
	}
}

// adopt writes what is stored of a callback under the owner's epoch, or notes that the load fails in part.
func (o *simOwner) adopt(id string, f *loadedState) {
	s := &cursorstore.Stored{ID: id, Handle: &cursorstore.Handle{}}
	if doc, there := o.docs[id]; there {
		s.Document = &doc
	}
	for _, l := range o.lanes[id] {
		s.Lanes = append(s.Lanes, l)
	}
	t := o.targets[id]
	switch {
	case t == nil:
		o.erase(id, "")
		return
	case s.Epoch() > o.epoch:
		o.do(laterOwner{s.Epoch()})
		return
	case o.writes[id] != o.snapshot[id] || !o.quiet && o.chance(20):
		o.partly = true
		return
	}
	d := &Dispatcher{conf: *o.core.conf}
	cb := d.newCallback(t, s, o.epoch, o.toLoad.mark, f)
	cb.ctx, cb.cancel = context.WithCancel(context.Background())
	ch := cb.cur.Changes()
	o.put(id, ch)
	cb.cur.Stored(ch)
	cb.sending.allowance = o.slots.Join("shop", cb.target.Key, func() { o.wakes = append(o.wakes, slotGranted{cb}) })
	o.taken = append(o.taken, cb)
}

func (o *simOwner) fail() {
	what := o.toLoad
	o.toLoad = nil
	o.do(loadEnded{what, true})
}

// put stores changes of a cursor.
func (w *simWorld) put(id string, ch cursor.Changes) {
	w.writes[id]++
	for _, l := range ch.Lanes {
		w.lanes[id][l.Order] = stored(w.t, l)
	}
	if ch.Document != nil {
		w.docs[id] = stored(w.t, *ch.Document)
	}
	for _, order := range ch.Remove {
		delete(w.lanes[id], order)
	}
}

// stored is a document as the store gives it back.
func stored[T any](t *rapid.T, v T) (read T) {
	raw, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(raw, &read)
	}
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// store makes the round under way, or as much of it as the store lets it, and reports the result truly, or not at all.
func (o *simOwner) store() {
	r := o.round
	o.round = nil
	for _, work := range r.writes {
		id := work.cb.id
		if !o.quiet && o.chance(10) { // nothing is stored
			work.failed = true
			continue
		}
		for _, record := range work.records {
			if record.Closing != "" {
				o.close(keyOf(work.cb.target.Callback), record)
			}
		}
		if o.quiet || !o.chance(10) { // else the response is lost: they are stored again
			work.recorded = len(work.records)
		} else {
			work.failed = true
			continue
		}
		if doc := o.docs[id]; doc.Epoch > o.epoch || slices.ContainsFunc(work.changes.Lanes, func(l cursor.Lane) bool {
			return o.lanes[id][l.Order].Epoch > o.epoch
		}) {
			work.failed, work.fenced = true, doc.Epoch
			continue
		}
		some := work.changes
		switch n := rapid.IntRange(0, 9).Draw(o.t, "stored"); {
		case o.quiet || n > 3:
		case n == 0: // the lanes only
			some.Document, some.Remove, work.failed = nil, nil, true
		case n == 1: // not the removals
			some.Remove, work.failed = nil, true
		case n == 2: // all of it, and nobody knows
			work.failed = true
		}
		o.put(id, some)
	}
	switch {
	case r.raiseTo == 0 || !o.quiet && o.chance(10):
	case o.mark.Epoch > o.epoch:
		r.laterEpoch = o.mark.Epoch
	default:
		o.mark = store.Watermark{Epoch: o.epoch, Position: r.raiseTo}
		if o.quiet || !o.chance(10) {
			r.mark.Stored = r.raiseTo
		}
	}
	o.do(roundEnded{r})
	if o.core.finished() {
		o.owners = slices.DeleteFunc(o.owners, func(other *simOwner) bool { return other == o })
		if len(o.owners) == 0 || o.epoch == o.simWorld.epoch {
			o.takeOver()
		}
	}
}
