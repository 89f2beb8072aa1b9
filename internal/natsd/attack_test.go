package natsd_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// relayUser is the relay's own login.
const relayUser = "relay"

// mark is in everything that an attacker sends. Nobody else may ever receive it.
const mark = `attack`

// target is a server under attack, embedded or as deploy/nats configures it.
type target struct {
	t     *testing.T
	conn  *nats.Conn // the relay's
	store *store.Store
	login func(user string, more ...nats.Option) *nats.Conn
	// A service limited to leeds, two that read the copy, and one in the account of the first of
	// these with no permissions against it, where a server can be given one: then the account alone
	// has to hold.
	limited, reader, other, bare string
}

// wishes are the subjects that nobody but the relay or an operator may publish to, and what would
// be asked there.
func wishes(me, other string) map[string]string {
	const push = `{"stream_name":"%s","config":{"durable_name":"%s","deliver_subject":"%s","deliver_policy":"all",` +
		`"ack_policy":"none","description":"` + mark + `"}}`
	m := map[string]string{
		// Forging events and reaching what is stored by publishing.
		"audatex.leeds.parts.order.updated." + order: `{"mark":"attack"}`, "audatex.york.parts.order.created.x": mark,
		"relay.publish.leeds.parts.order.updated." + order: mark, "relay.inbox.11.x": mark, "relay.attempts.x": mark,
		"$KV.relay_tokens.x": mark, "$KV.relay_callbacks.x": mark, "relay.copy.x": mark, "relay.shard.1.poll": mark,
		"relay.readers." + other + ".delete": "", "relay.readers." + other + ".put": "",
		"relay.readers." + me + ".put": "",
		// The streams: the copy, the log, what lies beside it.
		"$JS.API.STREAM.PURGE.EVENTS": "{}", "$JS.API.STREAM.DELETE.EVENTS": "",
		"$JS.API.STREAM.MSG.DELETE.EVENTS": `{"seq":1}`,
		"$JS.API.STREAM.UPDATE.EVENTS": `{"name":"EVENTS","subjects":["x"],"max_msgs":1,"retention":"limits",` +
			`"storage":"file","num_replicas":1}`,
		"$JS.API.STREAM.CREATE.mine": `{"name":"mine","subjects":["audatex.>"],"retention":"limits",` +
			`"storage":"file","num_replicas":1}`,
		"$JS.API.STREAM.INFO.EVENTS": "", "$JS.API.STREAM.INFO.relay_events": "",
		"$JS.API.STREAM.PURGE.KV_relay_tokens": "{}",
		"$JS.API.STREAM.DELETE.relay_events":   "", "$JS.API.STREAM.LIST": "{}", "$JS.API.STREAM.NAMES": "{}",
		"$JS.API.INFO": "", "$JS.API.ACCOUNT.PURGE.RELAY": "",
		"$JS.API.STREAM.SNAPSHOT.EVENTS":        `{"deliver_subject":"relay.inbox.11.x"}`,
		"$JS.API.STREAM.RESTORE.EVENTS":         "{}",
		"$JS.API.STREAM.LEADER.STEPDOWN.EVENTS": "",
		// Reading without a consumer.
		"$JS.API.DIRECT.GET.relay_events": `{"seq":1}`, "$JS.API.DIRECT.GET.EVENTS": `{"seq":1}`,
		"$JS.API.DIRECT.GET.EVENTS.audatex.york.parts.order.updated." + order:       "",
		"$JS.API.DIRECT.GET.relay_events.audatex.york.parts.order.updated." + order: "",
		"$JS.API.STREAM.MSG.GET.EVENTS":                                             `{"seq":1}`,
		"$JS.API.STREAM.MSG.GET.relay_events":                                       `{"seq":1}`,
		"$JS.API.STREAM.MSG.GET.relay_inbox":                                        `{"seq":1}`,
		"$JS.API.DIRECT.GET.KV_relay_tokens.$KV.relay_tokens.x":                     "",
		// Another's consumer, and all of them.
		"$JS.API.CONSUMER.INFO.EVENTS." + other: "", "$JS.API.CONSUMER.DELETE.EVENTS." + other: "",
		"$JS.API.CONSUMER.MSG.NEXT.EVENTS." + other:                      `{"batch":10,"no_wait":true}`,
		"$JS.API.CONSUMER.PAUSE.EVENTS." + other:                         `{"pause_until":"2099-01-01T00:00:00Z"}`,
		"$JS.API.CONSUMER.RESET.EVENTS." + other:                         `{"seq":1000}`,
		"$JS.API.CONSUMER.UNPIN.EVENTS." + other:                         `{"group":"a"}`,
		"$JS.API.CONSUMER.LEADER.STEPDOWN.EVENTS." + other:               "",
		"$JS.ACK.EVENTS." + other + ".1.1.1.1700000000000000000.1":       "+TERM",
		"$JS.ACK._._.EVENTS." + other + ".1.1.1.1700000000000000000.1.x": "+ACK",
		"$JS.API.CONSUMER.NAMES.EVENTS":                                  "{}", "$JS.API.CONSUMER.LIST.EVENTS": "{}",
		"$JS.API.CONSUMER.LIST.relay_events": "{}",
		// The ways by which the relay and the copy ask one another.
		"$JS.EVENTS.API.STREAM.INFO.EVENTS": "", "$JS.EVENTS.API.CONSUMER.DELETE.EVENTS." + other: "",
		"$JS.FC.relay_events.x.y": "", "$JS.FC._.x.relay_events.x.y": "",
		"$JS.RELAY.API.CONSUMER.CREATE.relay_events": fmt.Sprintf(push, "relay_events", "p", "relay.inbox.11.x"),
		// The server.
		"$SYS.REQ.SERVER.PING": "", "$SYS.REQ.ACCOUNT.RELAY.CONNZ": "", "$SYS.REQ.SERVER.PING.CONNZ": "",
		"$JS.API.META.LEADER.STEPDOWN": "",
		"_R_.x":                        mark, "_INBOX.x": mark,
	}
	// Push consumers that deliver into the relay's state, and onto the live subjects.
	for _, stream := range []string{"EVENTS", "relay_events", "KV_relay_tokens"} {
		for i, deliver := range []string{"$KV.relay_tokens.x", "relay.inbox.11.x",
			"audatex.leeds.parts.order.updated.x"} {
			for _, name := range []string{fmt.Sprintf("push%d", i), me} {
				body := fmt.Sprintf(push, stream, name, deliver)
				m["$JS.API.CONSUMER.CREATE."+stream] = body
				m["$JS.API.CONSUMER.CREATE."+stream+"."+name] = body
				m["$JS.API.CONSUMER.CREATE."+stream+"."+name+".audatex.>"] = body
				m["$JS.API.CONSUMER.DURABLE.CREATE."+stream+"."+name] = body
			}
		}
	}
	return m
}

// attack tries everything and sees that nothing comes of it.
func (g *target) attack() {
	t := g.t
	g.event("york", 0)
	for _, user := range []string{g.reader, g.other} {
		nc := g.login(user)
		until(t, "the copy", func() bool {
			_, err := nc.Request("events.consumer.put", []byte(`{"startFrom":"earliest"}`), 5*time.Second)
			return err == nil
		})
		ask(t, nc, "put", natsd.ConsumerRequest{StartFrom: "earliest", AckWaitSeconds: 30, MaxAckPending: 100})
	}
	events, err := jetstream.NewWithAPIPrefix(g.conn, "$JS.EVENTS.API")
	if err != nil {
		t.Fatal(err)
	}
	copied, err := events.Stream(t.Context(), "EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the first event in the copy",
		func() bool { info, err := copied.Info(t.Context()); return err == nil && info.State.Msgs == 1 })
	until(t, "the victim's consumer to know of it", func() bool {
		victim, err := copied.Consumer(t.Context(), g.other)
		return err == nil && victim.CachedInfo().NumPending == 1
	})
	before := g.state(copied)

	// What the victims hear.
	hearing := map[string]*nats.Subscription{}
	hear := func(user string, subjects ...string) {
		nc := g.login(user)
		for _, subject := range subjects {
			s, err := nc.SubscribeSync(subject)
			if err != nil {
				t.Fatal(err)
			}
			hearing[user+" "+subject] = s
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	hear(g.limited, "audatex.leeds.>")
	for _, queue := range []string{"bms-leeds", "bms-leeds.workers"} { // the client's id, embedded, or the user's name
		nc := g.login(g.limited)
		s, err := nc.QueueSubscribeSync("audatex.leeds.>", queue)
		if err == nil {
			err = nc.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		hearing[g.limited+" audatex.leeds.> in the queue group "+queue] = s
	}
	hear(g.other, "audatex.>", "_INBOX.>")
	hear(relayUser, "relay.inbox.>", "relay.attempts.>", "relay.publish.>", "relay.shard.>")

	for _, user := range []string{g.limited, g.reader} {
		g.refusedAll(user)
	}
	if g.bare != "" {
		g.unanswered()
	}
	g.bend()

	// Nothing has changed, and everybody heard the one event that came, once.
	if after := g.state(copied); after != before {
		t.Errorf("before: %s\nafter:  %s", before, after)
	}
	last := g.event("leeds", 0)
	sentinel := topology.OrderSubject("leeds", "updated", order)
	var listening sync.WaitGroup
	for name, s := range hearing {
		listening.Go(func() {
			want := 0
			if strings.Contains(name, " audatex.") || strings.HasSuffix(name, " relay.publish.>") {
				want = 1
			}
			for got := 0; ; {
				most := 300 * time.Millisecond
				if got < want {
					most = patience
				}
				m, err := s.NextMsg(most)
				if errors.Is(err, nats.ErrTimeout) && got == want {
					return
				}
				if err != nil {
					t.Errorf("%s heard %d of %d: %v", name, got, want, err)
					return
				}
				if got++; got > want || m.Subject != sentinel &&
					m.Subject != g.store.Topology().PublishSubject(sentinel) {
					t.Errorf("%s heard %s %s %s", name, m.Subject, m.Header, m.Data)
				}
			}
		})
	}
	listening.Wait()
	// The victim reads on as if nothing had been.
	compare(t, g.conn, pull(t, g.login(g.other), g.other, 2)[1], last)
}

// refusals sends the server's refusals to a channel. Those that do not fit are dropped.
func refusals(to chan<- error) nats.Option {
	return func(o *nats.Options) error {
		o.AsyncErrorCB = func(_ *nats.Conn, _ *nats.Subscription, err error) {
			select {
			case to <- err:
			default: // after a reconnection everything is refused once more
			}
		}
		return nil
	}
}

// refusedAll publishes and subscribes to everything that a service may not, and sees each refused.
func (g *target) refusedAll(user string) {
	refused := make(chan error, 1)
	nc := g.login(user, refusals(refused))
	defer nc.Close()
	expect := func(what string) {
		g.t.Helper()
		select {
		case err := <-refused:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				g.t.Errorf("%s: %s: %v", user, what, err)
			}
		case <-time.After(patience):
			g.t.Errorf("%s: %s was not refused", user, what)
		}
	}
	for subject, body := range wishes(user, g.other) {
		if err := nc.PublishRequest(subject, "_INBOX.mine.x", []byte(body)); err != nil {
			g.t.Fatal(err)
		}
		expect("publishing to " + subject)
	}
	subjects := []string{
		">", "*.>", "relay.>", "$KV.>", "$KV.relay_tokens.>", "$JS.>", "$JS.API.>", "$JS.ACK.>", "$JS.EVENT.ADVISORY.>",
		"$SYS.>", "$SYS.ACCOUNT.RELAY.>", "_R_.>",
		"audatex.*.relay.callback-disabled.*", "events.consumer.put",
	}
	if user == g.limited {
		subjects = append(subjects, "audatex.york.>", "audatex.>", "audatex.*.parts.>", "audatex._.>", "_INBOX.>",
			"_INBOX."+g.other+".>", "audatex.leeds.relay.callback-disabled.x")
	}
	for _, subject := range subjects {
		if subject == "audatex.leeds.relay.callback-disabled.x" || subject == "audatex.*.relay.callback-disabled.*" &&
			user != g.limited {
			// within what is allowed with a hole in it: not refused, but never heard
			// (TestNobodyHearsOfAnothersCallbacks)
			continue
		}
		if _, err := nc.SubscribeSync(subject); err != nil {
			g.t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			g.t.Fatal(err)
		}
		expect("subscribing to " + subject)
	}
	if user != g.limited { // a reader has its queue groups to itself
		return
	}
	for _, queue := range []string{"workers", "bms-north", "bms-leeds2", "bms-north.workers", "*", ">",
		"bms-leeds workers"} {
		if _, err := nc.QueueSubscribeSync("audatex.leeds.parts.>", queue); err != nil {
			continue
		}
		if err := nc.Flush(); err != nil {
			g.t.Fatal(err)
		}
		expect("joining the queue group " + queue)
	}
}

// unanswered sends the same from a login without any permissions. Only what its account imports
// responds.
func (g *target) unanswered() {
	nc := g.login(g.bare)
	for subject, body := range wishes(g.reader, g.other) {
		if strings.HasPrefix(subject, "_INBOX.") || strings.HasPrefix(subject, "_R_.") {
			continue
		}
		// JetStream of an account that has none responds with an error, or not at all. The server
		// reports an account's own connections, and how full EVENTS is.
		m, err := nc.Request(subject, []byte(body), 300*time.Millisecond)
		if err == nil && !bytes.Contains(m.Data, []byte(`"error"`)) && subject != "$SYS.REQ.SERVER.PING.CONNZ" &&
			subject != "$JS.API.INFO" {
			g.t.Errorf("without permissions: %s answers %s", subject, m.Data)
		}
	}
}

// bend uses what a reader may do, with responses directed to subjects of others. Within its own
// account these forgeries do arrive: therefore nobody shares an account.
func (g *target) bend() {
	nc := g.login(g.reader)
	fooled, err := g.login(g.reader).SubscribeSync("audatex.leeds.>")
	if err != nil {
		g.t.Fatal(err)
	}
	until(g.t, "a forgery to reach the account that it is made in", func() bool {
		if err := nc.PublishRequest("$JS.API.CONSUMER.INFO.EVENTS."+g.reader, "audatex.leeds.parts.order.updated.x",
			nil); err != nil {
			g.t.Fatal(err)
		}
		_, err := fooled.NextMsg(200 * time.Millisecond)
		return err == nil
	})
	for _, reply := range []string{
		"audatex.leeds.parts.order.updated.x", "audatex.york.x", "relay.inbox.11.x", "$KV.relay_tokens.x",
		"relay.publish.leeds.x", "$JS.API.STREAM.DELETE.EVENTS",
		"$JS.API.STREAM.PURGE.EVENTS", "$JS.API.CONSUMER.DELETE.EVENTS." + g.other,
		"relay.readers." + g.other + ".delete", "_INBOX.x", "$SYS.REQ.SERVER.PING",
	} {
		for subject, body := range map[string]string{
			"$JS.API.CONSUMER.MSG.NEXT.EVENTS." + g.reader:                `{"batch":5,"no_wait":true}`,
			"$JS.API.CONSUMER.INFO.EVENTS." + g.reader:                    "",
			"events.consumer.put":                                         `{}`,
			"$JS.ACK.EVENTS." + g.reader + ".1.1.1.1700000000000000000.1": "+NXT 5",
		} {
			if err := nc.PublishRequest(subject, reply, []byte(body)); err != nil {
				g.t.Fatal(err)
			}
		}
	}
	if err := nc.FlushTimeout(5 * time.Second); err != nil {
		g.t.Fatal(err)
	}
	// What the relay does on request cannot be turned into more.
	for _, body := range []string{
		`{"deliverSubject":"relay.inbox.11.x"}`, `{"deliver_subject":"$KV.relay_tokens.x"}`,
		`{"name":"` + g.other + `"}`,
		`{"filterSubjects":["$KV.>"]}`,
		`{"filterSubjects":["audatex.a..b"]}`, `{"filterSubjects":["audatex.>","audatex.leeds.>"]}`,
		`{"ackWaitSeconds":-1}`,
		`{"maxAckPending":100000}`, `{`, `[]`,
		`{"startFrom":"yesterday"}`,
	} {
		m, err := nc.Request("events.consumer.put", []byte(body), 5*time.Second)
		if err != nil || !bytes.Contains(m.Data, []byte(`"error"`)) {
			g.t.Errorf("%s was granted: %v, %v", body, m, err)
		}
	}
}

// state sums up what attacks are about.
func (g *target) state(copied jetstream.Stream) string {
	t := g.t
	info, err := copied.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	lister := copied.ConsumerNames(t.Context())
	for name := range lister.Name() {
		names = append(names, name)
	}
	consumer, err := copied.Consumer(t.Context(), g.other)
	if err != nil {
		t.Fatal(err)
	}
	victim := consumer.CachedInfo()
	_, inbox, err := g.store.Inbox.Bounds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := g.conn.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	kv, err := tokens.StreamInfo("KV_relay_tokens")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("copy %d..%d of %v/%d/%s, %d consumers, victim delivered %d acknowledged %d pending %d paused "+
		"%v to %q, inbox %d, tokens %d",
		info.State.FirstSeq, info.State.LastSeq, info.Config.Subjects, info.Config.MaxMsgs, info.Config.MaxAge,
		len(names),
		victim.Delivered.Consumer,
		victim.AckFloor.Consumer, victim.NumPending, victim.Paused,
		victim.Config.DeliverSubject, inbox, kv.State.LastSeq)
}

// event publishes one event of a site.
func (g *target) event(site string, expected uint64) uint64 {
	return publish(g.t, g.store, site, expected)
}

func publish(t *testing.T, s *store.Store, site string, expected uint64) uint64 {
	t.Helper()
	ev, err := relay.NewOrderEvent("", site, order, relay.TypeOrderUpdated, relay.NextSequence(time.Now(), expected),
		time.Now(), relay.OrderData{Order: []byte(`{}`)})
	if err != nil {
		t.Fatal(err)
	}
	seq, err := s.Events.Publish(t.Context(), ev, store.InboxRef{}, expected)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func TestTheEmbeddedServerHoldsAttacksOff(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	otherID, other := b.client("bms-other", relay.Client{AllSites: true})
	passwords := map[string]string{b.leedsID: b.leeds, b.allID: b.all, otherID: other}
	g := &target{t: t, conn: b.conn, store: b.store, limited: b.leedsID, reader: b.allID, other: otherID,
		login: func(user string, more ...nats.Option) *nats.Conn {
			if user == relayUser {
				nc, err := b.server.Connect()
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(nc.Close)
				return nc
			}
			nc, err := nats.Connect("nats://"+b.server.Addr(),
				append([]nats.Option{nats.UserInfo(user, passwords[user])}, more...)...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
			return nc
		}}
	g.attack()
}
