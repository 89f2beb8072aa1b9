package poller_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/api/schematest"
	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/poller"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestMain(m *testing.M) {
	natstest.Waiting(6)
	goleak.VerifyTestMain(m)
}

// rig is a poller between a sandbox and a real store.
type rig struct {
	t       *testing.T
	conn    *nats.Conn
	sealer  *store.Sealer
	sandbox *sandbox.Sandbox
	store   *store.Store
	client  *audatex.Client
	tokens  *audatex.Tokens
	gate    atomic.Pointer[store.Gate]
	instead atomic.Pointer[string] // what the vendor sends in the queue's place
	stop    func()
	poller  *poller.Poller
	grants  []string      // ids of the consents given
	grace   time.Duration // for what was read; zero: little
	renewal time.Duration // of paused connections' tokens; zero: the usual one
	topic   string        // what is subscribed to; "": the usual one

	mu    sync.Mutex
	deaf  bool // the log takes no events
	kinds []relay.Kind
	gaps  []relay.Poll // the documents that were announced to the reconciler
	log   bytes.Buffer // of the poller
}

// Write takes the poller's log.
func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

// logged counts the lines of the poller's log that hold the text.
func (r *rig) logged(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.log.String(), text)
}

func (r *rig) Operational(_ context.Context, _ string, kind relay.Kind, _, _ string, details map[string]any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	schematest.Details(r.t, kind, details)
	if r.deaf {
		return store.ErrUnavailable
	}
	r.kinds = append(r.kinds, kind)
	return nil
}

func (r *rig) Once(
	ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any, _ time.Time,
	_ ...string,
) error {
	return r.Operational(ctx, site, kind, id, message, details)
}

func (r *rig) refuseEvents(yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deaf = yes
}

func (r *rig) Suspected(_ string, doc relay.Poll) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gaps = append(r.gaps, doc)
}

// wanted returns the causes for which open orders had to be read again, in their order.
func (r *rig) wanted() (causes []relay.ReconcileCause) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, doc := range r.gaps {
		causes = append(causes, doc.GapCause)
	}
	return causes
}

func (r *rig) told(kind relay.Kind) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.kinds {
		if k == kind {
			n++
		}
	}
	return n
}

func newRig(t *testing.T, c sandbox.Config) *rig {
	t.Helper()
	r := &rig{t: t, sandbox: sandbox.New(c)}
	vendor := r.sandbox.Handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if body := r.instead.Load(); body != nil && strings.HasSuffix(req.URL.Path, "/notifications") {
			_, _ = w.Write([]byte(*body))
			return
		}
		vendor.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	r.conn = natstest.Start(t)
	if r.sealer, err = store.NewSealer(keys); err != nil {
		t.Fatal(err)
	}
	gate := func(before bool) func(store.Write) error {
		return func(w store.Write) error {
			g := r.gate.Load()
			switch {
			case g == nil:
			case before && g.Before != nil:
				return g.Before(w)
			case !before && g.After != nil:
				return g.After(w)
			}
			return nil
		}
	}
	r.store = r.open(store.Gate{Before: gate(true), After: gate(false)})
	log := slog.New(slog.DiscardHandler)
	if r.client, err = audatex.New(
		audatex.Config{BaseURL: server.URL + sandbox.APIPath, Logger: log, Timeout: 5 * time.Second}); err != nil {
		t.Fatal(err)
	}
	r.tokens, err = audatex.NewTokens(audatex.TokensConfig{
		TokenURL: server.URL + sandbox.TokenPath, ClientID: "sandbox-client",
		ClientSecret: relay.NewSecret("sandbox-secret"), Store: r.store.Tokens, Logger: log, Exclusive: true,
		Keep: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.halt()
		if err := r.tokens.Close(context.Background()); err != nil {
			t.Error(err)
		}
		r.client.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return r
}

// open opens the store once more, as another process has it.
func (r *rig) open(g store.Gate) *store.Store {
	r.t.Helper()
	s, err := store.Open(r.t.Context(), store.Config{
		Conn: r.conn, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour}, Sealer: r.sealer,
		Log: slog.New(slog.DiscardHandler), Gate: g,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// start runs a poller until halt.
func (r *rig) start() { r.startWith(20*time.Millisecond, 0, 0) }

func (r *rig) startWith(interval, sooner, soonerFor time.Duration) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	p := poller.New(poller.Config{
		Store: r.store, Operations: r, Reconciler: r, Interval: interval, Sooner: sooner, SoonerFor: soonerFor,
		PollBound: r.client.PollBound(), Exclusive: true, Renewal: r.renewal, Topic: r.topic,
		Grace: cmp.Or(r.grace, 200*time.Millisecond), Log: slog.New(slog.NewTextHandler(r, nil)),
		Session: func(c relay.Connection) *audatex.Session {
			return audatex.NewSession(r.client, r.tokens, c.ID, c.Level)
		},
	})
	r.poller = p
	go func() { done <- p.Run(ctx) }()
	var shards sync.WaitGroup
	for n := range relay.Shards {
		shards.Go(func() {
			if err := p.Own(ctx, shardtest.Fixed(n, 1)); err != nil {
				r.t.Errorf("polling shard %d ended with %v", n, err)
			}
		})
	}
	r.stop = func() {
		cancel()
		shards.Wait()
		if err := <-done; !errors.Is(err, context.Canceled) {
			r.t.Errorf("poller ended with %v", err)
		}
	}
}

func (r *rig) halt() {
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// connect registers a connection of one vendor site, with the refresh token of a fresh consent.
func (r *rig) connect(id string) relay.Connection {
	r.t.Helper()
	grant, err := r.sandbox.Grant(sandbox.Consent{Level: sandbox.Site, Sites: []string{"4711"}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.grants = append(r.grants, grant.ID)
	c := relay.Connection{ID: id, Level: relay.LevelSite, Site: "leeds", Generation: relay.NewID()}
	rec := relay.TokenRecord{RefreshToken: relay.NewSecret(grant.RefreshToken), Generation: c.Generation}
	if _, err := r.store.Tokens.SaveToken(r.t.Context(), id, rec, 0); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.store.Connections.Create(r.t.Context(), id, c); err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) order() {
	r.t.Helper()
	if _, err := r.sandbox.CreateOrder("4711", sandbox.OrderOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// notifications counts what the connection's inbox holds.
func (r *rig) notifications(id string) (pages, notifications int) {
	r.t.Helper()
	all, _, err := r.store.Inbox.Scan(r.t.Context(), id, 1, 10_000)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range all {
		parsed, _, err := audatex.ParsePage(p.Body)
		if err != nil {
			r.t.Fatal(err)
		}
		notifications += len(parsed)
	}
	return len(all), notifications
}

// eventually polls a condition until it holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatal("never came true: " + what)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (r *rig) subscribed() bool { return len(r.sandbox.Subscriptions()) > 0 }

func TestEveryNotificationReachesTheInboxOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.grace = time.Minute // the poll under way ends, however busy the machine is
	r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	for range 250 {
		r.order()
	}
	eventually(t, "250 notifications stored", func() bool { _, n := r.notifications("a"); return n == 250 })
	r.halt()
	doc, _, err := r.store.Polls.Get(t.Context(), "a")
	if err != nil || doc.Intent != nil || doc.Outcome == nil || doc.Epoch != 1 || doc.SubscriptionAdopted {
		t.Fatalf("poll document %+v, %v", doc, err)
	}
	if r.told(relay.KindGapSuspected) != 0 {
		t.Fatal("a gap is suspected though every poll ended well")
	}
	if c := r.sandbox.Counters(); c.PollsOverlapping != 0 || c.SpentRefreshTokens != 0 {
		t.Fatalf("overlapping polls %d, spent tokens %d", c.PollsOverlapping, c.SpentRefreshTokens)
	}
}

func TestASubscriptionThatIsThereIsAdopted(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	c := r.connect("a")
	if _, err := audatex.NewSession(r.client, r.tokens, c.ID, c.Level).Subscribe(t.Context(),
		poller.Topic); err != nil {
		t.Fatal(err)
	}
	r.order()
	r.start()
	eventually(t, "what waited is stored", func() bool { _, n := r.notifications("a"); return n == 1 })
	r.halt()
	if doc, _, err := r.store.Polls.Get(t.Context(), "a"); err != nil || !doc.SubscriptionAdopted {
		t.Fatalf("poll document %+v, %v", doc, err)
	}
	r.start() // what was reported stays reported
	eventually(t, "it is polled again", func() bool { return r.sandbox.Counters().Requests[sandbox.OpPoll] > 3 })
	if n := r.told(relay.KindSubscriptionAdopted); n != 1 {
		t.Errorf("told %d times", n)
	}
}

func TestALostSubscriptionIsMadeAnewAndTold(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	first := r.sandbox.Subscriptions()[0].ID
	if err := r.sandbox.RemoveSubscription(first); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another subscription", func() bool {
		s := r.sandbox.Subscriptions()
		return len(s) == 1 && s[0].ID != first
	})
	r.order()
	eventually(t, "a notification of it", func() bool { _, n := r.notifications("a"); return n == 1 })
	if r.told(relay.KindGapSuspected) != 1 {
		t.Fatalf("%d gaps told, want 1", r.told(relay.KindGapSuspected))
	}
}

func TestNothingIsTakenWhileTheStoreTakesNoIntent(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	r.gate.Store(&store.Gate{Before: func(w store.Write) error {
		if strings.HasPrefix(w.Subject, "$KV.relay_polls.") {
			return store.ErrUnavailable
		}
		return nil
	}})
	r.order()
	// One poll announced before the gate may still be under way: let it end.
	eventually(t, "polling fails", func() bool { return r.sandbox.Counters().NotificationsWaiting == 1 })
	before := r.sandbox.Counters().Requests[sandbox.OpPoll]
	for range 5 {
		if err := r.poller.PollNow(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	r.halt()
	if after := r.sandbox.Counters().Requests[sandbox.OpPoll]; after > before+1 {
		t.Fatalf("%d polls were sent without an intent", after-before)
	}
	r.gate.Store(nil)
	r.start()
	eventually(t, "it is read once the store takes writes", func() bool { _, n := r.notifications("a"); return n == 1 })
}

func TestAPageThatCannotBeStoredIsHeldAndNothingElsePolled(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	refused := make(chan struct{}, 100)
	r.gate.Store(&store.Gate{Before: func(w store.Write) error {
		if strings.HasPrefix(w.Subject, "relay.inbox.") {
			refused <- struct{}{}
			return store.ErrUnavailable
		}
		return nil
	}})
	r.order()
	<-refused
	polls := r.sandbox.Counters().Requests[sandbox.OpPoll]
	r.order()
	<-refused // a second later: tried again, not polled again
	if now := r.sandbox.Counters().Requests[sandbox.OpPoll]; now != polls {
		t.Fatalf("%d polls while a page waits to be stored", now-polls)
	}
	r.gate.Store(nil)
	eventually(t, "both are stored", func() bool { _, n := r.notifications("a"); return n == 2 })
	if r.told(relay.KindGapSuspected) != 0 {
		t.Fatal("a gap is suspected though the page was stored in the end")
	}
}

// With a connection goes what was kept of its token, whoever may ask for it.
func TestTheTokenOfARemovedConnectionIsNotKept(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.startWith(time.Hour, 0, 0)
	eventually(t, "the subscription", r.subscribed)
	if _, err := r.tokens.Access(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := r.store.Connections.Delete(t.Context(), "a", 0); err != nil {
		t.Fatal(err)
	}
	if err := r.store.Tokens.Delete(t.Context(), "a", 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is no token", func() bool {
		_, err := r.tokens.Access(t.Context(), "a")
		return errors.Is(err, relay.ErrNoToken)
	})
}

// A poll whose page had to be held in memory was made: what comes next is no more than that of any other.
func TestAPageThatHadToBeHeldDelaysNoPoll(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.startWith(time.Hour, 50*time.Millisecond, time.Hour)
	eventually(t, "the subscription", r.subscribed)
	var refused atomic.Bool
	r.gate.Store(&store.Gate{Before: func(w store.Write) error {
		if strings.HasPrefix(w.Subject, "relay.inbox.") && refused.CompareAndSwap(false, true) {
			return store.ErrUnavailable
		}
		return nil
	}})
	r.order()
	eventually(t, "the page is stored", func() bool { _, n := r.notifications("a"); return n == 1 })
	if !refused.Load() {
		t.Fatal("it was stored at once")
	}
	r.order()
	eventually(t, "it is polled sooner, as something came", func() bool { _, n := r.notifications("a"); return n == 2 })
}

func TestAnIntentWithoutOutcomeIsASuspectedGapUnlessThePageIsThere(t *testing.T) {
	t.Parallel()
	for _, stored := range []bool{false, true} {
		r := newRig(t, sandbox.Config{})
		c := r.connect("a")
		intent := relay.PollIntent{PollID: relay.NewID(), At: time.Now().Add(-time.Minute)}
		if _, err := r.store.Polls.Create(t.Context(), "a",
			relay.Poll{Generation: c.Generation, Intent: &intent}); err != nil {
			t.Fatal(err)
		}
		if stored {
			if _, err := r.store.Inbox.Append(t.Context(), store.Page{PollID: intent.PollID, Connection: "a",
				Body: []byte(`[{"NotificationId":"5f0c0000-0000-4000-8000-000000000001"}]`)}); err != nil {
				t.Fatal(err)
			}
		}
		r.start()
		eventually(t, "the subscription", r.subscribed)
		r.halt()
		doc, _, err := r.store.Polls.Get(t.Context(), "a")
		if err != nil || (doc.GapSuspectedAt == nil) != stored || (r.told(relay.KindGapSuspected) == 0) != stored {
			t.Fatalf("stored %v: %+v, told %d, %v", stored, doc, r.told(relay.KindGapSuspected), err)
		}
	}
}

func TestAnAnswerCutOnTheWayIsTold(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	if err := r.sandbox.SetFaults(
		sandbox.Faults{ShareCutAfterRead: 1, Operations: []sandbox.Operation{sandbox.OpPoll}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a gap is told", func() bool { return r.told(relay.KindGapSuspected) > 0 })
	if err := r.sandbox.SetFaults(); err != nil {
		t.Fatal(err)
	}
	r.order()
	eventually(t, "polling goes on", func() bool { _, n := r.notifications("a"); return n >= 1 })
}

func TestAnEndedConsentIsToldOnceAndPutsNoLoadOnTheVendor(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{AccessTokenLifetime: time.Hour})
	c := r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	r.halt()
	rec, revision, err := r.store.Tokens.Token(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	rec = relay.TokenRecord{RefreshToken: relay.NewSecret("no-such-token"), Generation: rec.Generation}
	if _, err := r.store.Tokens.SaveToken(t.Context(), c.ID, rec, revision); err != nil {
		t.Fatal(err)
	}
	r.start()
	eventually(t, "it is told", func() bool { return r.told(relay.KindConsentRequired) == 1 })
	r.halt()
	r.start()
	requests := r.sandbox.Counters().Requests[sandbox.OpToken]
	for range 10 {
		if err := r.poller.PollNow(t.Context(), "a"); err != nil && !errors.Is(err, poller.ErrNotOwned) {
			t.Fatal(err)
		}
	}
	r.halt()
	if n := r.told(relay.KindConsentRequired); n != 1 {
		t.Fatalf("told %d times", n)
	}
	if now := r.sandbox.Counters().Requests[sandbox.OpToken]; now != requests {
		t.Fatalf("%d token requests without a consent", now-requests)
	}
}

func TestPauseChangeAndDelete(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	c := r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	c.Paused = true
	_, revision, err := r.store.Connections.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if revision, err = r.store.Connections.Update(t.Context(), "a", c, revision); err != nil {
		t.Fatal(err)
	}
	steady := func() int64 { return r.sandbox.Counters().Requests[sandbox.OpPoll] }
	last := int64(-1)
	eventually(t, "polling stops", func() bool { now := steady(); same := now == last; last = now; return same })
	c.Paused = false
	if revision, err = r.store.Connections.Update(t.Context(), "a", c, revision); err != nil {
		t.Fatal(err)
	}
	eventually(t, "polling goes on", func() bool { return steady() > last+2 })
	if err := r.store.Connections.Delete(t.Context(), "a", revision); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nobody polls it", func() bool {
		return errors.Is(r.poller.PollNow(t.Context(), "a"), poller.ErrNotOwned)
	})
}

// An outage of the vendor is one line when it begins and one when it has ended, with how long it was.
func TestAnOutageIsLoggedAtItsBeginningAndItsEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	if err := r.sandbox.SetFaults(
		sandbox.Faults{Share500: 1, Operations: []sandbox.Operation{sandbox.OpPoll}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it fails", func() bool { return r.logged("polling fails") == 1 })
	polls := r.sandbox.Counters().Requests[sandbox.OpPoll]
	eventually(t, "it has failed again", func() bool { return r.sandbox.Counters().Requests[sandbox.OpPoll] > polls+2 })
	if n := r.logged("polling works again"); n != 0 {
		t.Errorf("it works again, %d times", n)
	}
	if err := r.sandbox.SetFaults(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it works again", func() bool {
		return r.logged(`msg="polling works again" connection=a shard=`) == 1
	})
	if n := r.logged("polling fails"); n != 1 {
		t.Errorf("logged %d times that it fails", n)
	}
}

// A store that takes nothing complains for itself, once: ten thousand connections that wait for it add nothing. Nor is
// it a failure of the vendor, which would keep them away for minutes.
func TestAStoreInTroubleIsNoFailureOfTheVendor(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	var refused atomic.Int64
	r.gate.Store(&store.Gate{Before: func(w store.Write) error {
		if strings.Contains(w.Subject, "_polls.") {
			refused.Add(1)
			return store.ErrUnavailable
		}
		return nil
	}})
	eventually(t, "several polls were not announced", func() bool { return refused.Load() > 3 })
	polls := r.sandbox.Counters().Requests[sandbox.OpPoll]
	eventually(t, "and again", func() bool { return refused.Load() > 5 })
	if n := r.sandbox.Counters().Requests[sandbox.OpPoll]; n != polls {
		t.Errorf("%d polls without an intent", n-polls)
	}
	r.gate.Store(nil)
	r.order()
	eventually(t, "it goes on", func() bool { _, n := r.notifications("a"); return n == 1 })
	if n := r.logged("level=WARN") + r.logged("level=ERROR"); n != 0 {
		t.Errorf("logged %d times", n)
	}
	if p, _, err := r.store.Polls.Get(t.Context(), "a"); err != nil || p.Failures != 0 || p.FailingSince != nil {
		t.Errorf("counted as failures: %+v, %v", p, err)
	}
}
