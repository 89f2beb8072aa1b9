package natsd_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/access/accesstest"
	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestMain(m *testing.M) {
	natstest.Waiting(6)
	goleak.VerifyTestMain(m, natstest.Leftovers()...)
}

const order = "5f0c1c2e-6a64-4a2c-9d55-0a3f3a9f7b11"

// bus is an embedded server that listens, a store on it, and two keys: one for leeds, one for all
// sites.
type bus struct {
	t          *testing.T
	server     *natsd.Server
	conn       *nats.Conn // the relay's
	store      *store.Store
	keys       *access.Keys
	leeds, all string // the keys' texts
	leedsID    string
	allID      string
}

func newBus(t *testing.T) *bus {
	t.Helper()
	return newBusThatLooks(t, 0)
}

// newBusThatLooks looks as often for readers that are gone without a change.
func newBusThatLooks(t *testing.T, every time.Duration) *bus {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	server, err := natsd.Start(natsd.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		server.Stop()
	})
	s, err := store.Open(t.Context(),
		store.Config{Conn: nc, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
			Log: log})
	if err != nil {
		t.Fatal(err)
	}
	b := &bus{t: t, server: server, conn: nc, store: s}
	events, err := natsd.NewEvents(natsd.EventsConfig{
		Conn: nc, Topology: s.Topology(), MaxBytes: 16 << 20, Known: func(id string) bool {
			return b.keys.ReadsAll(id)
		},
		Every: every, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.keys = access.New(access.Config{Clients: s.Clients, Log: log, Changed: func(client string) {
		server.Recheck(client)
		events.Changed()
	}})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { b.keys.Run(ctx) })
	running.Go(func() {
		if err := events.Run(ctx); err != nil {
			t.Errorf("the copy of the log: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	b.leedsID, b.leeds = b.client("bms-leeds", relay.Client{Sites: []string{"leeds"}})
	b.allID, b.all = b.client("bms-all", relay.Client{AllSites: true})
	server.Admit(b.keys)
	return b
}

func (b *bus) client(id string, c relay.Client) (keyID, key string) {
	b.t.Helper()
	text, k := accesstest.NewKey(relay.RoleRead, "", time.Now(), nil)
	c.ID, c.Generation, c.Keys = id, relay.NewID(), []relay.Key{k}
	revision, err := b.store.Clients.Create(b.t.Context(), id, c)
	if err != nil {
		b.t.Fatal(err)
	}
	b.keys.Put(c, revision)
	return k.ID, text
}

// login connects as a subscriber; refused receives what the server refuses afterwards.
func (b *bus) login(user, password string) (nc *nats.Conn, refused chan error, err error) {
	refused = make(chan error, 16)
	nc, err = nats.Connect("nats://"+b.server.Addr(), nats.UserInfo(user, password), nats.NoReconnect(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	if err == nil {
		b.t.Cleanup(nc.Close)
	}
	return nc, refused, err
}

func (b *bus) publish(site string, expected uint64) uint64 {
	b.t.Helper()
	return publish(b.t, b.store, site, expected)
}

func TestASubscriberHearsItsSitesAndNothingElse(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	leeds, refused, err := b.login(b.leedsID, b.leeds)
	if err != nil {
		t.Fatal(err)
	}
	own, err := leeds.SubscribeSync("audatex.leeds.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := leeds.Flush(); err != nil {
		t.Fatal(err)
	}
	b.publish("york", 0)
	seq := b.publish("leeds", 0)
	m, err := own.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject != topology.OrderSubject("leeds", "updated", order) ||
		m.Header.Get("Nats-Sequence") == "" || seq == 0 {
		t.Fatalf("heard %s with %v", m.Subject, m.Header)
	}
	for _, subject := range []string{
		"audatex.york.>", "audatex.>", ">", "*.>", "audatex.*.parts.order.updated.*", "audatex._.>", "relay.>",
		"relay.publish.>", "$KV.>",
		"$KV.relay_tokens.*", "$JS.>", "$JS.API.>", "$SYS.>", "_INBOX.>", "_R_.>", "$JS.ACK.>",
	} {
		if _, err := leeds.SubscribeSync(subject); err != nil {
			continue
		}
		if err := leeds.Flush(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-refused:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("subscribing to %s: %v", subject, err)
			}
		case <-time.After(patience):
			t.Errorf("subscribing to %s was not refused", subject)
		}
	}
}

func TestASubscriberCanReachNothingOfTheRelays(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	b.publish("leeds", 0)
	for who, login := range map[string][2]string{"one site": {b.leedsID, b.leeds}, "all sites": {b.allID, b.all}} {
		nc, refused, err := b.login(login[0], login[1])
		if err != nil {
			t.Fatal(err)
		}
		// A watcher in the relay's own account proves that nothing arrives there.
		own, err := b.server.Connect()
		if err != nil {
			t.Fatal(err)
		}
		heard, err := own.SubscribeSync(">")
		if err != nil {
			t.Fatal(err)
		}
		if err := own.Flush(); err != nil {
			t.Fatal(err)
		}
		for _, subject := range []string{
			"audatex.leeds.parts.order.updated." + order, "relay.publish.leeds.parts.order.updated." + order,
			"relay.inbox.32.a",
			"relay.attempts.a",
			"$KV.relay_tokens.a", "$KV.relay_callbacks.a", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.relay_events",
			"$JS.API.STREAM.DELETE.relay_events",
			"$JS.API.CONSUMER.CREATE.relay_events", "$JS.API.STREAM.MSG.GET.relay_inbox",
			"$JS.API.DIRECT.GET.relay_events",
			"$JS.API.STREAM.PURGE.KV_relay_tokens",
			"$SYS.REQ.SERVER.PING", "anything",
		} {
			if err := nc.PublishRequest(subject, "audatex.leeds.reply", []byte(`{"mark":"attack"}`)); err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-refused:
				if !errors.Is(err, nats.ErrPermissionViolation) {
					t.Errorf("%s publishing to %s: %v", who, subject, err)
				}
			case <-time.After(patience):
				t.Errorf("%s: publishing to %s was not refused", who, subject)
			}
		}
		if err := own.Flush(); err != nil {
			t.Fatal(err)
		}
		for n, _, _ := heard.Pending(); n > 0; n-- {
			if m, err := heard.NextMsg(time.Second); err == nil && bytes.Contains(m.Data, []byte("attack")) {
				t.Errorf("%s reached the relay's account: %s", who, m.Subject)
			}
		}
		own.Close()
		js, err := nc.JetStream(nats.MaxWait(200 * time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.StreamInfo("relay_events"); err == nil {
			t.Errorf("%s can read the state of a stream", who)
		}
	}
}

func TestNobodyHearsOfAnothersCallbacks(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	nc, _, err := b.login(b.allID, b.all)
	if err != nil {
		t.Fatal(err)
	}
	heard, err := nc.SubscribeSync("audatex.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, kind := range append(relay.PrivateKinds(), relay.KindConsentRequired) {
		b.operational(kind)
	}
	m, err := heard.NextMsg(5 * time.Second)
	if err != nil || m.Subject != "audatex._.relay.consent-required.x" {
		t.Fatalf("heard %+v, %v; want only that a consent is required", m, err)
	}
}

func TestLoginsThatAreRefused(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	for _, login := range [][2]string{
		{"", ""}, {b.leedsID, ""}, {b.leedsID, b.all}, {"relay", ""}, {"relay", "relay"}, {b.leedsID, b.leeds + "x"},
		{"x", b.leeds},
		{strings.Repeat("u", 3000), "p"}, {"SYS", "SYS"},
	} {
		if _, _, err := b.login(login[0], login[1]); err == nil {
			t.Errorf("%.20q / %.20q was let in", login[0], login[1])
		}
	}
}

func TestARemovedKeyIsDisconnected(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	nc, _, err := b.login(b.leedsID, b.leeds)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	c, revision, err := b.store.Clients.Get(t.Context(), "bms-leeds")
	if err != nil {
		t.Fatal(err)
	}
	c.Keys = nil
	if _, err := b.store.Clients.Update(t.Context(), "bms-leeds", c, revision); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("the connection of a removed key lives on")
	}
	if _, _, err := b.login(b.leedsID, b.leeds); err == nil {
		t.Fatal("a removed key was let in")
	}
}

// A change that is none to what a subscriber hears leaves it connected: on plain NATS it would miss
// what comes meanwhile.
func TestOnlyWhoHearsSomethingElseIsDisconnected(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	nc, _, err := b.login(b.leedsID, b.leeds)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	change := func(edit func(*relay.Client)) {
		t.Helper()
		c, revision, err := b.store.Clients.Get(t.Context(), "bms-leeds")
		if err != nil {
			t.Fatal(err)
		}
		edit(&c)
		if revision, err = b.store.Clients.Update(t.Context(), c.ID, c, revision); err != nil {
			t.Fatal(err)
		}
		b.keys.Put(c, revision) // returns when it was rechecked
	}
	change(func(c *relay.Client) {
		_, second := accesstest.NewKey(relay.RoleRead, "", time.Now(), nil)
		c.Description, c.Keys = "another", append(c.Keys, second)
	})
	if err := nc.FlushTimeout(5 * time.Second); err != nil {
		t.Fatalf("disconnected by a change that is none to it: %v", err)
	}
	change(func(c *relay.Client) { c.Sites = []string{"leeds", "york"} })
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("a subscriber keeps what it was allowed before")
	}
}

// Who mixes up user and password must not find the key in the log.
func TestARefusedLoginIsLoggedWithoutTheKey(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	server, err := natsd.Start(natsd.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0",
		Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	server.Admit(access.New(access.Config{Log: slog.New(slog.DiscardHandler)}))
	key, stored := accesstest.NewKey(relay.RoleRead, "", time.Now(), nil)
	for _, user := range []string{stored.ID, key, strings.Repeat("x", 43)} {
		if _, err := nats.Connect("nats://"+server.Addr(), nats.UserInfo(user, stored.ID),
			nats.NoReconnect()); err == nil {
			t.Errorf("%q was let in", user)
		}
	}
	server.Stop()
	if text := log.String(); strings.Contains(text, key) || strings.Contains(text, "xxx") ||
		!strings.Contains(text, "user="+stored.ID) {
		t.Errorf("the log: %s", text)
	}
}

// An address that is in use is reported at once, before anything is created.
func TestAnAddressThatIsTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	dir := filepath.Join(t.TempDir(), "data")
	_, err = natsd.Start(natsd.Config{Dir: dir, Listen: taken.Addr().String(), Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, natsd.ErrListen) {
		t.Errorf("a taken address: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}

func TestADirectoryThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		if _, err := natsd.Start(natsd.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)}); !errors.Is(err,
			natsd.ErrDir) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestOneProcessPerDataDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	first, err := natsd.Start(natsd.Config{Dir: dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := natsd.Start(natsd.Config{Dir: dir, Log: log}); !errors.Is(err, natsd.ErrLocked) {
		t.Errorf("a second one: %v", err)
	}
	first.Stop()
	again, err := natsd.Start(natsd.Config{Dir: dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	again.Stop()
	if _, err := os.Stat(filepath.Join(dir, "nats", "jetstream")); err != nil {
		t.Errorf("the streams are not below the data directory: %v", err)
	}
}
