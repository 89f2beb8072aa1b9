package dispatcher

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
)

// The core alone, in a world without goroutines, clock or store: whatever the order in which things happen, and
// whatever the store loses of its answers, whoever takes over and whenever a replica dies,
//
//   - the events of an order are delivered in their order, and none is passed over,
//   - what is stored as settled has its attempt recorded,
//   - the watermark is never above what a callback it speaks for has settled,
//   - all that matches is delivered in the end, also to those that leave the shared reader, read by themselves or with others and join again.
func TestSimulation(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newSimWorld(rt)
		for range rapid.IntRange(50, 500).Draw(rt, "steps") {
			w.step()
		}
		w.calm()
	})
}

const simCallbacks = 3

var simSites = []string{"leeds", "york", "hull"}

// simWorld is a log, a store, receivers and the replicas that have held the shard.
type simWorld struct {
	t         *rapid.T
	now       time.Time
	log       []*event // ascending, with gaps between positions of other orders
	targets   map[string]*target
	docs      map[string]cursor.Document
	lanes     map[string]map[string]cursor.Lane
	writes    map[string]int // how often something of a callback was written
	closed    map[string]map[uint64]bool
	mark      store.Watermark
	delivered map[string]map[uint64]bool
	epoch     uint64
	owners    []*simOwner // those that live; the last is the owner
	quiet     bool        // nothing goes wrong any more
}

// simOwner is a replica that holds the shard, or believes that it does.
type simOwner struct {
	*simWorld
	epoch    uint64
	core     *core
	feed     *feed
	together *feed
	members  []read // that wait for together
	limits   *simPlaces
	attempts []*job
	reads    []read
	lanesOf  [][]refill
	round    *round
	wakes    []message
	retired  []*callback
	other    int // facts and disablements under way
	toLoad   *load
	snapshot map[string]int
	valid    bool
	next     []message
}

// simPlaces divides places without a goroutine.
type simPlaces struct{ *places }

func (p simPlaces) take(pl *place) bool { return pl.wait() }
func (p simPlaces) release(pl *place)   { pl.release() }
func (p simPlaces) decline(pl *place)   { pl.decline() }
func (p simPlaces) contended() bool     { return p.waiting > 0 }

func newSimWorld(t *rapid.T) *simWorld {
	w := &simWorld{
		t: t, now: time.Now(), targets: map[string]*target{}, docs: map[string]cursor.Document{}, lanes: map[string]map[string]cursor.Lane{},
		writes: map[string]int{}, closed: map[string]map[uint64]bool{}, delivered: map[string]map[uint64]bool{},
	}
	for i := range simCallbacks {
		id := fmt.Sprint("cb", i)
		cb := relay.Callback{
			ID: id, Client: "shop", Generation: "g", Concurrency: rapid.IntRange(1, 3).Draw(t, "concurrency"), TimeoutSeconds: 5, Mode: relay.ModeEvery,
		}
		if i > 0 {
			cb.Filter.Sites = simSites[:i]
		}
		w.targets[id] = newTarget(cb, relay.Client{ID: "shop", AllSites: true})
		w.lanes[id], w.closed[id], w.delivered[id] = map[string]cursor.Lane{}, map[uint64]bool{}, map[uint64]bool{}
	}
	w.takeOver()
	return w
}

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
	n := rapid.IntRange(0, 17).Draw(w.t, "order")
	ev := &event{Stored: store.Stored{
		Seq: w.last() + 1 + uint64(rapid.IntRange(0, 1).Draw(w.t, "gap")), Site: simSites[n%3], Order: fmt.Sprint("order", n), Type: relay.TypeOrderUpdated, Time: w.now,
		Body: []byte("{}"),
	}}
	ev.id = fmt.Sprint(ev.Seq)
	w.log = append(w.log, ev)
	for _, o := range w.owners {
		o.readLog(o.feed)
	}
}

// readLog has a reader read what it has not, as far as there is room.
func (w *simWorld) readLog(f *feed) {
	for _, ev := range w.log {
		if ev.Seq <= f.position() {
			continue
		}
		one := *ev
		one.untaken = 0
		if !f.put(&one) {
			return
		}
	}
}

// takeOver lets a new replica take the shard; the ones before go on until they notice.
func (w *simWorld) takeOver() {
	w.epoch++
	conf := Config{
		Schedule: slices.Repeat([]time.Duration{time.Second, time.Minute}, 100), Jitter: func(d time.Duration) time.Duration { return d }, CircuitFailures: 6, Lookback: 1000,
		MaxLanes: 4, Log: slog.New(slog.DiscardHandler),
	}.withDefaults()
	d := &Dispatcher{conf: conf, limits: newLimits(4, 1<<20)}
	o := &simOwner{simWorld: w, epoch: w.epoch, limits: &simPlaces{newPlaces(rapid.IntRange(1, 4).Draw(w.t, "places"))}, valid: true}
	memory := &memory{bound: 1 << 20}
	o.core = newCore(&environment{conf: &conf, metrics: newMetrics(nil, d), memory: memory, places: o.limits, pacer: &pacer{}, batch: 1 << 20}, o.epoch)
	o.feed = newFeed(8, 1<<20, func(int) {})
	o.feed.start(w.last())
	w.owners = append(w.owners, o)
	o.do(tick{})
}

func (o *simOwner) do(m message) {
	o.next = append(o.next, m)
	for len(o.next) > 0 {
		m := o.next[0]
		o.next = o.next[1:]
		e := o.core.step(m, o.now, o.valid)
		o.feed.want(0, e.interest)
		o.attempts = append(append(o.attempts, e.begin...), e.next...)
		for _, r := range e.ring {
			page := o.feed.join(0, r.target, r.pos, 5)
			page.read = r
			o.next = append(o.next, &page)
		}
		o.reads = append(o.reads, e.pages...)
		o.lanesOf = append(o.lanesOf, e.refills...)
		o.members = append(o.members, e.comers...)
		if e.round != nil {
			o.round = e.round
		}
		if e.load != nil {
			o.toLoad, o.snapshot = e.load, nil
		}
		o.retired = append(o.retired, e.retired...)
		o.other += len(e.facts) + len(e.disables)
	}
}

// pick takes a random element out.
func pick[T any](t *rapid.T, list *[]T) T {
	i := rapid.IntRange(0, len(*list)-1).Draw(t, "which")
	v := (*list)[i]
	*list = slices.Delete(slices.Clone(*list), i, i+1)
	return v
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
	default:
		o.work()
	}
	w.check()
}

// work does one of the things that are under way.
func (o *simOwner) work() {
	o.readLog(o.feed)
	switch n := rapid.IntRange(0, 99).Draw(o.t, "work"); {
	case n < 20 && !o.core.ending.begun:
		events, through, _ := o.feed.take(0, nil, rapid.IntRange(1, 9).Draw(o.t, "most"))
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
		cb := pick(o.t, &o.retired)
		cb.sending.place.leave()
		o.do(done{cb})
	case o.other > 0:
		o.other--
		o.do(done{})
	default:
		o.do(tick{})
	}
}

// attempt ends one of the attempts under way.
func (o *simOwner) attempt() {
	j := pick(o.t, &o.attempts)
	for i, seq := range j.batch.Seqs {
		if j.events[i] == nil {
			at := slices.IndexFunc(o.log, func(ev *event) bool { return ev.Seq == seq })
			j.events[i] = o.log[at]
		}
		if !j.target.matches(j.events[i]) {
			o.t.Fatalf("event %d is delivered to a callback that it is not for", seq)
		}
	}
	j.chosen = len(j.events) - 1
	switch n := rapid.IntRange(0, 99).Draw(o.t, "outcome"); {
	case o.quiet || n < 60:
		o.receive(j)
		j.attempt = sender.Attempt{At: o.now, Outcome: sender.Success}
	case n < 70: // it arrived, and nobody knows
		o.receive(j)
		j.attempt = sender.Attempt{At: o.now, Outcome: sender.Timeout, Error: "timeout"}
	case n < 90:
		j.attempt = sender.Attempt{At: o.now, Outcome: sender.Refused, Error: "answered 500"}
	case n < 95:
		j.attempt = sender.Attempt{At: o.now, Outcome: sender.Cancelled}
	default:
		j.chosen, j.err = -1, errLease
	}
	o.do(ended{j})
}

// receive is a receiver that takes an event: everything of its order before must have come to it.
func (o *simOwner) receive(j *job) {
	ev := j.events[j.chosen]
	for _, before := range o.log {
		if before.Seq < ev.Seq && before.Order == ev.Order && j.target.matches(before) && !o.delivered[j.cb.id][before.Seq] {
			o.t.Fatalf("%s gets %d before %d of the same order", j.cb.id, ev.Seq, before.Seq)
		}
	}
	o.delivered[j.cb.id][ev.Seq] = true
}

func (o *simOwner) readPage() {
	r := pick(o.t, &o.reads)
	page := &logPage{read: r, size: 4, first: 1, through: max(o.last(), r.pos)}
	if !o.quiet && o.chance(10) {
		page.err = store.ErrUnavailable
	}
	for _, ev := range o.log {
		if ev.Seq > r.pos && r.target.matches(ev) && page.err == nil {
			if len(page.events) == 4 {
				page.through = page.events[3].Seq
				break
			}
			page.events = append(page.events, ev)
		}
	}
	o.do(page)
}

func (o *simOwner) readLanes() {
	lanes := pick(o.t, &o.lanesOf)
	for i, r := range lanes {
		found := &refilled{refill: r, through: r.of.Through, more: i < len(lanes)-1}
		for _, ev := range o.log {
			if ev.Order == r.of.Order && ev.Seq >= r.of.From && ev.Seq <= r.of.Through && r.target.matches(ev) {
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
			if one := *ev; ev.Seq > f.position() && f.position() < o.feed.reach() {
				one.untaken = 0
				f.put(&one)
				break
			}
		}
		if f.position() >= o.feed.reach() || !o.quiet && o.chance(10) {
			f.finish()
		}
		events, through, over := f.take(0, nil, 3)
		if o.do(&newEvents{&o.core.together, events, through}); over {
			o.together = nil
			o.do(comersEnd{})
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
	o.together = newFeed(8, 1<<20, func(int) {})
	o.together.start(from)
	for _, r := range o.members {
		o.together.join(0, r.target, from, 0)
	}
	o.do(&comersBegin{comers: o.members, from: from})
	o.members = nil
}

// load reads what is stored and then, unless somebody has written meanwhile, writes it under the owner's epoch.
func (o *simOwner) load() {
	if o.snapshot == nil {
		o.snapshot = map[string]int{}
		for id := range o.targets {
			o.snapshot[id] = o.writes[id]
		}
		if m := &o.toLoad.mark; !m.touched {
			if o.mark.Epoch > o.epoch {
				o.fail()
				return
			}
			m.base, m.stored, m.tried, m.touched = o.mark.Position, o.mark.Position, o.mark.Position, true
			o.mark.Epoch = o.epoch
		}
		return // somebody else may come in between
	}
	what, taken := o.toLoad, []*callback{}
	f := &found{first: 1, last: o.last()}
	for id, t := range o.targets {
		if o.core.callbacks[id] != nil || o.core.retiring[id] != nil {
			continue
		}
		s := &cursorstore.Stored{ID: id, Handle: &cursorstore.Handle{}}
		if doc, there := o.docs[id]; there {
			s.Document = &doc
		}
		for _, l := range o.lanes[id] {
			s.Lanes = append(s.Lanes, l)
		}
		if s.Epoch() > o.epoch || o.writes[id] != o.snapshot[id] {
			o.fail()
			return
		}
		d := &Dispatcher{conf: *o.core.conf}
		cb := d.newCallback(context.Background(), t, s, o.epoch, what.mark, f)
		ch := cb.cur.Changes()
		o.put(id, ch)
		cb.cur.Stored(ch)
		cb.sending.place = o.limits.join("shop", func() { o.wakes = append(o.wakes, placed{cb}) })
		taken = append(taken, cb)
	}
	o.do(&adopted{callbacks: taken, mark: what.mark, first: 1})
	o.toLoad = nil
	o.do(loaded{what, false})
}

func (o *simOwner) fail() {
	what := o.toLoad
	o.toLoad = nil
	o.do(loaded{what, true})
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

// store makes the round under way, or as much of it as the store lets it, and answers truly, or not at all.
func (o *simOwner) store() {
	r := o.round
	o.round = nil
	for _, work := range r.works {
		id := work.cb.id
		if !o.quiet && o.chance(10) { // nothing is stored
			work.failed = true
			continue
		}
		for _, record := range work.records {
			if record.Closing != "" {
				o.closed[id][record.Seq] = true
			}
		}
		if o.quiet || !o.chance(10) { // else the answer is lost: they are stored again
			work.recorded = len(work.records)
		} else {
			work.failed = true
			continue
		}
		if doc := o.docs[id]; doc.Epoch > o.epoch || slices.ContainsFunc(work.changes.Lanes, func(l cursor.Lane) bool { return o.lanes[id][l.Order].Epoch > o.epoch }) {
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
	case r.raise == 0 || !o.quiet && o.chance(10):
	case o.mark.Epoch > o.epoch:
		r.found = o.mark.Epoch
	default:
		o.mark = store.Watermark{Epoch: o.epoch, Position: r.raise}
		if o.quiet || !o.chance(10) {
			r.mark.stored = r.raise
		}
	}
	o.do(rounded{r})
	if o.core.finished() {
		o.owners = slices.DeleteFunc(o.owners, func(other *simOwner) bool { return other == o })
		if len(o.owners) == 0 || o.epoch == o.simWorld.epoch {
			o.takeOver()
		}
	}
}

// check looks at what is stored: whoever loads it now loses nothing.
func (w *simWorld) check() {
	for id, doc := range w.docs {
		at := doc.Position
		if !doc.Behind {
			at = max(at, w.mark.Position)
		}
		for _, ev := range w.log {
			settled := ev.Seq <= at || slices.ContainsFunc(doc.Done, func(r cursor.Range) bool { return r[0] <= ev.Seq && ev.Seq <= r[1] })
			if !settled || !w.targets[id].matches(ev) || w.closed[id][ev.Seq] {
				continue
			}
			l, laned := w.lanes[id][ev.Order]
			if !laned || l.Epoch < doc.Adopted || !slices.Contains(l.Entries, ev.Seq) && (l.OpenFrom == 0 || ev.Seq < l.OpenFrom) {
				w.t.Fatalf("event %d counts as settled for %s and has no end: document %+v, lane %+v, watermark %d", ev.Seq, id, doc, l, w.mark.Position)
			}
		}
	}
}

// calm lets the last owner alone work until nothing is left to do: everything has been delivered then.
func (w *simWorld) calm() {
	w.quiet = true
	w.owners = w.owners[len(w.owners)-1:]
	if o := w.owners[0]; o.core.ending.begun || o.core.keeping.superseded || o.epoch != w.epoch {
		w.owners = nil
		w.takeOver()
	}
	w.owners[0].valid = true
	for range 20_000 {
		o := w.owners[0]
		w.now = w.now.Add(time.Second)
		o.readLog(o.feed)
		events, through, _ := o.feed.take(0, nil, 100)
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
		for ; o.other > 0; o.other-- {
			o.do(done{})
		}
		o.catchUp()
		o.do(tick{})
		w.check()
		if w.complete(o) {
			return
		}
	}
	w.t.Fatalf("not everything was delivered: %s", w.missing())
}

// complete reports whether all is delivered, and stored as such.
func (w *simWorld) complete(o *simOwner) bool {
	if len(o.core.callbacks) != simCallbacks || len(w.missing()) > 0 || w.mark.Position != w.last() {
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
		for _, ev := range w.log {
			if t.matches(ev) && (!w.delivered[id][ev.Seq] || !w.closed[id][ev.Seq]) {
				list = append(list, fmt.Sprint(id, " ", ev.Seq))
			}
		}
	}
	return list
}
