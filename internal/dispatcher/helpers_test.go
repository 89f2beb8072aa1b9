package dispatcher_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	reference "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/api/schematest"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/signature"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// TestMain lets a property be tried RELAY_CRASH_KILLS times (.ci/full sets it), and a few times otherwise: each try
// runs a dispatcher. The flag -rapid.checks goes before both.
func TestMain(m *testing.M) {
	checks := "6"
	if s := os.Getenv("RELAY_CRASH_KILLS"); s != "" {
		checks = s
	}
	if err := flag.Set("rapid.checks", checks); err != nil {
		panic(err)
	}
	natstest.Waiting(4)
	goleak.VerifyTestMain(m)
}

const patience = 90 * time.Second

// bench is a log, a store and what tests put into them.
type bench struct {
	t     testing.TB
	conn  *nats.Conn
	store *store.Store
	gate  *gate
	keys  []byte
	topo  topology.Topology

	recent bool // dispatchers follow the log from a little before its end, as they do outside of tests

	mu    sync.Mutex
	facts []fact
	last  map[string]uint64 // log position of an order's last event
	seq   map[string]uint64
	epoch uint64
}

type fact struct {
	kind, id string
	details  map[string]any
}

func newBench(t testing.TB) *bench {
	t.Helper()
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{
		t: t, conn: natstest.Start(t), keys: keys, last: map[string]uint64{}, seq: map[string]uint64{}, gate: &gate{},
		topo: topology.Topology{Prefix: "relay", Replicas: 1, Retention: 720 * time.Hour},
	}
	b.store = b.open(b.gate)
	b.client(relay.Client{ID: "shop", AllSites: true})
	return b
}

// open returns another handle on the same data, with a gate of its own.
func (b *bench) open(g *gate) *store.Store {
	b.t.Helper()
	sealer, err := store.NewSealer(b.keys)
	if err != nil {
		b.t.Fatal(err)
	}
	s, err := store.Open(context.Background(), store.Config{
		Conn: b.conn, Topology: b.topo, Sealer: sealer, Log: slog.New(slog.DiscardHandler),
		Gate: store.Gate{Before: g.before, After: g.after},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// gate cuts a dispatcher off from the store: all writes fail once it is shut.
type gate struct {
	mu   sync.Mutex
	shut bool
	each func(store.Write) error // may be nil
	hold func(store.Write) bool  // reports which writes wait until free is closed; may be nil
	free chan struct{}
	kept int // writes that wait
	seen map[string]int
}

var errCut = errors.New("cut off by the test")

func (g *gate) before(w store.Write) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hold != nil && g.hold(w) {
		free := g.free
		g.kept++
		g.mu.Unlock()
		<-free
		g.mu.Lock()
		g.kept--
	}
	if g.shut {
		return errCut
	}
	if g.seen == nil {
		g.seen = map[string]int{}
	}
	g.seen[w.Subject]++
	if g.each != nil {
		return g.each(w)
	}
	return nil
}

func (g *gate) after(store.Write) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return errCut
	}
	return nil
}

// keep holds writes back until the returned function is called.
func (g *gate) keep(which func(store.Write) bool) (release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	free := make(chan struct{})
	g.hold, g.free = which, free
	return sync.OnceFunc(func() {
		g.mu.Lock()
		g.hold = nil
		g.mu.Unlock()
		close(free)
	})
}

func (g *gate) keeps() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.kept > 0
}

func (g *gate) close() { g.mu.Lock(); g.shut = true; g.mu.Unlock() }

func (g *gate) count(match func(subject string) bool) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for s, c := range g.seen {
		if match(s) {
			n += c
		}
	}
	return n
}

func (b *bench) client(c relay.Client) {
	b.t.Helper()
	put(b, b.store.Clients, c.ID, func(old *relay.Client) { *old = c })
}

func put[T any](b *bench, bucket *store.Bucket[T], id string, change func(*T)) {
	b.t.Helper()
	v, rev, err := bucket.Get(context.Background(), id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		b.t.Fatal(err)
	}
	change(&v)
	if rev == 0 {
		_, err = bucket.Create(context.Background(), id, v)
	} else {
		_, err = bucket.Update(context.Background(), id, v, rev)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

var (
	secret      = signature.NewSecret()
	verifier, _ = reference.NewWebhook(secret.Reveal())
)

func callback(id, url string) relay.Callback {
	return relay.Callback{
		ID: id, Client: "shop", Concurrency: 4, TimeoutSeconds: 5, Mode: relay.ModeEvery, Generation: relay.NewID(),
		Secrets: relay.CallbackSecrets{URL: url, Signing: []relay.SigningSecret{{Secret: secret.Reveal()}}},
	}
}

func (b *bench) register(cb relay.Callback) {
	b.t.Helper()
	put(b, b.store.Callbacks, cb.ID, func(old *relay.Callback) { *old = cb })
}

// registerBusyAndQuiet registers two callbacks of one shard: "busy", of the site leeds, and a quiet one of york.
func (b *bench) registerBusyAndQuiet(url string) {
	busy, quiet := callback("busy", url), callback("quiet", url)
	busy.Filter.Sites, quiet.Filter.Sites = []string{"leeds"}, []string{"york"}
	for i := 0; relay.ShardOf(quiet.ID) != relay.ShardOf(busy.ID); i++ {
		quiet.ID = fmt.Sprintf("quiet-%d", i)
	}
	b.register(busy)
	b.register(quiet)
}

// patient is for callbacks whose failures are tried again only when a test wants that.
func patient(c *dispatcher.Config) { c.Schedule, c.CircuitFailures = []time.Duration{time.Hour}, 1000 }

func (b *bench) change(id string, change func(*relay.Callback)) {
	b.t.Helper()
	put(b, b.store.Callbacks, id, change)
}

// order is a uuid by number.
func order(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

// publish puts the next event of an order into the log and returns its position.
func (b *bench) publish(site string, n int) uint64 {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	key := site + order(n)
	typ := relay.TypeOrderUpdated
	if b.seq[key] == 0 {
		typ = relay.TypeOrderCreated
	}
	b.seq[key]++
	ev, err := relay.NewOrderEvent("https://relay.test", site, order(n), typ, b.seq[key], time.Now(), relay.OrderData{
		Order: json.RawMessage(`{"Price":12.50}`), Revision: int(b.seq[key]),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	at, err := b.store.Events.Publish(context.Background(), ev, store.InboxRef{}, b.last[key])
	if err != nil {
		b.t.Fatal(err)
	}
	b.last[key] = at
	return at
}

// Operational implements cursorstore.Operational.
func (b *bench) Operational(_ context.Context, _ string, kind relay.Kind, id, _ string, details map[string]any) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	schematest.Details(b.t, kind, details)
	b.facts = append(b.facts, fact{string(kind), id, details})
	return nil
}

func (b *bench) told(kind relay.Kind) []fact {
	b.mu.Lock()
	defer b.mu.Unlock()
	var of []fact
	for _, f := range b.facts {
		if f.kind == string(kind) {
			of = append(of, f)
		}
	}
	return of
}

// running is a dispatcher at work.
type running struct {
	*dispatcher.Dispatcher
	deliverer *delivery.Deliverer
	b         *bench
	gate      *gate
	stop      func()

	mu   sync.Mutex
	held map[int]*holding
}

// holding is a shard as held by a dispatcher.
type holding struct {
	*shardtest.Manual
	end  context.CancelFunc
	done chan error
}

// start runs a dispatcher with tiny waits on all shards, under a new epoch, until the test ends.
func (b *bench) start(changes ...func(*dispatcher.Config)) *running {
	b.t.Helper()
	r := b.join(changes...)
	r.take(allShards()...)
	r.ready()
	return r
}

func allShards() []int {
	all := make([]int, relay.Shards)
	for n := range all {
		all[n] = n
	}
	return all
}

// join runs a dispatcher that holds no shard.
func (b *bench) join(changes ...func(*dispatcher.Config)) *running {
	b.t.Helper()
	g := &gate{}
	send := sender.New(sender.Config{AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		UserAgent: "test"})
	s, log := b.open(g), slog.New(slog.DiscardHandler)
	conf := dispatcher.Config{
		Store: s, Operational: b, Log: log, Grace: time.Second,
		Schedule:      []time.Duration{5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, time.Hour},
		ProbeSchedule: []time.Duration{5 * time.Millisecond},
		Jitter:        func(d time.Duration) time.Duration { return d },
	}
	for _, change := range changes {
		change(&conf)
	}
	conf.Deliverer = delivery.New(delivery.Config{Store: s, Sender: send, Log: conf.Log, Metrics: conf.Metrics})
	d := dispatcher.New(conf)
	if !b.recent {
		d.FollowFromEnd()
	}
	if err := d.Prepare(context.Background(), nil); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		var targets sync.WaitGroup
		targets.Go(func() { _ = conf.Deliverer.Run(ctx) })
		err := d.Run(ctx)
		targets.Wait()
		done <- err
	}()
	var once sync.Once
	r := &running{Dispatcher: d, deliverer: conf.Deliverer, b: b, gate: g, held: map[int]*holding{}}
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				b.t.Error(err)
			}
			r.give(allShards()...)
			send.Close()
		})
	}
	b.t.Cleanup(r.stop)
	return r
}

func (r *running) ready() {
	r.b.t.Helper()
	select {
	case <-r.Ready():
	case <-time.After(patience):
		r.b.t.Fatal("the dispatcher did not get ready")
	}
}

// take gives shards to the dispatcher, under an epoch above every one before.
func (r *running) take(shards ...int) {
	r.b.mu.Lock()
	r.b.epoch++
	epoch := r.b.epoch
	r.b.mu.Unlock()
	for _, n := range shards {
		ctx, cancel := context.WithCancel(context.Background())
		h := &holding{Manual: shardtest.NewManual(n, epoch), end: cancel, done: make(chan error, 1)}
		r.mu.Lock()
		r.held[n] = h
		r.mu.Unlock()
		go func() { h.done <- r.Own(ctx, h.Lease) }()
	}
}

// give takes shards from the dispatcher and waits until it has let go of them.
func (r *running) give(shards ...int) {
	r.b.t.Helper()
	var given []*holding
	r.mu.Lock()
	for _, n := range shards {
		if h := r.held[n]; h != nil {
			h.end()
			given = append(given, h)
			delete(r.held, n)
		}
	}
	r.mu.Unlock()
	for _, h := range given {
		if err := <-h.done; err != nil {
			r.b.t.Error(err)
		}
	}
}

// lease returns how the shard of a callback is held.
func (r *running) lease(id string) *shardtest.Manual {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held[relay.ShardOf(id)].Manual
}

// crash abandons a dispatcher: nothing it does from now on reaches the store.
func (r *running) crash() {
	r.gate.close()
	r.stop()
}

// receiver is a BMS: it verifies and keeps what it is sent.
type receiver struct {
	*httptest.Server
	mu        sync.Mutex
	answer    func(ev relay.Event, attempt int) int // status; nil: 200
	tries     map[string]int
	taken     []relay.Event       // responded with 2xx, in order of arrival
	different map[string]struct{} // of them, by id
	problems  []string
}

func newReceiver(t testing.TB, answer func(ev relay.Event, attempt int) int) *receiver {
	r := &receiver{answer: answer, tries: map[string]int{}, different: map[string]struct{}{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	var ev relay.Event
	err := json.Unmarshal(body, &ev)
	if err == nil {
		err = verifier.Verify(body, req.Header)
	}
	if id := req.Header.Get("webhook-id"); err == nil && id != ev.ID {
		err = fmt.Errorf("webhook-id %q is not the event's id %q", id, ev.ID)
	}
	r.mu.Lock()
	if err != nil {
		r.problems = append(r.problems, err.Error())
	}
	r.tries[ev.ID]++
	n, answer := r.tries[ev.ID], r.answer
	r.mu.Unlock()
	status := 200
	if answer != nil {
		status = answer(ev, n)
	}
	if status == 200 {
		r.mu.Lock()
		r.taken = append(r.taken, ev)
		r.different[ev.ID] = struct{}{}
		r.mu.Unlock()
	}
	w.WriteHeader(status)
}

func (r *receiver) events() []relay.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]relay.Event(nil), r.taken...)
}

// distinct returns how many different events were taken.
func (r *receiver) distinct() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.different)
}

// inOrder checks that first sights of each order's events come in order, and that nothing was wrong with a request.
func (r *receiver) inOrder(t testing.TB) {
	t.Helper()
	highest := map[string]uint64{}
	for _, ev := range r.events() {
		n, err := ev.SequenceNumber()
		if err != nil {
			t.Fatal(err)
		}
		key := ev.Site + ev.Subject
		if n > highest[key]+1 {
			t.Fatalf("order %s: event %d came after %d", ev.Subject, n, highest[key])
		}
		highest[key] = max(highest[key], n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.problems) > 0 {
		t.Fatalf("%d bad requests, the first: %s", len(r.problems), r.problems[0])
	}
}

// until polls a condition.
func until(t testing.TB, what string, holds func() bool, instead ...func() any) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			for _, is := range instead {
				t.Logf("%+v", is())
			}
			t.Fatalf("in vain: %s", what)
		}
		<-time.After(5 * time.Millisecond) // between two looks at a condition
	}
}

// closings returns how the deliveries of a callback ended, by log position. It compares the tallies of the batches with
// their records.
func (b *bench) closings(id, generation string) map[uint64]relay.DeliveryStatus {
	b.t.Helper()
	ends := map[uint64]relay.DeliveryStatus{}
	newest, err := b.store.Attempts.Last(context.Background(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	if newest == 0 {
		return ends
	}
	var tallied, counted int
	err = b.store.Attempts.Walk(context.Background(), id, generation, newest,
		func(seq uint64, _ time.Time, batch relay.AttemptBatch) bool {
			if seq == newest { // the last one of its hour
				for _, n := range batch.Tally.Ends {
					tallied += n
				}
				newest = batch.Tally.Before
			}
			for _, r := range batch.Records {
				if r.Closing != "" {
					counted++
					ends[r.Seq] = r.Closing
				}
			}
			return true
		})
	if err != nil {
		b.t.Fatal(err)
	}
	if tallied != counted {
		b.t.Errorf("the tallies of %s have %d ends, its records %d", id, tallied, counted)
	}
	return ends
}
