package natsd_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/relay"
)

// patience bounds every wait: other tests use the machine as well.
const patience = 30 * time.Second

// ask sends what a reader wants of its consumer until the relay answers: it may still be making the copy.
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
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.Consumer(t.Context(), natsd.EventsStream, reader)
	if err != nil {
		t.Fatal(err)
	}
	var got []jetstream.Msg
	for deadline := time.Now().Add(patience); len(got) < n && time.Now().Before(deadline); {
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

// The copy holds what the log holds: every event with its subject, bytes and headers, except what is only for the owners of callbacks.
func TestTheCopyOfTheLog(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	b.publish("leeds", 0)
	for _, kind := range []relay.Kind{relay.KindCallbackDisabled, relay.KindCallbackRecovered, relay.KindDeliveriesExpired, relay.KindConsentRequired} {
		b.operational(kind)
	}
	b.publish("york", 0)
	nc, _, err := b.login(b.allID, b.all)
	if err != nil {
		t.Fatal(err)
	}
	if a := ask(t, nc, "put", natsd.ConsumerRequest{StartFrom: "earliest", AckWaitSeconds: 5, MaxAckPending: 10}); a.Error != "" || a.Consumer != b.allID || a.Stream != natsd.EventsStream {
		t.Fatalf("%+v", a)
	}
	want := []uint64{1, 5, 6}
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
	for name := range stored.Header { // the server leaves out conditions, and says in headers of its own where the message comes from
		if got, want := m.Headers().Get(name), stored.Header.Get(name); got != want && !strings.HasPrefix(name, "Nats-") {
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
