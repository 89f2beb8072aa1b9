package resolver_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/api/schematest"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/publisher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/resolver"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestMain(m *testing.M) {
	natstest.Waiting(6)
	goleak.VerifyTestMain(m, natstest.Leftovers()...)
}

// vendor serves orders out of a map. Every GET is noted with its beginning.
type vendor struct {
	mu     sync.Mutex
	orders map[string]string
	fail   func(connection, order string) error // consulted before each response
	during func(connection, order string)       // called while a GET is under way, without the lock
	turn   func(ctx context.Context) error      // waits for its turn, as for the budget; nil: it is there
	gets   []get
}

type get struct {
	connection, order string
	began             time.Time
}

func newVendor() *vendor { return &vendor{orders: map[string]string{}} }

func (v *vendor) Order(
	ctx context.Context, connection, order string, begin func() (context.Context, error),
) (json.RawMessage, error) {
	v.mu.Lock()
	turn := v.turn
	v.mu.Unlock()
	if turn != nil {
		if err := turn(ctx); err != nil {
			return nil, err
		}
	}
	ctx, err := begin()
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	v.gets = append(v.gets, get{connection, order, time.Now()})
	fail, during := v.fail, v.during
	v.mu.Unlock()
	if fail != nil {
		if err := fail(connection, order); err != nil {
			return nil, err
		}
	}
	v.mu.Lock()
	answer, ok := v.orders[order]
	v.mu.Unlock()
	if during != nil {
		during(connection, order)
	}
	if !ok {
		return nil, errors.New("no such order in this test")
	}
	return json.RawMessage(answer), ctx.Err()
}

func (v *vendor) set(order, status string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.orders[order] = fmt.Sprintf(`{"PartsOrderId":%q,"Status":%q,"Parts":[{"OEPartNumber":"8K0 807 065",`+
		`"OrderedPartNumber":"A","Status":%q,"RepairerPrice":12.50}]}`,
		order, status, status)
}

func (v *vendor) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.gets)
}

// orderID makes the uuid of a test's n-th order.
func orderID(n int) string { return fmt.Sprintf("5f0c0000-0000-4000-8000-%012d", n) }

// notification is one element of a page in the newer form.
func notification(order, topic, vendorSite string) string {
	return fmt.Sprintf(`{"NotificationId":%q,"Topic":%q,"SiteId":%q,"CreatedAt":"2026-01-15T09:38:44.6871504Z",`+
		`"Resources":[{"ResourceType":"PartsOrder","ResourceId":%q}]}`,
		relay.NewID(), topic, vendorSite, strings.ToUpper(order))
}

func updated(order string) string { return notification(order, "PARTS.ORDER.UPDATED", "4711") }
func created(order string) string { return notification(order, "PARTS.ORDER.CREATED", "4711") }

// patience is how long a condition is waited for. It only decides how long a failing test takes.
const patience = 2 * time.Minute

// rig is one NATS with what a test needs around a resolver.
type rig struct {
	t        *testing.T
	dial     func() *nats.Conn // to NATS, as a process of its own
	replicas int
	sealer   *store.Sealer
	store    *store.Store // without a gate
	vendor   *vendor
	grace    time.Duration // of resolvers, if not five seconds
}

func newRig(t *testing.T) *rig {
	t.Helper()
	conn := natstest.Start(t)
	return newRigOn(t, 1, func() *nats.Conn { return conn })
}

func newRigOn(t *testing.T, replicas int, dial func() *nats.Conn) *rig {
	t.Helper()
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dial: dial, replicas: replicas, vendor: newVendor()}
	if r.sealer, err = store.NewSealer(keys); err != nil {
		t.Fatal(err)
	}
	r.store = r.open(store.Gate{})
	if replicas == 1 {
		t.Cleanup(func() { schematest.Log(t, r.store) })
	}
	return r
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (r *rig) open(g store.Gate) *store.Store {
	r.t.Helper()
	conn, s := r.dial(), (*store.Store)(nil)
	if err := natstest.Patiently(func() (err error) {
		s, err = store.Open(r.t.Context(), store.Config{
			Conn: conn, Topology: topology.Topology{Prefix: "relay", Replicas: r.replicas, Retention: 720 * time.Hour},
			Sealer: r.sealer, Log: quiet(), Gate: g,
		})
		return err
	}); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// connect makes a connection for a site.
func (r *rig) connect(id, site string) {
	r.t.Helper()
	if _, err := r.store.Connections.Create(r.t.Context(), id, relay.Connection{
		ID: id, Level: relay.LevelSite, Site: site, Generation: "g-" + id,
	}); err != nil {
		r.t.Fatal(err)
	}
}

// page stores a page for a connection of a site and returns its sequence.
func (r *rig) page(connection, site string, notifications ...string) uint64 {
	r.t.Helper()
	p := store.Page{
		PollID: relay.NewID(), Connection: connection, Generation: "g-" + connection, ReceivedAt: time.Now(),
		Site: site, Body: []byte("[" + strings.Join(notifications, ",") + "]"), Entries: len(notifications),
	}
	var seq uint64
	eventually(r.t, "a page is stored", func() (ok bool) { // a cluster may be choosing a leader
		var err error
		seq, err = r.store.Inbox.Append(r.t.Context(), p)
		return err == nil
	})
	return seq
}

// config of a resolver over s, with short waits.
func (r *rig) config(s *store.Store) resolver.Config {
	return resolver.Config{
		Store: s, Orders: r.vendor,
		Publisher: publisher.New(publisher.Config{Store: s, PublicURL: "https://relay.example", Log: quiet()}),
		Schedule:  []time.Duration{10 * time.Millisecond}, Flush: 10 * time.Millisecond,
		Grace: cmp.Or(r.grace, 5*time.Second), Log: quiet(),
	}
}

// run starts a resolver that holds every shard under epoch 1, and returns how to stop it.
func (r *rig) run(c resolver.Config) (stop func()) {
	r.t.Helper()
	return r.work(resolver.New(c), 1)
}

// work has a resolver run and hold every shard under an epoch.
func (r *rig) work(res *resolver.Resolver, epoch uint64) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() {
		if err := res.Run(ctx); err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
	for n := range relay.Shards {
		parts.Go(func() {
			if err := res.Own(ctx, shardtest.Fixed(n, epoch)); err != nil {
				r.t.Errorf("Own: %v", err)
			}
		})
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			parts.Wait()
		})
	}
	r.t.Cleanup(stop)
	return stop
}

// told is an event of an order, read whole.
type told struct {
	store.Stored
	relay.Event
	data relay.OrderData
}

// events returns every event of an order at a site.
func (r *rig) events(site, order string) []told {
	r.t.Helper()
	stored, _, err := r.store.Events.Scan(r.t.Context(), 0, []string{topology.OrderFilter(site, order)}, 10_000)
	if err != nil {
		r.t.Fatal(err)
	}
	events := make([]told, len(stored))
	for i, s := range stored {
		events[i].Stored = s
		if err := json.Unmarshal(s.Body, &events[i].Event); err != nil {
			r.t.Fatal(err)
		}
		if err := json.Unmarshal(events[i].Event.Data, &events[i].data); err != nil {
			r.t.Fatal(err)
		}
	}
	return events
}

func (r *rig) unresolved() []relay.Unresolved {
	r.t.Helper()
	entries, err := r.store.Unresolved.All(r.t.Context(), "", func(key string, err error) {
		r.t.Errorf("%s: %v", key, err)
	})
	if err != nil {
		r.t.Fatal(err)
	}
	var docs []relay.Unresolved
	for _, e := range entries {
		docs = append(docs, e.Value)
	}
	return docs
}

// operational returns how many operational events of a kind the log has.
func (r *rig) operational(kind relay.Kind) int {
	r.t.Helper()
	stored, _, err := r.store.Events.Scan(r.t.Context(), 0,
		[]string{topology.OperationalSubject("*", string(kind), "*")}, 10_000)
	if err != nil {
		r.t.Fatal(err)
	}
	return len(stored)
}

// eventually waits until what is asked for holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// settled waits until the connection's stored cursor has passed the page and nothing is being retried.
func (r *rig) settled(connection string, page uint64) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("cursor of %s past page %d", connection, page), func() bool {
		d, _, err := r.store.Cursors.Get(r.t.Context(), store.InboxCursors.Key(connection))
		if err != nil {
			return false
		}
		lanes, err := r.lanes(connection)
		seq, _ := relay.UnpackEntry(d.Position)
		return err == nil && len(lanes) == 0 && seq >= page && d.Position == relay.PackEntry(seq, relay.LastIndex)
	})
}

// uuidOf makes a uuid of 32 hex digits.
func uuidOf(hex string) string {
	return hex[:8] + "-" + hex[8:12] + "-" + hex[12:16] + "-" + hex[16:20] + "-" + hex[20:]
}

// kindOf names what a write is of, by its subject.
func kindOf(subject string) string {
	for _, k := range [][2]string{
		{".parts.order.", "event"}, {".relay.", "operational"}, {"_orders.", "order"}, {"_unresolved.", "unresolved"},
		{"_lanes.", "lane"}, {"_cursors.", "cursor"},
	} {
		if strings.Contains(subject, k[0]) {
			return k[1]
		}
	}
	return subject
}

// lanes lists what a connection has being retried. A listing that meets a removal may hang, hence the short limit.
func (r *rig) lanes(connection string) ([]store.Entry[cursor.Lane], error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
	defer cancel()
	return r.store.Lanes.All(ctx, store.InboxCursors.Key(connection), func(string, error) {})
}
