package reconciler

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/api/schematest"
	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/publisher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestMain(m *testing.M) {
	natstest.Waiting(4)
	// each has processes of its own
	if err := flag.Set("rapid.checks", strconv.Itoa(natstest.Long(10, 100))); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// vendor has orders and returns them to every caller, unless it fails.
type vendor struct {
	mu     sync.Mutex
	status map[string]string // by order; "" is unknown there
	extra  map[string]int    // changes with every change
	reads  map[string]int
	fail   func(order string) error
	during func(order string) // after an order was read, before it is given
}

func newVendor() *vendor {
	return &vendor{status: map[string]string{}, extra: map[string]int{}, reads: map[string]int{}}
}

func (v *vendor) set(order, status string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status[order] = status
	v.extra[order]++
}

func (v *vendor) failing(f func(order string) error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fail = f
}

func (v *vendor) get(order string) json.RawMessage {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.json(order)
}

func (v *vendor) json(order string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"PartsOrderId":%q,"Status":%q,"Number":%d}`, order, v.status[order],
		v.extra[order]))
}

// readings returns how often an order was asked for.
func (v *vendor) readings(order string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.reads[order]
}

// Order implements Orders.
func (v *vendor) Order(
	_ context.Context, _, order string, begin func() (context.Context, error),
) (json.RawMessage, error) {
	ctx, err := begin()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	v.mu.Lock()
	v.reads[order]++
	fail, during, known, answer := v.fail, v.during, v.status[order] != "", v.json(order)
	v.mu.Unlock()
	if fail != nil {
		if err := fail(order); err != nil {
			return nil, err
		}
	}
	if !known {
		return nil, refusal(audatex.NotFound)
	}
	if during != nil {
		during(order)
	}
	return answer, nil
}

func refusal(of audatex.Outcome) error {
	return &audatex.Error{Operation: audatex.OpOrder, Outcome: of}
}

// connections are those that there are.
type connections struct {
	mu  sync.Mutex
	all map[string]relay.Connection
}

func (c *connections) Connection(id string) (relay.Connection, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, ok := c.all[id]
	return found, ok
}

func (c *connections) Connections(shard int) (list []relay.Connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, found := range c.all {
		if relay.ShardOf(id) == shard {
			list = append(list, found)
		}
	}
	return list
}

func (c *connections) put(conn relay.Connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[conn.ID] = conn
}

// world is a store that several processes work on, one after the other or at once.
type world struct {
	t           *testing.T
	conn        *nats.Conn
	store       *store.Store // of the test itself
	publisher   *publisher.Publisher
	vendor      *vendor
	connections *connections
	epoch       atomic.Uint64
	entries     atomic.Uint64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, conn: natstest.Start(t), vendor: newVendor(),
		connections: &connections{all: map[string]relay.Connection{}}}
	w.store = w.open(store.Gate{})
	w.publisher = publisher.New(publisher.Config{Store: w.store, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { schematest.Log(t, w.store) })
	return w
}

func (w *world) open(g store.Gate) *store.Store {
	w.t.Helper()
	keys, err := store.NewKeys()
	if err != nil {
		w.t.Fatal(err)
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := store.Open(context.Background(), store.Config{
		Conn: w.conn, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: 720 * time.Hour},
		Sealer: sealer, Log: slog.New(slog.DiscardHandler), Gate: g,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// connect makes a connection.
func (w *world) connect(id string) relay.Connection {
	w.t.Helper()
	c := relay.Connection{ID: id, Site: id, Level: relay.LevelSite, Generation: relay.NewID()}
	if _, err := w.store.Connections.Create(context.Background(), id, c); err != nil {
		w.t.Fatal(err)
	}
	w.connections.put(c)
	return c
}

// notify has a notification of an order resolved: it is read and published.
func (w *world) notify(connection, order string) {
	w.t.Helper()
	ctx := context.Background()
	n := relay.Received{Connection: connection, Seq: w.entries.Add(1),
		Info: relay.NotificationInfo{Topic: "PARTS.ORDER.UPDATED", ReceivedAt: time.Now()}}
	for range 50 {
		pos, err := w.publisher.Begin(ctx, connection, order, []relay.Received{n})
		if err != nil {
			w.t.Fatal(err)
		}
		switch outcome, err := w.publisher.Publish(ctx, pos,
			relay.Snapshot{Order: w.vendor.get(order), ReadAt: time.Now().UTC()}); outcome {
		case relay.Published:
			return
		case relay.ReadAgain:
		default:
			w.t.Fatal(outcome, err)
		}
	}
	w.t.Fatal("the order is contested all the time")
}

// process is one replica that owns a connection's shard.
type process struct {
	*Reconciler
	lease *shardtest.Manual
	dead  atomic.Bool // nothing it writes arrives any more
	stop  func()
}

// start has a new process own a connection's shard, under an epoch above all before.
func (w *world) start(connection string, change func(*Config)) *process {
	w.t.Helper()
	p := &process{lease: shardtest.NewManual(relay.ShardOf(connection), w.epoch.Add(1))}
	s := w.open(store.Gate{Before: func(store.Write) error {
		if p.dead.Load() {
			return store.ErrUnavailable
		}
		return nil
	}, After: func(store.Write) error {
		if p.dead.Load() {
			return store.ErrUnclear
		}
		return nil
	}})
	c := Config{
		Store: s, Orders: w.vendor, Publisher: publisher.New(publisher.Config{Store: s, Log: slog.New(slog.DiscardHandler)}),
		Connections: w.connections,
		retryLeast:  time.Millisecond, retryMost: 4 * time.Millisecond, Log: slog.New(slog.DiscardHandler), Grace: time.Minute,
	}
	if change != nil {
		change(&c)
	}
	p.Reconciler = New(c)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = p.Run(ctx) })
	running.Go(func() { _ = p.Own(ctx, p.lease.Lease) })
	p.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	w.t.Cleanup(p.stop)
	return p
}

// kill ends a process as kill -9 does: nothing is written any more.
func (p *process) kill() {
	p.dead.Store(true)
	p.stop()
}

// ask has a connection reconciled, as soon as the process owns it.
func (w *world) ask(p *process, connection string, delivered bool) {
	w.t.Helper()
	w.eventually("it is asked for", func() bool {
		_, err := p.Reconcile(context.Background(), connection, delivered)
		if err != nil && !errors.Is(err, ErrNotOwned) {
			w.t.Fatal(err)
		}
		return err == nil
	})
}

// document reads how far a connection is reconciled.
func (w *world) document(connection string) relay.Reconciliation {
	w.t.Helper()
	doc, _, err := w.store.Reconciliations.Get(context.Background(), store.ReconcileKey(connection))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		w.t.Fatal(err)
	}
	return doc
}

// idle waits until nothing is wanted of a connection any more.
func (w *world) idle(connection string) {
	w.t.Helper()
	w.eventually("it has ended", func() bool {
		doc := w.document(connection)
		return doc.Last != nil && doc.Run == nil && doc.Next == nil
	})
}

func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); {
		if time.Now().After(deadline) {
			w.t.Fatal("never came true: " + what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// event is what a test looks at of an event.
type event struct {
	relay.Event
	data relay.OrderData
}

// events returns those of an order.
func (w *world) events(site, order string) []event {
	w.t.Helper()
	stored, _, err := w.store.Events.Scan(context.Background(), 0, []string{topology.OrderFilter(site, order)}, 10_000)
	if err != nil {
		w.t.Fatal(err)
	}
	list := make([]event, len(stored))
	for i, e := range stored {
		if err := json.Unmarshal(e.Body, &list[i].Event); err != nil {
			w.t.Fatal(err)
		}
		if err := json.Unmarshal(list[i].Data, &list[i].data); err != nil {
			w.t.Fatal(err)
		}
	}
	return list
}

// details are the details of a run's event, as a receiver reads them.
type details struct {
	Connection       string
	Causes           []relay.ReconcileCause
	Since            string
	StartedAt        string
	Orders           int
	Changed          int
	Unreadable       int
	UnreadableOrders []string
}

// reconciled returns the details of the events about a connection's runs.
func (w *world) reconciled(connection string) []details {
	w.t.Helper()
	stored, _, err := w.store.Events.Scan(context.Background(), 0,
		[]string{topology.OperationalSubject("*", string(relay.KindReconciled), connection)}, 10_000)
	if err != nil {
		w.t.Fatal(err)
	}
	list := make([]details, len(stored))
	for i, e := range stored {
		var body struct {
			Data struct {
				Details details `json:"details"`
			} `json:"data"`
		}
		if err := json.Unmarshal(e.Body, &body); err != nil {
			w.t.Fatal(err)
		}
		list[i] = body.Data.Details
	}
	return list
}

func orderID(n int) string { return fmt.Sprintf("5f0c0000-0000-4000-8000-%012d", n) }

func (w *world) publisherOver(s *store.Store) *publisher.Publisher {
	return publisher.New(publisher.Config{Store: s, Log: slog.New(slog.DiscardHandler)})
}
