package natsd_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// works does what a relay does with the permissions of its own user: nothing may be refused.
func (c *cluster) works() {
	t := c.t
	ctx := t.Context()
	refused := make(chan error, 100)
	conn := c.login(relayUser, secrets[relayUser], refusals(refused))
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	names := c.store.Topology()
	if findings, err := names.Check(ctx, js); err != nil || len(findings) == 0 {
		t.Errorf("look at the topology: %v, %v", findings, err)
	}
	s, err := store.Open(ctx, store.Config{Conn: conn, Topology: names, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	// Documents: written, read, watched, listed, removed.
	watching, stop := context.WithCancel(ctx)
	seen := make(chan string, 10)
	watched := make(chan error, 1)
	go func() {
		watched <- s.Clients.Watch(watching, func(e store.Entry[relay.Client]) { seen <- e.Key }, func() {},
			func(string, error) {})
	}()
	revision, err := s.Clients.Create(ctx, "a", relay.Client{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case key := <-seen:
		if key != "a" {
			t.Errorf("the watch tells of %s", key)
		}
	case <-time.After(patience):
		t.Error("the watch tells nothing")
	}
	stop()
	if err := <-watched; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the watch: %v", err)
	}
	if revision, err = s.Clients.Update(ctx, "a", relay.Client{ID: "a", Description: "b"}, revision); err != nil {
		t.Error(err)
	}
	until(t, "the update to be read",
		func() bool { got, _, err := s.Clients.Get(ctx, "a"); return err == nil && got.Description == "b" })
	if all, err := s.Clients.All(ctx, "", func(string, error) {}); err != nil || len(all) != 1 {
		t.Errorf("list: %v, %v", all, err)
	}
	if err := s.Clients.Delete(ctx, "a", revision); err != nil {
		t.Error(err)
	}
	for _, r := range s.Cursors.PutAll(ctx, []store.Put[cursor.Document]{{Key: "callback.a"}}) {
		if r.Err != nil {
			t.Error(r.Err)
		}
	}
	// Logs: written, tailed, scanned.
	seq := publish(t, s, "work", 0)
	tail, err := s.Events.Tail(ctx, seq)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := tail.Next(ctx); err != nil || m.Seq != seq {
		t.Errorf("tail: %+v, %v", m, err)
	}
	tail.Stop()
	if found, _, err := s.Events.Scan(ctx, seq, []string{topology.SiteFilter("work")}, 10); err != nil ||
		len(found) != 1 {
		t.Errorf("scan: %v, %v", found, err)
	}
	if _, err := s.Events.LastOf(ctx, "work", order); err != nil {
		t.Error(err)
	}
	// Requests among replicas, answered.
	answering, err := conn.Subscribe("relay.shard.1.poll", func(m *nats.Msg) {
		if err := m.Respond([]byte("done")); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "an answer of a shard's owner", func() bool { // the cluster learns of the subscription in a moment
		m, err := c.conn.Request("relay.shard.1.poll", nil, time.Second)
		return err == nil && string(m.Data) == "done"
	})
	if err := answering.Unsubscribe(); err != nil {
		t.Error(err)
	}
	c.backup(conn)
	select {
	case err := <-refused:
		t.Errorf("refused at the relay's work: %v", err)
	default:
	}
}

// backup takes JetStream's own snapshot of a stream, removes it and puts it back.
func (c *cluster) backup(conn *nats.Conn) {
	t := c.t
	const stream = "relay_attempts"
	large := make([]byte, 64<<10) // random, as snapshots are compressed: many chunks
	_, _ = rand.Read(large)
	if _, err := conn.Request("relay.attempts.a", large, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	inbox, err := conn.SubscribeSync(conn.NewRespInbox())
	if err != nil {
		t.Fatal(err)
	}
	var about struct{ Config, State, Error json.RawMessage }
	api := func(operation string, request any, into any) {
		body, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		m, err := conn.Request("$JS.API.STREAM."+operation+"."+stream, body, 10*time.Second)
		if err != nil {
			t.Fatalf("%s: %v", operation, err)
		}
		if err := json.Unmarshal(m.Data, into); err != nil || strings.Contains(string(m.Data), `"error"`) {
			t.Fatalf("%s: %s", operation, m.Data)
		}
	}
	api("SNAPSHOT", map[string]any{"deliver_subject": inbox.Subject, "chunk_size": 1024, "window_size": 4096}, &about)
	var chunks [][]byte
	defer func() {
		if len(chunks) < 10 {
			t.Errorf("a snapshot of only %d chunks", len(chunks))
		}
	}()
	for {
		m, err := inbox.NextMsg(patience)
		if err != nil {
			t.Fatalf("the snapshot's chunk %d: %v", len(chunks), err)
		}
		if len(m.Data) == 0 {
			break
		}
		chunks = append(chunks, m.Data)
		if m.Reply != "" { // the last is not acknowledged
			if err := m.Respond(nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	var done struct{ Success bool }
	api("DELETE", struct{}{}, &done)
	var restoring struct {
		DeliverSubject string `json:"deliver_subject"`
	}
	api("RESTORE", map[string]any{"config": about.Config, "state": about.State}, &restoring)
	for _, chunk := range append(chunks, nil) {
		var m *nats.Msg
		// the server that restores may listen a moment before ours hears of it
		until(t, "a chunk is taken", func() bool {
			var err error
			m, err = conn.Request(restoring.DeliverSubject, chunk, 10*time.Second)
			if err != nil && !errors.Is(err, nats.ErrNoResponders) {
				t.Fatalf("restore: %v", err)
			}
			return err == nil
		})
		if strings.Contains(string(m.Data), `"error"`) {
			t.Fatalf("restore: %s", m.Data)
		}
	}
	js, err := conn.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the restored stream",
		func() bool { info, err := js.StreamInfo(stream); return err == nil && info.State.Msgs == 1 })
}

// keepsOff tries what a relay of one prefix can do about another's: nothing.
func (c *cluster) keepsOff() {
	t := c.t
	refused := make(chan error, 1)
	conn := c.login(relayUser, secrets[relayUser], refusals(refused))
	defer conn.Close()
	expect := func(what string) {
		t.Helper()
		select {
		case err := <-refused:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(patience):
			t.Errorf("%s was not refused", what)
		}
	}
	for _, subject := range []string{
		"other.inbox.32.a", "other.publish.leeds.x", "$KV.other_tokens.a", "audatex.leeds.parts.order.updated.x",
		"$JS.API.STREAM.CREATE.other_inbox",
		"$JS.API.STREAM.INFO.other_inbox", "$JS.API.STREAM.DELETE.KV_other_tokens", "$JS.API.STREAM.PURGE.other_events",
		"$JS.API.STREAM.MSG.GET.other_events",
		"$JS.API.DIRECT.GET.KV_other_tokens.$KV.other_tokens.a", "$JS.API.CONSUMER.CREATE.other_events",
		"$JS.API.CONSUMER.CREATE.other_events.relay_events.audatex.>",
		"$JS.API.CONSUMER.MSG.NEXT.other_events.relay_events", "$JS.API.CONSUMER.INFO.other_events.relay_events",
		"$JS.API.STREAM.SNAPSHOT.other_events",
		"$JS.API.STREAM.LIST", "$JS.EVENTS.API.STREAM.DELETE.EVENTS", "$JS.EVENTS.API.STREAM.PURGE.EVENTS",
		"$SYS.REQ.SERVER.PING", "$JS.API.META.LEADER.STEPDOWN",
	} {
		if err := conn.PublishRequest(subject, "_INBOX.x", nil); err != nil {
			t.Fatal(err)
		}
		expect("publishing to " + subject)
	}
	for _, subject := range []string{">", "other.>", "$KV.>", "$JS.API.>", "$SYS.>", "$JS.EVENT.>"} {
		if _, err := conn.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		expect("subscribing to " + subject)
	}
}

// catchesUp publishes while nodes come and go: the copy has every event once, in order.
func (c *cluster) catchesUp() {
	t := c.t
	first, last, err := c.store.Events.Bounds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var seqs []uint64
	for seq := first; seq <= last; seq++ {
		seqs = append(seqs, seq)
	}
	stored := func() uint64 {
		// A change of leader may swallow a response: the event is then there or not, and is looked
		// for.
		var seq uint64
		expected := seqs[len(seqs)-1]
		until(t, "an event to be stored", func() bool {
			ev, err := relay.NewOrderEvent("", "outage", order, relay.TypeOrderUpdated,
				relay.NextSequence(time.Now(), expected), time.Now(), relay.OrderData{Order: []byte(`{}`)})
			if err != nil {
				t.Fatal(err)
			}
			before := uint64(0)
			if l, err := c.store.Events.LastOf(t.Context(), "outage", order); err == nil {
				before = l.Seq
			} else if !errors.Is(err, store.ErrNotFound) {
				return false
			}
			if before > expected {
				seq = before
				return true
			}
			seq, err = c.store.Events.Publish(t.Context(), ev, store.InboxRef{}, before)
			return err == nil
		})
		return seq
	}
	for _, account := range []string{"RELAY", "EVENTS"} {
		name := map[string]string{"RELAY": "relay_events", "EVENTS": natsd.EventsStream}[account]
		for i, s := range c.servers {
			if s.JetStreamIsStreamLeader(account, name) {
				c.stop(i)
				for range 5 {
					seqs = append(seqs, stored())
				}
				c.start(i)
				break
			}
		}
		for range 5 {
			seqs = append(seqs, stored())
		}
	}
	nc := c.login("erp", secrets["erp"])
	until(t, "the consumer to be removed", func() bool {
		m, err := nc.Request("events.consumer.delete", nil, 5*time.Second)
		return err == nil && !strings.Contains(string(m.Data), "error")
	})
	until(t, "the consumer", func() bool {
		m, err := nc.Request("events.consumer.put", []byte(`{"startFrom":"earliest"}`), 5*time.Second)
		return err == nil && !strings.Contains(string(m.Data), "error")
	})
	for i, m := range pullWithin(t, sourcePatience, nc, "erp", len(seqs)) {
		compare(t, c.conn, m, seqs[i])
	}
}

// sourcePatience is how long the copy may stand still after servers have come and gone: the server
// tries a source that failed again after ten seconds, then ever more seldom, at most two minutes
// apart.
const sourcePatience = 3 * time.Minute
