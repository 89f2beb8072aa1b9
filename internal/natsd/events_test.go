package natsd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// patience bounds every wait: other tests use the machine as well.
const patience = 90 * time.Second

// ask sends a reader's request for its consumer until the relay responds: it may still be creating
// the copy.
func ask(t *testing.T, nc *nats.Conn, operation string, request any) natsd.ConsumerAnswer {
	t.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		m, err := nc.Request("events.consumer."+operation, body, 5*time.Second)
		var a natsd.ConsumerAnswer
		if err == nil {
			if err := json.Unmarshal(m.Data, &a); err != nil {
				t.Fatalf("%s: %v", m.Data, err)
			}
			return a
		}
		if !errors.Is(err, nats.ErrNoResponders) || time.Now().After(deadline) {
			t.Fatalf("asking to %s a consumer: %v", operation, err)
		}
	}
}

// pull fetches n events of a reader's consumer and acknowledges them.
func pull(t *testing.T, nc *nats.Conn, reader string, n int) []jetstream.Msg {
	t.Helper()
	return pullWithin(t, patience, nc, reader, n)
}

func pullWithin(t *testing.T, most time.Duration, nc *nats.Conn, reader string, n int) []jetstream.Msg {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.Consumer(t.Context(), natsd.EventsStream, reader)
	if err != nil {
		t.Fatal(err)
	}
	var got []jetstream.Msg
	for deadline := time.Now().Add(most); len(got) < n && time.Now().Before(deadline); {
		batch, err := consumer.Fetch(n-len(got), jetstream.FetchMaxWait(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			if err := m.DoubleAck(t.Context()); err != nil {
				t.Fatalf("acknowledge %s: %v", m.Subject(), err)
			}
			got = append(got, m)
		}
	}
	if len(got) != n {
		t.Fatalf("%d of %d events", len(got), n)
	}
	return got
}

// The copy holds what the log holds: every event with its subject, bytes and headers, except what
// is only for the owners of callbacks.
func TestTheCopyOfTheLog(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	b.publish("leeds", 0)
	for _, kind := range append(relay.PrivateKinds(), relay.KindConsentRequired) {
		b.operational(kind)
	}
	b.publish("york", 0)
	nc, _, err := b.login(b.allID, b.all)
	if err != nil {
		t.Fatal(err)
	}
	if a := ask(t, nc, "put",
		natsd.ConsumerRequest{StartFrom: "earliest", AckWaitSeconds: 5, MaxAckPending: 10}); a.Error != "" ||
		a.Consumer != b.allID || a.Stream != natsd.EventsStream {
		t.Fatalf("%+v", a)
	}
	private := uint64(len(relay.PrivateKinds()))
	want := []uint64{1, private + 2, private + 3}
	for i, m := range pull(t, nc, b.allID, len(want)) {
		b.same(m, want[i])
	}
	last := b.publish("leeds", 1)
	b.same(pull(t, nc, b.allID, 1)[0], last)
}

// same compares a message of the copy with what the log has at a position.
func (b *bus) same(m jetstream.Msg, seq uint64) { compare(b.t, b.conn, m, seq) }

func compare(t *testing.T, conn *nats.Conn, m jetstream.Msg, seq uint64) {
	t.Helper()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	log, err := js.Stream(t.Context(), "relay_events")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := log.GetMsg(t.Context(), seq)
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject() != stored.Subject || !bytes.Equal(m.Data(), stored.Data) {
		t.Errorf("the copy has %s %s, the log at %d %s %s", m.Subject(), m.Data(), seq, stored.Subject, stored.Data)
	}
	// the server omits conditions, and adds headers that name the source of the message
	for name := range stored.Header {
		if got, want := m.Headers().Get(name),
			stored.Header.Get(name); got != want && !strings.HasPrefix(name, "Nats-") {
			t.Errorf("header %s: %q in the copy, %q in the log", name, got, want)
		}
	}
	from := strings.Fields(m.Headers().Get("Nats-Stream-Source"))
	if len(from) < 2 || !strings.HasPrefix(from[0], "relay_events:") || from[1] != strconv.FormatUint(seq, 10) {
		t.Errorf("the copy says that it comes from %q, not from position %d", from, seq)
	}
}

func (b *bus) operational(kind relay.Kind) {
	b.t.Helper()
	ev, err := relay.NewOperationalEvent("", relay.NoSite, "x", time.Now(), relay.Operational{Kind: kind})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.store.Events.PublishOperational(b.t.Context(), ev); err != nil {
		b.t.Fatal(err)
	}
}

// A key that is gone, or no longer one of all sites, takes its consumer along; another's stays.
func TestTheConsumerOfARemovedKeyGoes(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	otherID, other := b.client("bms-other", relay.Client{AllSites: true})
	for user, key := range map[string]string{b.allID: b.all, otherID: other} {
		nc, _, err := b.login(user, key)
		if err != nil {
			t.Fatal(err)
		}
		ask(t, nc, "put", natsd.ConsumerRequest{StartFrom: "earliest", AckWaitSeconds: 5, MaxAckPending: 10})
	}
	js, err := jetstream.NewWithAPIPrefix(b.conn, "$JS.EVENTS.API")
	if err != nil {
		t.Fatal(err)
	}
	c, revision, err := b.store.Clients.Get(t.Context(), "bms-all")
	if err != nil {
		t.Fatal(err)
	}
	c.AllSites, c.Sites = false, []string{"leeds"}
	if _, err := b.store.Clients.Update(t.Context(), c.ID, c, revision); err != nil {
		t.Fatal(err)
	}
	until(t, "the consumer to go", func() bool {
		_, err := js.Consumer(t.Context(), natsd.EventsStream, b.allID)
		return errors.Is(err, jetstream.ErrConsumerNotFound)
	})
	if _, err := js.Consumer(t.Context(), natsd.EventsStream, otherID); err != nil {
		t.Errorf("another's consumer: %v", err)
	}
	// It logs in again with what it may now, in the account of those limited to sites.
	nc, refused, err := b.login(b.allID, b.all)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish("events.consumer.put", nil); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-refused:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it may still ask for a consumer")
	}
}

// A key that has expired takes its consumer along though nothing was changed.
func TestTheConsumerOfAnExpiredKeyGoes(t *testing.T) {
	t.Parallel()
	b := newBusThatLooks(t, 100*time.Millisecond)
	id, key := b.client("bms-brief", relay.Client{AllSites: true})
	nc, _, err := b.login(id, key)
	if err != nil {
		t.Fatal(err)
	}
	ask(t, nc, "put", nil)
	js, err := jetstream.NewWithAPIPrefix(b.conn, "$JS.EVENTS.API")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Consumer(t.Context(), natsd.EventsStream, id); err != nil {
		t.Fatal(err)
	}
	client, revision, err := b.store.Clients.Get(t.Context(), "bms-brief")
	if err != nil {
		t.Fatal(err)
	}
	expires := time.Now().Add(time.Second)
	client.Keys[0].ExpiresAt = &expires
	if _, err := b.store.Clients.Update(t.Context(), client.ID, client, revision); err != nil {
		t.Fatal(err)
	}
	until(t, "the consumer to go", func() bool {
		_, err := js.Consumer(t.Context(), natsd.EventsStream, id)
		return errors.Is(err, jetstream.ErrConsumerNotFound)
	})
	if time.Now().Before(expires) {
		t.Error("it went before its key expired")
	}
}

// What a reader asks for is what its consumer does; a second wish changes what can be changed, and
// it goes on where it was.
func TestAReadersWishes(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	nc, _, err := b.login(b.allID, b.all)
	if err != nil {
		t.Fatal(err)
	}
	b.publish("leeds", 0)
	b.publish("york", 0)
	ask(t, nc, "put", map[string]any{"startFrom": "earliest", "filterSubjects": []string{"audatex.york.>"}})
	b.same(pull(t, nc, b.allID, 1)[0], 2)
	third := b.publish("leeds", 1)
	ask(t, nc, "put", map[string]any{"filterSubjects": []string{"audatex.leeds.>"}, "maxAckPending": 7})
	b.same(pull(t, nc, b.allID, 1)[0], third)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.Consumer(t.Context(), natsd.EventsStream, b.allID)
	if err != nil {
		t.Fatal(err)
	}
	if c := consumer.CachedInfo().Config; c.MaxAckPending != 7 || c.AckWait != 30*time.Second ||
		c.DeliverPolicy != jetstream.DeliverAllPolicy || c.InactiveThreshold != time.Hour {
		t.Errorf("%+v", c)
	}
	if a := ask(t, nc, "delete", nil); a.Error != "" {
		t.Error(a.Error)
	}
	if _, err := js.Consumer(t.Context(), natsd.EventsStream, b.allID); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("after its removal: %v", err)
	}
	ask(t, nc, "put", map[string]any{"startFrom": time.Now().Add(-time.Minute).Format(time.RFC3339)})
	since := pull(t, nc, b.allID, 3)[2]
	// With several filters nothing is left out of what came before the first event of one of them.
	meta, err := since.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	b.publish("hull", 0)
	b.publish("york", 2)
	pull(t, nc, b.allID, 2) // the copy has them
	ask(t, nc, "delete", nil)
	ask(t, nc, "put", map[string]any{
		"startFrom":      meta.Timestamp.Format(time.RFC3339Nano),
		"filterSubjects": []string{"audatex.leeds.>", "audatex.hull.>", "audatex.york.>"},
	})
	b.same(pull(t, nc, b.allID, 3)[0], third)
}

// The copy drops what is oldest when it is full, and the relay's log takes the next event all the
// same.
func TestAFullCopyHoldsNothingUp(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	js, err := jetstream.NewWithAPIPrefix(b.conn, "$JS.EVENTS.API")
	if err != nil {
		t.Fatal(err)
	}
	var config jetstream.StreamConfig
	until(t, "the copy", func() bool {
		s, err := js.Stream(t.Context(), natsd.EventsStream)
		if err == nil {
			config = s.CachedInfo().Config
		}
		return err == nil
	})
	config.MaxBytes = 4 << 10
	s, err := js.UpdateStream(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	for range 50 {
		last = b.publish("leeds", last)
	}
	until(t, "the copy to have the last event only with what fits", func() bool {
		info, err := s.Info(t.Context())
		return err == nil && info.State.LastSeq == last && info.State.Msgs < 20 && info.State.Bytes <= 4<<10
	})
	// The size that an operator set stays.
	events, err := natsd.NewEvents(natsd.EventsConfig{Conn: b.conn, Topology: b.store.Topology(),
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := events.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if info, err := s.Info(t.Context()); err != nil || info.Config.MaxBytes != 4<<10 {
		t.Errorf("%+v, %v", info, err)
	}
}

// A server without these accounts has no copy. It reports that with its own error, which differs
// from a failure.
func TestAServerWithoutTheAccounts(t *testing.T) {
	t.Parallel()
	server, err := natsd.Start(natsd.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); server.Stop() })
	events, err := natsd.NewEvents(natsd.EventsConfig{Conn: nc,
		Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
		Log:      slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := events.Apply(t.Context()); !errors.Is(err, natsd.ErrNoEvents) {
		t.Errorf("%v", err)
	}
	events.Changed()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- events.Run(ctx) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Positions outlive a restart; what came while the copy was not kept is in it afterwards.
func TestTheCopyCatchesUpAfterARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	names := topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour}
	log := slog.New(slog.DiscardHandler)
	run := func(listen string, f func(nc *nats.Conn, s *store.Store)) {
		t.Helper()
		server, err := natsd.Start(natsd.Config{Dir: dir, Listen: listen, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Stop()
		nc, err := server.Connect()
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		s, err := store.Open(t.Context(), store.Config{Conn: nc, Topology: names, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		f(nc, s)
	}
	var last uint64
	copied := func(nc *nats.Conn, want uint64) {
		t.Helper()
		events, err := natsd.NewEvents(natsd.EventsConfig{Conn: nc, Topology: names, MaxBytes: 1 << 20, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		if err := events.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.NewWithAPIPrefix(nc, "$JS.EVENTS.API")
		if err != nil {
			t.Fatal(err)
		}
		s, err := js.Stream(t.Context(), natsd.EventsStream)
		if err != nil {
			t.Fatal(err)
		}
		until(t, "the copy to catch up", func() bool {
			info, err := s.Info(t.Context())
			return err == nil && info.State.Msgs == want && info.State.LastSeq == want
		})
	}
	run("127.0.0.1:0", func(nc *nats.Conn, s *store.Store) {
		last = publish(t, s, "leeds", 0)
		copied(nc, 1)
	})
	run("", func(_ *nats.Conn, s *store.Store) { // nobody listens: the copy rests
		for range 5 {
			last = publish(t, s, "leeds", last)
		}
	})
	run("127.0.0.1:0", func(nc *nats.Conn, s *store.Store) {
		publish(t, s, "leeds", last)
		copied(nc, 7)
	})
}
