package publisher_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/publisher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestMain(m *testing.M) {
	natstest.Waiting(4)
	goleak.VerifyTestMain(m)
}

const (
	site  = "leeds"
	order = "5f0c0000-0000-4000-8000-000000000001"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func open(t *testing.T, conn *nats.Conn, gate store.Gate) *store.Store {
	t.Helper()
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{
		Conn: conn, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: 720 * time.Hour},
		Sealer: sealer, Log: quiet(), Gate: gate,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newPublisher(s *store.Store) *publisher.Publisher {
	return publisher.New(publisher.Config{Store: s, PublicURL: "https://relay.example/", Log: quiet()})
}

// received is the n-th notification of a connection, received at a time of its own.
func received(connection string, n int) relay.Received {
	return relay.Received{Connection: connection, Seq: uint64(n), Info: relay.NotificationInfo{
		Topic: "PARTS.ORDER.UPDATED", CreatedAt: "2026-01-15T09:38:44.6871504", SiteID: "4711",
		ReceivedAt: time.Unix(1_770_000_000+int64(n), 0).UTC(),
	}}
}

func reading(status string) relay.Snapshot {
	return relay.Snapshot{Order: json.RawMessage(fmt.Sprintf(`{"PartsOrderId":%q,"Status":%q,"Price":12.50}`, order,
		status)), ReadAt: time.Now().UTC()}
}

// publish takes a notification through Begin and Publish.
func publish(t *testing.T, p *publisher.Publisher, status string, waiting ...relay.Received) relay.PublishOutcome {
	t.Helper()
	position, err := p.Begin(t.Context(), site, order, waiting)
	if err != nil {
		t.Fatal(err)
	}
	outcome, err := p.Publish(t.Context(), position, reading(status))
	if outcome == relay.Published && err != nil {
		t.Fatal(err)
	}
	return outcome
}

type published struct {
	store.Stored
	relay.Event
	data relay.OrderData
}

func events(t *testing.T, s *store.Store) []published {
	t.Helper()
	stored, _, err := s.Events.Scan(t.Context(), 0, []string{topology.OrderFilter(site, order)}, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	list := make([]published, len(stored))
	for i, e := range stored {
		list[i].Stored = e
		if err := json.Unmarshal(e.Body, &list[i].Event); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(list[i].Event.Data, &list[i].data); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func state(t *testing.T, s *store.Store) (relay.OrderState, uint64) {
	t.Helper()
	st, rev, err := s.Orders.Get(t.Context(), publisher.OrderKey(site, order))
	if err != nil {
		t.Fatal(err)
	}
	return st, rev
}

func TestGroupSharesOneReading(t *testing.T) {
	t.Parallel()
	s := open(t, natstest.Start(t), store.Gate{})
	reg := prometheus.NewRegistry()
	zone := time.FixedZone("", 3600)
	p := publisher.New(publisher.Config{Store: s, PublicURL: "https://relay.example/", Location: zone,
		Metrics: publisher.NewMetrics(reg), Log: quiet()})
	made := received("c", 1)
	made.Info.Topic = "parts.order.created"
	publish(t, p, "New", made)
	unreadable := received("c", 3)
	unreadable.Info.CreatedAt = "yesterday"
	if got := publish(t, p, "Confirmed", received("c", 2), unreadable); got != relay.Published {
		t.Fatal(got)
	}
	list := events(t, s)
	if len(list) != 3 {
		t.Fatalf("%d events, want 3", len(list))
	}
	if e := list[0].Event; e.Type != relay.TypeOrderCreated || e.Time != "2026-01-15T08:38:44.687150Z" ||
		e.DataSchema != "https://relay.example"+relay.OrderSchema {
		t.Errorf("first event: %+v", e)
	}
	first, second := list[1], list[2]
	if len(first.data.Changes) != 1 || first.data.PreviousStatus == nil || *first.data.PreviousStatus != "New" ||
		!strings.Contains(string(first.Body), `"Price":12.50`) {
		t.Errorf("the first of the group does not carry the change: %s", first.Body)
	}
	if second.data.Changes == nil || len(second.data.Changes) != 0 || *second.data.PreviousStatus != "Confirmed" ||
		second.Event.Time != relay.FormatTime(unreadable.Info.ReceivedAt) {
		t.Errorf("the second of the group: %s", second.Body)
	}
	if st, _ := state(t, s); st.Published["c"] != unreadable.Entry() ||
		st.LogPosition != second.Seq || st.Revision != 3 {
		t.Errorf("document: %+v", st)
	}
	if n := testutil.CollectAndCount(reg, "audatex_relay_events_published_total"); n != 2 {
		t.Errorf("%d series of events published, want 2", n)
	}
	if lint, err := testutil.GatherAndLint(reg); err != nil || len(lint) > 0 {
		t.Errorf("metrics: %v %v", lint, err)
	}
}

func TestSameNotificationTwiceIsOneEvent(t *testing.T) {
	t.Parallel()
	s := open(t, natstest.Start(t), store.Gate{})
	p := newPublisher(s)
	publish(t, p, "New", received("c", 1))
	publish(t, p, "Confirmed", received("c", 2))
	position, err := newPublisher(s).Begin(t.Context(), site, order,
		[]relay.Received{received("c", 1), received("c", 2), received("c", 3)})
	if err != nil || len(position.Waiting) != 1 || position.Waiting[0].Seq != 3 {
		t.Fatalf("waiting %v, %v; want only the third", position.Waiting, err)
	}
	// A restored inbox gives the same numbers again. The time of receipt distinguishes them.
	again := received("c", 2)
	again.Info.ReceivedAt = again.Info.ReceivedAt.Add(time.Hour)
	if position, err = p.Begin(t.Context(), site, order, []relay.Received{again}); err != nil ||
		len(position.Waiting) != 1 {
		t.Fatalf("a new notification under an old number was taken for the old one: %v", err)
	}
}

func TestOlderReadingNeverFollowsNewer(t *testing.T) {
	t.Parallel()
	s := open(t, natstest.Start(t), store.Gate{})
	p, other := newPublisher(s), newPublisher(s)
	publish(t, p, "New", received("c", 1))
	position, err := p.Begin(t.Context(), site, order, []relay.Received{received("c", 2)})
	if err != nil {
		t.Fatal(err)
	}
	old := reading("Confirmed") // read, and then another connection is quicker
	publish(t, other, "Dispatched", received("d", 1))
	if got, _ := p.Publish(t.Context(), position, old); got != relay.ReadAgain {
		t.Fatalf("outcome %s, want read-again", got)
	}
	if got := publish(t, p, "Dispatched", received("c", 2)); got != relay.Published {
		t.Fatal(got)
	}
	list := events(t, s)
	if len(list) != 3 || relay.StatusOf(list[1].data.Order) != "Dispatched" || len(list[2].data.Changes) != 0 ||
		list[2].data.Revision != 3 {
		t.Errorf("events: %+v", list)
	}
	if st, _ := state(t, s); st.Published["c"] != received("c", 2).Entry() ||
		st.Published["d"] != received("d", 1).Entry() {
		t.Errorf("document: %+v", st)
	}
}

// A stored event whose response was lost is found in the log and not made again.
func TestHiddenAnswer(t *testing.T) {
	t.Parallel()
	var hide sync.Map
	s := open(t, natstest.Start(t), store.Gate{After: func(w store.Write) error {
		if _, ok := hide.LoadAndDelete("next"); ok {
			return store.ErrUnclear
		}
		return nil
	}})
	p := newPublisher(s)
	publish(t, p, "New", received("c", 1))
	hide.Store("next", true) // the event's
	if got := publish(t, p, "Confirmed", received("c", 2), received("c", 3)); got != relay.ReadAgain {
		t.Fatalf("outcome %s, want read-again", got)
	}
	position, err := p.Begin(t.Context(), site, order, []relay.Received{received("c", 2), received("c", 3)})
	if err != nil || len(position.Waiting) != 1 || position.Waiting[0].Seq != 3 ||
		position.State.Status != "Confirmed" {
		t.Fatalf("position %+v, %v", position, err)
	}
	if got, err := p.Publish(t.Context(), position, reading("Dispatched")); got != relay.Published || err != nil {
		t.Fatal(got, err)
	}
	list := events(t, s)
	if len(list) != 3 || len(list[2].data.Changes) != 1 || list[2].data.Revision != 3 {
		t.Errorf("events: %+v", list)
	}
	// The document's own write may lose its response as well.
	before, _ := state(t, s)
	hides := 0
	s2 := open(t, natstest.Start(t), store.Gate{After: func(w store.Write) error {
		if strings.Contains(w.Subject, "_orders.") && hides == 0 {
			hides++
			return store.ErrUnclear
		}
		return nil
	}})
	if got := publish(t, newPublisher(s2), "New", received("c", 1)); got != relay.Published || hides != 1 ||
		before.Revision != 3 {
		t.Errorf("outcome %s after a hidden write of the document", got)
	}
}

// eventLog returns the stream of events.
func eventLog(t *testing.T, conn *nats.Conn) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	log, err := js.Stream(t.Context(), "relay_events")
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func TestDocumentLostAgedAndAhead(t *testing.T) {
	t.Parallel()
	conn := natstest.Start(t)
	s := open(t, conn, store.Gate{})
	p := newPublisher(s)
	log := eventLog(t, conn)
	publish(t, p, "New", received("c", 1))
	publish(t, p, "Confirmed", received("c", 2))

	// Lost: it is had from the log again.
	if err := s.Orders.Delete(t.Context(), publisher.OrderKey(site, order), 0); err != nil {
		t.Fatal(err)
	}
	position, err := p.Begin(t.Context(), site, order, []relay.Received{received("c", 2)})
	if err != nil || len(position.Waiting) != 0 || position.State.Revision != 2 ||
		position.State.Status != "Confirmed" {
		t.Fatalf("position %+v, %v", position, err)
	}
	last, _ := state(t, s)

	// Aged out: the events have left the log, the document has not.
	if err := log.Purge(t.Context(), jetstream.WithPurgeSubject(topology.OrderFilter(site, order))); err != nil {
		t.Fatal(err)
	}
	if got := publish(t, p, "Dispatched", received("c", 3)); got != relay.Published {
		t.Fatal(got)
	}
	list := events(t, s)
	if len(list) != 1 || list[0].data.Revision != 3 || len(list[0].data.Changes) != 1 ||
		*list[0].data.PreviousStatus != "Confirmed" {
		t.Fatalf("events: %s", list[0].Body)
	}
	if n, _ := list[0].SequenceNumber(); n <= last.Sequence {
		t.Error("a sequence was issued twice")
	}

	// Ahead: the log was restored from before the last event. What was published stays published,
	// the position is the log's, and a notification whose event is gone gets another.
	publish(t, p, "Delivered", received("c", 4))
	ahead, _ := state(t, s)
	if err := log.DeleteMsg(t.Context(), ahead.LogPosition); err != nil {
		t.Fatal(err)
	}
	if got := publish(t, p, "Delivered", received("c", 4)); got != relay.Published {
		t.Fatal(got)
	}
	list = events(t, s)
	if len(list) != 2 || list[1].data.Revision != 5 || len(list[1].data.Changes) != 0 {
		t.Fatalf("events: %+v", list)
	}
	if n, _ := list[1].SequenceNumber(); n <= ahead.Sequence {
		t.Error("a sequence was issued twice")
	}

	// And a crash before the document knew of it: the log grows past the old position, and all of
	// it is found.
	_, rev := state(t, s)
	if _, err := s.Orders.Update(t.Context(), publisher.OrderKey(site, order), ahead, rev); err != nil {
		t.Fatal(err)
	}
	position, err = p.Begin(t.Context(), site, order, []relay.Received{received("c", 4)})
	if err != nil || len(position.Waiting) != 0 || position.State.Revision != 5 {
		t.Fatalf("position %+v, %v", position, err)
	}
}

func TestReconcile(t *testing.T) {
	t.Parallel()
	s := open(t, natstest.Start(t), store.Gate{})
	p := newPublisher(s)
	publish(t, p, "New", received("c", 1))
	for _, c := range []struct {
		status  string
		changed bool
	}{{"New", false}, {"Confirmed", true}, {"Confirmed", false}} {
		position, err := p.Begin(t.Context(), site, order, nil)
		if err != nil {
			t.Fatal(err)
		}
		changed, outcome, err := p.Reconcile(t.Context(), position, reading(c.status))
		if changed != c.changed || outcome != relay.Published || err != nil {
			t.Fatalf("%s: changed %v, %s, %v", c.status, changed, outcome, err)
		}
	}
	list := events(t, s)
	if len(list) != 2 || list[1].data.Origin != relay.OriginReconciliation || list[1].data.Notification != nil ||
		list[1].Event.Time != relay.FormatTime(list[1].data.ReadAt) || list[1].Inbox.Connection != "" {
		t.Errorf("events: %s", list[len(list)-1].Body)
	}
}

// The log has lost the order's last event, or all of them, and the document has not. What readers
// may have missed is published once more, though the order has not changed since.
func TestReconcileAfterTheLogHasLostEvents(t *testing.T) {
	t.Parallel()
	conn := natstest.Start(t)
	s := open(t, conn, store.Gate{})
	p := newPublisher(s)
	log := eventLog(t, conn)
	publish(t, p, "New", received("c", 1))
	publish(t, p, "Confirmed", received("c", 2))
	for _, lost := range []int{1, 2} {
		before, _ := state(t, s)
		list := events(t, s)
		for _, ev := range list[len(list)-lost:] {
			if err := log.DeleteMsg(t.Context(), ev.Seq); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []bool{true, false} {
			position, err := p.Begin(t.Context(), site, order, nil)
			if err != nil {
				t.Fatal(err)
			}
			changed, outcome, err := p.Reconcile(t.Context(), position, reading("Confirmed"))
			if changed != want || outcome != relay.Published || err != nil {
				t.Fatalf("changed %v, %s, %v", changed, outcome, err)
			}
		}
		list = events(t, s)
		last := list[len(list)-1]
		if n, _ := last.SequenceNumber(); n <= before.Sequence || !last.Stored.Changed || len(last.data.Changes) > 0 {
			t.Errorf("%d events, the last with sequence %d after %d: %s", len(list), n, before.Sequence, last.Body)
		}
	}
}

// Many publishers of one order at once, each for a connection of its own: one event for each
// notification, in one line.
func TestRacingPublishers(t *testing.T) {
	t.Parallel()
	s := open(t, natstest.Start(t), store.Gate{})
	const connections, each = 4, 8
	var wg sync.WaitGroup
	for c := range connections {
		wg.Go(func() {
			p := newPublisher(s)
			for n := 1; n <= each; n++ {
				waiting := []relay.Received{received(fmt.Sprint("c", c), n)}
				for len(waiting) > 0 {
					position, err := p.Begin(context.Background(), site, order, waiting)
					if errors.Is(err, store.ErrUnavailable) {
						// it met the others too often; a resolver holds the notification and begins again as well
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					waiting = position.Waiting
					if outcome, err := p.Publish(context.Background(), position,
						reading(fmt.Sprint(c, n))); outcome == relay.Published {
						break
					} else if outcome != relay.ReadAgain {
						t.Error(outcome, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	list := events(t, s)
	seen := map[store.InboxRef]bool{}
	for i, e := range list {
		if seen[e.Inbox] || e.data.Revision != i+1 || i > 0 &&
			(e.Sequence <= list[i-1].Sequence || *e.data.PreviousStatus != relay.StatusOf(list[i-1].data.Order)) {
			t.Errorf("event %d of %v: %s", i, e.Inbox, e.Body)
		}
		seen[e.Inbox] = true
	}
	if len(list) != connections*each {
		t.Errorf("%d events, want %d", len(list), connections*each)
	}
	if st, _ := state(t, s); st.Revision != len(list) {
		t.Errorf("document has revision %d", st.Revision)
	}
}

func TestUnfitReadings(t *testing.T) {
	t.Parallel()
	s := open(t, natstest.Start(t), store.Gate{})
	p := newPublisher(s)
	position, err := p.Begin(t.Context(), site, order, []relay.Received{received("c", 1)})
	if err != nil {
		t.Fatal(err)
	}
	large := relay.Snapshot{Order: json.RawMessage(`{"X":"` + strings.Repeat("x", 10<<20) + `"}`)}
	nested := func(depth int) relay.Snapshot {
		return relay.Snapshot{
			Order: json.RawMessage(`{"X":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`)}
	}
	for name, c := range map[string]struct {
		reading relay.Snapshot
		want    relay.PublishOutcome
	}{
		"no object": {relay.Snapshot{Order: json.RawMessage(`[]`)}, relay.Unfit}, "too large": {large, relay.TooLarge},
		"too deep": {nested(9_999), relay.Unfit},
	} {
		if got, err := p.Publish(t.Context(), position, c.reading); got != c.want || err == nil {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

func TestOperational(t *testing.T) {
	t.Parallel()
	fails := 0
	s := open(t, natstest.Start(t), store.Gate{Before: func(w store.Write) error {
		if strings.Contains(w.Subject, ".relay.") && strings.HasPrefix(w.Subject, "relay.publish") && fails < 1 {
			fails++
			return store.ErrUnavailable
		}
		return nil
	}})
	now := time.Now()
	p := publisher.New(publisher.Config{Store: s, Log: quiet(), Now: func() time.Time { return now }})
	for range 3 {
		if err := p.Operational(t.Context(), "", relay.KindGapSuspected, "c", "A gap.",
			map[string]any{"poll": "x"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Operational(t.Context(), "", relay.KindGapSuspected, "c.d", "No subject.", nil); err == nil {
		t.Error("an id that is no subject token was taken")
	}
	count := func() int {
		list, _, err := s.Events.Scan(t.Context(), 0,
			[]string{topology.OperationalSubject("_", "gap-suspected", "c")}, 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if n := count(); n != 1 || fails != 1 {
		t.Errorf("%d events after one failure, want 1", n)
	}
	now = now.Add(11 * time.Minute)
	if err := p.Operational(t.Context(), "", relay.KindGapSuspected, "c", "A gap.", nil); err != nil || count() != 2 {
		t.Errorf("not said again after a while: %v", err)
	}
}

// The log has of each event what filters look at, without its body: the status that was read, and whether something
// changed.
func TestEventsCarryStatusAndChange(t *testing.T) {
	t.Parallel()
	s := open(t, natstest.Start(t), store.Gate{})
	p := newPublisher(s)
	for n, status := range []string{"New", "New", "On hold: 50 %\n待機", strings.Repeat("x", relay.MaxStatus+1)} {
		if outcome := publish(t, p, status, received("grant", 2*n+1),
			received("grant", 2*n+2)); outcome != relay.Published {
			t.Fatal(outcome)
		}
	}
	var got []string
	for _, e := range events(t, s) {
		got = append(got, fmt.Sprintf("%s %t", e.Stored.Status, e.Stored.Changed))
	}
	want := []string{
		"New true", "New false", "New false", "New false", "On hold: 50 %\n待機 true", "On hold: 50 %\n待機 false", " true",
		" false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the log says %q, want %q", got, want)
	}
}
