package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/consent"
	"github.com/audatex-relay/relay/internal/doctor"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/signature"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

const (
	adminToken = "admin-token-of-the-test"
	publicURL  = "https://relay.example"
	orderA     = "aaaaaaaa-6a64-4a2c-9d55-0a3f3a9f7b11"
	orderB     = "bbbbbbbb-6a64-4a2c-9d55-0a3f3a9f7b11"
)

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// fixture is an API over a real store, on a real socket.
type fixture struct {
	t     *testing.T
	conn  *nats.Conn
	seal  *store.Sealer
	store *store.Store
	js    jetstream.JetStream
	keys  *access.Keys
	api   *API
	base  string
	http  *http.Client
	log   *syncBuffer
	shut  atomic.Bool // the store takes no writes
	hooks *hooks
	parts *parts
}

// hooks see the store's writes, before they are sent and after they have been stored, and may fail
// them.
type hooks struct {
	before, after atomic.Pointer[func(store.Write) error]
}

func newFixture(t *testing.T, options ...func(*Config)) *fixture {
	t.Helper()
	raw, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := store.NewSealer(raw)
	if err != nil {
		t.Fatal(err)
	}
	return (&fixture{t: t, conn: natstest.StartIn(t, t.TempDir()), seal: sealer}).replica(options...)
}

// replica makes another API over what f's API stands on.
func (f *fixture) replica(options ...func(*Config)) *fixture {
	t := f.t
	t.Helper()
	specRouter()
	f = &fixture{t: t, conn: f.conn, seal: f.seal, log: &syncBuffer{}, hooks: &hooks{},
		parts: &parts{statuses: map[string]Status{}}}
	log := slog.New(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if f.js, err = jetstream.New(f.conn); err != nil {
		t.Fatal(err)
	}
	f.store, err = store.Open(t.Context(), store.Config{
		Conn: f.conn, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: 720 * time.Hour},
		Sealer: f.seal,
		Log:    log,
		Gate: store.Gate{Before: func(w store.Write) error {
			if f.shut.Load() {
				return store.ErrUnavailable
			}
			if before := f.hooks.before.Load(); before != nil {
				return (*before)(w)
			}
			return nil
		}, After: func(w store.Write) error {
			if after := f.hooks.after.Load(); after != nil {
				return (*after)(w)
			}
			return nil
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.parts.sender = sender.New(sender.Config{AllowCIDRs: []netip.Prefix{loopback}, UserAgent: "audatex-relay/test"})
	t.Cleanup(f.parts.sender.Close)
	f.keys = access.New(access.Config{Clients: f.store.Clients,
		Uses: access.NewUses(access.UsesConfig{Bucket: f.store.Uses, Log: log}), Log: log,
		Changed: func(client string) { f.api.Recheck(client) }})
	c := Config{
		Consents: newConsents(t, f.store, publicURL, log), Store: f.store, Keys: f.keys,
		Admins: access.NewAdmins([]access.Admin{{Name: "admin", Token: adminToken}}), PublicURL: publicURL + "/",
		CallbackNets: []netip.Prefix{loopback}, UserAgent: "audatex-relay/test",
		Doctor: doctor.New(doctor.Config{
			Store: f.store, Conn: f.conn, Sender: f.parts.sender, Encryption: counted, Replica: "replica",
			Version: "test",
			Health:  func(context.Context, []string) map[string]string { return nil },
		}),
		Dispatcher: f.parts, Replays: f.parts, Poller: f.parts, Reconciler: f.parts, Resolver: f.parts, Vendor: f.parts,
		Encryption: counted, ratePerSecond: 10_000, burst: 10_000, testsPerSecond: 10_000, testBurst: 10_000,
		failures: 1_000_000, Log: log,
	}
	for _, o := range options {
		o(&c)
	}
	if f.api, err = New(c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f.keys.Run(ctx) })
	running.Go(func() { c.Consents.Run(ctx) })
	running.Go(func() { f.api.Run(ctx) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(f.api.Handler(), slog.New(slog.DiscardHandler))
	server.RegisterOnShutdown(f.api.Drain)
	running.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	transport := &http.Transport{}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		stop, done := context.WithTimeout(context.Background(), 10*time.Second)
		defer done()
		if err := server.Shutdown(stop); err != nil {
			t.Error(err)
		}
		cancel()
		running.Wait()
	})
	f.base, f.http = "http://"+listener.Addr().String(), &http.Client{Transport: validating{transport}}
	for _, ready := range []<-chan struct{}{f.keys.Ready(), f.api.callbacks.Ready(), f.api.connections.Ready(),
		f.api.requests.Ready(), c.Consents.Ready()} {
		select {
		case <-ready:
		case <-time.After(time.Minute):
			t.Fatal("what is stored is not read")
		}
	}
	return f
}

// newConsents makes links for a public address.
func newConsents(t *testing.T, s *store.Store, public string, log *slog.Logger) *consent.Service {
	t.Helper()
	service, err := consent.New(consent.Config{
		Store: s, PublicURL: public, AuthURL: "https://portal.example/OAuth20",
		ReturnOrigins: []string{"https://bms.example"}, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// parts stands for the parts of the program that the API asks. Samples go out through the real
// sender.
type parts struct {
	sender *sender.Sender

	mu           sync.Mutex
	statuses     map[string]Status
	waiting      Waiting // where every delivery stands
	polled       []string
	unsubscribed []string
	vendor       error
	poller       error
	tests        error
	retries      map[string]retried // of unresolved notifications; others are unknown
	retried      []string           // in which order
}

// retried is what the fake owner returns for a retry.
type retried struct {
	outcome relay.RetryOutcome
	err     error
}

func (p *parts) Status(_ context.Context, callbacks []string) map[string]Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := map[string]Status{}
	for _, id := range callbacks {
		if s, ok := p.statuses[id]; ok {
			known[id] = s
		}
	}
	return known
}

func (p *parts) Test(
	ctx context.Context, cb relay.Callback, ev relay.Event, inspect *sender.Inspection,
) (relay.AttemptRecord, error) {
	p.mu.Lock()
	refused := p.tests
	p.mu.Unlock()
	if refused != nil {
		return relay.AttemptRecord{}, refused
	}
	body, err := relay.Encode(ev)
	if err != nil {
		return relay.AttemptRecord{}, err
	}
	var secrets []signature.Secret
	for _, text := range signingAt(cb, time.Now()) {
		secret, err := signature.ParseSecret(text)
		if err != nil {
			return relay.AttemptRecord{}, err
		}
		secrets = append(secrets, secret)
	}
	r := sender.Request{URL: cb.Secrets.URL, EventID: ev.ID, Body: body, ContentType: cb.ContentType,
		Headers: cb.Secrets.Headers, Secrets: secrets, Timeout: 5 * time.Second, Inspect: inspect}
	got := p.sender.Send(ctx, r)
	record := got.Record()
	record.Event = ev.ID
	return record, nil
}

func (p *parts) RetryDelivery(context.Context, relay.Callback, uint64, string) (Waiting, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting, p.tests
}

func (p *parts) SkipDelivery(context.Context, relay.Callback, uint64, string) (Waiting, error) {
	return Waiting{State: relay.PositionSkipped}, nil
}

func (p *parts) Count(_ context.Context, of relay.Replay, _ relay.Callback, _ relay.Client) (int, error) {
	return int(of.Through + 1 - of.From), nil
}

func (p *parts) PollNow(_ context.Context, connection string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.polled = append(p.polled, connection)
	return p.poller
}

func (p *parts) Reconcile(_ context.Context, connection string, delivered bool) (relay.Reconciliation, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.poller != nil {
		return relay.Reconciliation{}, p.poller
	}
	now := time.Now().UTC()
	return relay.Reconciliation{Run: &relay.ReconcileRun{
		Causes: []relay.ReconcileCause{relay.CauseGap, relay.CauseAsked}, Since: now.Add(-time.Hour), StartedAt: now,
		Done: 3, Total: 7, Delivered: delivered,
	}}, nil
}

func (p *parts) Doing(_ context.Context, connections []string) map[string]Doing {
	if slices.Contains(connections, "con-a") {
		three := 3
		return map[string]Doing{"con-a": {Waiting: &three}}
	}
	return nil
}

func (p *parts) Retry(_ context.Context, unresolved string) (relay.RetryOutcome, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r, ok := p.retries[unresolved]; ok {
		return r.outcome, r.err
	}
	return relay.RetryNotFound, store.ErrNotFound
}

func (p *parts) RetryAll(
	ctx context.Context, unresolved []relay.Unresolved, each func(id string, outcome relay.RetryOutcome, err error),
) {
	for _, u := range unresolved {
		p.set(func() { p.retried = append(p.retried, u.ID) })
		outcome, err := p.Retry(ctx, u.ID)
		each(u.ID, outcome, err)
	}
}

func (p *parts) Assessment(_ context.Context, c relay.Connection, originator, number string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.vendor != nil {
		return "", p.vendor
	}
	return "assessment of " + c.ID + ": " + originator + "|" + number, nil
}

func (p *parts) Unsubscribe(_ context.Context, _ relay.Connection, subscription string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.vendor != nil {
		return p.vendor
	}
	p.unsubscribed = append(p.unsubscribed, subscription)
	return nil
}

func (p *parts) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// in is the fixture for a subtest.
func (f *fixture) in(t *testing.T) *fixture {
	return &fixture{t: t, conn: f.conn, seal: f.seal, store: f.store, js: f.js, hooks: f.hooks, keys: f.keys,
		api: f.api, base: f.base, http: f.http, log: f.log, parts: f.parts}
}

// trouble makes the store refuse writes.
func (f *fixture) trouble() { f.shut.Store(true) }

// publish stores an event of an order and returns it.
func (f *fixture) publish(site, order string) relay.Event {
	f.t.Helper()
	var expected uint64
	last, err := f.store.Events.LastOf(f.t.Context(), site, order)
	if err == nil {
		expected = last.Seq
	} else if !errors.Is(err, store.ErrNotFound) {
		f.t.Fatal(err)
	}
	now := time.Now()
	ev, err := relay.NewOrderEvent(publicURL, site, order, relay.TypeOrderCreated, relay.NextSequence(now, 0), now,
		relay.OrderData{
			Order: json.RawMessage(`{"PartsOrderId":"` + order +
				`","Status":"New","Parts":[{"RepairerPrice":10.10,"<html>":"&"}]}`), ReadAt: now.UTC(), Revision: 1,
			Origin: relay.OriginNotification,
			Notification: &relay.NotificationInfo{Topic: "PARTS.ORDER.CREATED",
				CreatedAt: "2026-01-15T09:38:44.6871504",
				SiteID:    "1", ReceivedAt: now.UTC()},
		})
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.store.Events.Publish(f.t.Context(), ev, store.InboxRef{}, expected); err != nil {
		f.t.Fatal(err)
	}
	return ev
}

// operational stores an operational event, one about a callback as the dispatcher does.
func (f *fixture) operational(site string, kind relay.Kind, about string) relay.Event {
	f.t.Helper()
	details, err := sampleDetails(string(kind))
	if err != nil {
		f.t.Fatal(err)
	}
	fact := relay.Operational{Kind: kind, Message: "Something happened.", Details: details}
	if cb, _, err := f.store.Callbacks.Get(f.t.Context(), about); err == nil {
		details["callback"], details["client"], details["clientGeneration"] = cb.ID, cb.Client, cb.ClientGeneration
	}
	ev, err := relay.NewOperationalEvent(publicURL, site, about, time.Now(), fact)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.store.Events.PublishOperational(f.t.Context(), ev); err != nil {
		f.t.Fatal(err)
	}
	return ev
}

// order stores an order's document.
func (f *fixture) order(site, id string) {
	f.t.Helper()
	now := time.Now().UTC()
	o := relay.OrderState{
		Site: site, ID: id, Order: json.RawMessage(`{"PartsOrderId":"` + id + `","Status":"New","Price":10.10}`),
		ReadAt: now, Status: "New", Revision: 1,
		Sequence: 1, UpdatedAt: now,
	}
	if _, err := f.store.Orders.Create(f.t.Context(), site+"."+id, o); err != nil {
		f.t.Fatal(err)
	}
}

// syncBuffer is a buffer that many goroutines may write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// counted is by which keys the secrets of a fixture's store are reported to be encrypted.
func counted() store.KeyStatus {
	return store.KeyStatus{CheckedAt: time.Now(), Writing: 7, Left: 2,
		Keys: []store.KeyUse{{ID: 7, Secrets: 3, Given: true}, {ID: 8, Secrets: 1, Given: true}, {ID: 9, Secrets: 1}}}
}
