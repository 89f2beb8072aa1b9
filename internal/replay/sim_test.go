package replay

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/store"
)

// simWorld is a replay at work on a log, a callback, a receiver and a store that a test has made up, in virtual time.
// The loop is the runner's own, in the goroutine of the test; attempts have goroutines of their own.
type simWorld struct {
	t      *rapid.T
	r      *Replayer
	log    simLog
	seed   int
	target atomic.Pointer[delivery.Target]

	// What is stored.
	doc      relay.Replay
	records  []relay.AttemptRecord
	document *cursor.Document
	lanes    map[string]cursor.Lane

	// The replica at work.
	w                           *runner
	turns, life                 context.Context
	stopTurns, stopLife, noLive func()
	gone                        chan struct{} // the receiver has responded with 410

	poisoned map[string]bool // orders that the receiver refuses
	narrowed bool            // the callback was to get less for a while
	crashed  bool

	mu       sync.Mutex
	problems []string
	tries    map[uint64]int
	flying   map[string]bool
	accepted map[uint64]bool
	newest   map[string]uint64 // of each order, the newest that was accepted
}

const simKey = "bms one"

// simLog is a log of events: the first has position 1.
type simLog struct {
	events []store.Stored
	first  *atomic.Uint64 // those before have left the log
	bodies int            // how many bytes of bodies are read at once
}

func (l simLog) Get(_ context.Context, seq uint64) (store.Stored, error) {
	if seq < l.first.Load() || seq > uint64(len(l.events)) {
		return store.Stored{}, store.ErrNotFound
	}
	return l.events[seq-1], nil
}

func (l simLog) ScanHeads(ctx context.Context, from uint64, filters []string, most int) ([]store.Stored, bool, error) {
	found, more, err := l.ScanWithin(ctx, from, filters, most, 0)
	if len(found) > 0 {
		found[0].Body = nil
	}
	return found, more, err
}

func (l simLog) ScanWithin(_ context.Context, from uint64, _ []string, most, bytes int) ([]store.Stored, bool, error) {
	from = max(from, l.first.Load())
	if from > uint64(len(l.events)) {
		return nil, false, nil
	}
	found := slices.Clone(l.events[from-1:])
	more := len(found) > most
	found = found[:min(most, len(found))]
	kept := 0
	for i := range found {
		if kept += len(found[i].Body); kept > min(bytes, l.bodies) && i > 0 {
			found[i].Body = nil
		}
	}
	return found, more, nil
}

// newSimWorld makes a world with some events of few orders.
func newSimWorld(t *rapid.T) *simWorld {
	s := &simWorld{
		t: t, seed: rapid.IntRange(0, 1<<30).Draw(t, "seed"), log: simLog{first: &atomic.Uint64{},
			bodies: rapid.SampledFrom([]int{1, 200, 1 << 20}).Draw(t, "bodies")}, lanes: map[string]cursor.Lane{},
		gone: make(chan struct{}, 1000), poisoned: map[string]bool{}, tries: map[uint64]int{},
		flying: map[string]bool{}, accepted: map[uint64]bool{}, newest: map[string]uint64{},
	}
	s.log.first.Store(1)
	orders := rapid.IntRange(1, 8).Draw(t, "orders")
	for i := range rapid.IntRange(1, 60).Draw(t, "events") {
		n := s.random(orders, "order", i)
		s.log.events = append(s.log.events, store.Stored{
			Seq: uint64(i + 1), Site: []string{"leeds", "york"}[n%2], Type: relay.TypeOrderUpdated,
			Order: strconv.Itoa(n), Action: "updated",
			Body: fmt.Appendf(nil, `{"specversion":"1.0","id":"e%d"}`, i+1),
		})
	}
	for n := range orders {
		s.poisoned[strconv.Itoa(n)] = s.random(3, "poisoned", n) == 0
	}
	s.target.Store(s.configured(relay.Callback{
		ID: "bms", Client: "shop", Concurrency: rapid.SampledFrom([]int{1, 8, 16}).Draw(t, "concurrency"),
		Generation:    "one",
		RatePerSecond: rapid.SampledFrom([]float64{0, 0, 8, 0.4}).Draw(t, "rate"),
	}, relay.Client{ID: "shop", AllSites: true}))
	s.doc = relay.Replay{ID: "again", Callback: "bms", CallbackGeneration: "one", Client: "shop", From: 1,
		Through: uint64(len(s.log.events)), State: relay.ReplayRunning}
	s.r = &Replayer{
		c:      Config{Log: slog.New(slog.DiscardHandler), Schedule: DefaultSchedule, Callbacks: s},
		target: func(string) *delivery.Target { return s.target.Load() }, make: s.make,
		bodies: capacity.NewBodies(1 << 20),
		memory: capacity.NewMemory(int64(rapid.SampledFrom([]int{1, 1 << 20}).Draw(t, "memory"))),
	}
	s.r.metrics = newMetrics(nil, s.r)
	return s
}

// random returns a number that depends on nothing but the seed and what it is for.
func (s *simWorld) random(below int, what ...any) int {
	h := fnv.New64a()
	_, _ = fmt.Fprintln(h, s.seed, what)
	return int(h.Sum64() % uint64(below))
}

func (s *simWorld) configured(cb relay.Callback, client relay.Client) *delivery.Target {
	t := delivery.NewTarget(cb, client)
	if was := s.target.Load(); was != nil {
		t.Revisions[0] = was.Revisions[0] + 1
	}
	return t
}

func (s *simWorld) problem(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

// Gone implements Callbacks: the callback is disabled a moment later.
func (s *simWorld) Gone(string, string, int) {
	s.gone <- struct{}{}
	s.w.wake()
}

// make is an attempt, as delivery.Deliverer makes it.
func (s *simWorld) make(ctx context.Context, _ delivery.Lease, a *delivery.Attempt) {
	switch now := s.target.Load(); {
	case !a.Target.SameAs(now):
		s.problem("an attempt was made by a configuration of before")
	case halted(now):
		s.problem("an attempt was made although the callback is halted")
	}
	seq := a.Seqs[0]
	a.Chosen = -1
	if a.Events[0] == nil {
		stored, err := s.log.Get(ctx, seq)
		if err != nil {
			a.Gone = []int{0}
			return
		}
		ev := delivery.EventOf(stored)
		a.Events[0] = &ev
	}
	ev := a.Events[0]
	if ev.Seq != seq || ev.ID != fmt.Sprintf("e%d", seq) {
		s.problem("event %d was taken for %d", ev.Seq, seq)
	}
	if !a.Target.Matches(ev) {
		a.Unmatched = []int{0}
		return
	}
	s.mu.Lock()
	s.tries[seq]++
	try := s.tries[seq]
	if s.flying[ev.Order] {
		s.problems = append(s.problems, "two attempts of one order at once")
	}
	s.flying[ev.Order] = true
	s.mu.Unlock()
	a.Chosen, a.Sent.At = 0, time.Now()
	a.Sent.Outcome = sender.Cancelled
	select {
	case <-time.After(time.Duration(1+s.random(900, "takes", seq, try)) * time.Millisecond):
		s.answer(a, ev, s.random(100, "answer", seq, try), try)
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.flying[ev.Order] = false
	s.mu.Unlock()
}

// answer is the receiver's.
func (s *simWorld) answer(a *delivery.Attempt, ev *delivery.Event, n, try int) {
	switch {
	case n < 3 && try == 1: // else an operator would resume the callback all the time
		a.Sent.Outcome = sender.Gone
	case n < 8:
		a.Sent.Outcome, a.Sent.Status, a.Sent.RetryAfter = sender.Throttled, 429, 20*time.Second
	case s.poisoned[ev.Order] && n%2 == 0:
		a.Sent.Outcome, a.Sent.Status = sender.Refused, 422
	case s.poisoned[ev.Order]:
		a.Sent.Outcome = sender.Timeout
	case n < 20:
		a.Sent.Outcome, a.Sent.Status = sender.Refused, 500
	case n < 25:
		a.Sent.Outcome = sender.ConnectFailed
	default:
		a.Sent.Outcome = sender.Success
		s.accept(ev)
	}
}

func (s *simWorld) accept(ev *delivery.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := s.newest[ev.Order]
	if !s.accepted[ev.Seq] && ev.Seq < newest {
		s.problems = append(s.problems, fmt.Sprintf("event %d came after %d", ev.Seq, newest))
	}
	if s.accepted[ev.Seq] && slices.ContainsFunc(s.records, func(r relay.AttemptRecord) bool {
		return r.Seq == ev.Seq && r.Replayed != ""
	}) {
		s.problems = append(s.problems, fmt.Sprintf("event %d was sent again although its end was recorded", ev.Seq))
	}
	s.accepted[ev.Seq], s.newest[ev.Order] = true, max(newest, ev.Seq)
}

// load has another replica take the replay on.
func (s *simWorld) load() {
	slots := capacity.NewSlots(100)
	s.r.shares = newShares(slots)
	w := newRunner(s.r, shardtest.Fixed(0, 1), store.Entry[relay.Replay]{Value: s.doc})
	lanes := make([]cursor.Lane, 0, len(s.lanes))
	for _, lane := range s.lanes {
		lanes = append(lanes, lane)
	}
	policy := s.r.policy(1)
	if w.cur = cursor.New(policy); s.document != nil {
		cur, err := cursor.Load(policy, *s.document, lanes, time.Now())
		if err != nil {
			s.t.Fatal(err)
		}
		w.cur = cur
	}
	w.atHand.Join(s.r.memory)
	w.sel = &selection{events: s.log, doc: &w.doc}
	w.retarget()
	w.doc.Progress, w.recorded = relay.Progress{}, map[uint64]relay.DeliveryStatus{}
	w.count(newPositions(), s.records)
	w.share = s.r.shares.join(w.sel.callback)
	if w.doc.Matched == nil {
		n, err := w.sel.count(context.Background())
		if err != nil {
			s.t.Fatal(err)
		}
		w.doc.Matched = &n
	}
	s.w, s.r.working = w, map[*runner]struct{}{w: {}}
	s.turns, s.stopTurns = context.WithCancel(context.Background())
	s.life, s.stopLife = context.WithCancel(context.Background())
	live := slots.Join("shop", simKey, func() {})
	ctx, stop := context.WithCancel(context.Background())
	var delivering sync.WaitGroup
	delivering.Go(func() { // new events come and are accepted
		for tick := time.NewTicker(7 * time.Second); ; {
			select {
			case <-tick.C:
				live.Accepted(time.Now(), time.Now())
			case <-ctx.Done():
				tick.Stop()
				live.Leave()
				return
			}
		}
	})
	s.noLive = func() { stop(); delivering.Wait() }
}

// store stores what there is, or as much as a replica comes to that dies.
func (s *simWorld) store(cursorToo bool) {
	s.mu.Lock()
	s.records = append(s.records, s.w.storing.records...)
	s.mu.Unlock()
	s.w.storing.records = nil
	s.doc.State, s.doc.Matched = s.w.doc.State, s.w.doc.Matched
	if !cursorToo {
		return
	}
	s.w.storing.due = time.Time{}
	ch := s.w.cur.Changes()
	for _, lane := range ch.Lanes {
		s.lanes[lane.Order] = lane
	}
	if ch.Document != nil {
		s.document = ch.Document
	}
	for _, order := range ch.Remove {
		delete(s.lanes, order)
	}
	s.w.cur.Stored(ch)
}

// leave ends the replica: in good order, or by a crash.
func (s *simWorld) leave(crash bool) {
	s.stopTurns()
	if crash {
		s.stopLife()
	}
	for s.w.flying > 0 {
		if a := <-s.w.results; crash {
			s.w.flying--
		} else {
			s.w.judge(a)
		}
	}
	if !crash {
		s.store(true)
	}
	s.stopLife()
	s.w.atHand.DropAll()
	s.w.share.leave()
	s.noLive()
	s.crashed = s.crashed || crash
}

// run works the replay for some time, or until it has ended.
func (s *simWorld) run(most time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer time.AfterFunc(most, cancel).Stop()
	if len(s.gone) > 0 { // a replica that has died did not come to see it
		s.w.wake()
	}
	look := func(context.Context) error {
		for len(s.gone) > 0 {
			<-s.gone
			s.change(func(cb *relay.Callback, _ *relay.Client) { cb.Disabled = &relay.Disabled{} })
		}
		s.w.retarget()
		return nil
	}
	write := func(context.Context) error { s.store(true); return nil }
	if err := s.w.loop(ctx, s.turns, s.life, look, write); err != nil {
		s.t.Fatal(err)
	}
}

// change changes the callback or its client.
func (s *simWorld) change(edit func(*relay.Callback, *relay.Client)) {
	was := s.target.Load()
	cb, client := was.Callback, was.Client
	edit(&cb, &client)
	now := s.configured(cb, client)
	now.Orphaned = client.ID == ""
	s.target.Store(now)
	s.w.wake()
}
