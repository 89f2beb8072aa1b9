package reconciler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/store"
)

// TestChangesThatNobodyToldOfBecomeEvents: open orders are read, others are not, and each change
// found is published once.
func TestChangesThatNobodyToldOfBecomeEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.connect("leeds")
	w.connect("york")
	const (
		changedOrder = iota
		sameOrder
		cancelled
		returned
		delivered
		removed
		forbidden
		foreign // of another connection
	)
	names := map[int]string{}
	for n, status := range map[int]string{
		changedOrder: "New", sameOrder: "Confirmed", cancelled: "Cancelled", returned: "ReturnRejected",
		delivered: "Delivered", removed: "New", forbidden: "New",
		foreign: "New",
	} {
		names[n] = orderID(n)
		w.vendor.set(names[n], status)
		if n == foreign {
			w.notify("york", names[n])
			continue
		}
		w.notify("leeds", names[n])
	}
	for _, n := range []int{changedOrder, cancelled, delivered, foreign} {
		w.vendor.set(names[n], "ReturnRequested")
	}
	w.vendor.set(names[removed], "")
	w.vendor.failing(func(order string) error {
		if order == names[forbidden] {
			return refusal(audatex.Forbidden)
		}
		return nil
	})
	reg := prometheus.NewRegistry()
	p := w.start("leeds", func(c *Config) { c.Metrics = NewMetrics(reg) })
	w.ask(p, "leeds", false)
	w.idle("leeds")

	read := map[int]bool{changedOrder: true, sameOrder: true, removed: true, forbidden: true}
	for n, order := range names {
		if got := w.vendor.readings(order); (got == 1) != read[n] || got > 1 {
			t.Errorf("order %d was read %d times", n, got)
		}
	}
	events := w.events("leeds", names[changedOrder])
	if len(events) != 2 {
		t.Fatalf("%d events of the order that changed", len(events))
	}
	e := events[1]
	if e.data.Origin != relay.OriginReconciliation || e.data.Notification != nil || e.Type != relay.TypeOrderUpdated ||
		len(e.data.Changes) != 2 || *e.data.PreviousStatus != "New" ||
		e.Time != relay.FormatTime(e.data.ReadAt) {
		t.Errorf("event: %+v", e)
	}
	for _, n := range []int{sameOrder, removed, forbidden, cancelled, delivered} {
		if len(w.events("leeds", names[n])) != 1 {
			t.Errorf("order %d has another event", n)
		}
	}
	told := w.reconciled("leeds")
	if len(told) != 1 {
		t.Fatalf("told %+v", told)
	}
	slices.Sort(told[0].UnreadableOrders)
	if d := told[0]; d.Orders != 4 || d.Changed != 1 || d.Unreadable != 2 || len(d.Causes) != 1 ||
		d.Causes[0] != relay.CauseAsked || d.Connection != "leeds" ||
		!slices.Equal(d.UnreadableOrders, []string{"leeds." + names[removed], "leeds." + names[forbidden]}) {
		t.Errorf("told %+v", d)
	}

	// A gap also reads delivered orders. It is noted once, even if it is reported several times.
	since := time.Now().Add(-time.Minute).UTC()
	gap := relay.Poll{Generation: c.Generation, Gaps: 1, GapCause: relay.CauseGap, GapSince: &since}
	for range 3 {
		p.Suspected("leeds", gap)
	}
	w.eventually("the gap is reconciled", func() bool { return len(w.reconciled("leeds")) == 2 })
	w.idle("leeds")
	p.Suspected("leeds", gap)
	d := w.reconciled("leeds")[1]
	if d.Changed != 1 || d.Orders != 5 || d.Causes[0] != relay.CauseGap || d.Since != relay.FormatTime(since) {
		t.Errorf("told %+v", d)
	}
	if events := w.events("leeds", names[delivered]); len(events) != 2 ||
		events[1].data.Origin != relay.OriginReconciliation {
		t.Errorf("%d events of the order that was delivered", len(events))
	}
	if doc := w.document("leeds"); doc.Gaps != 1 {
		t.Errorf("document %+v", doc)
	}
	for series, want := range map[string]float64{"asked": 1, "gap": 1} {
		if got := testutil.ToFloat64(p.cfg.Metrics.runs.WithLabelValues(series)); got != want {
			t.Errorf("%v runs for %s", got, series)
		}
	}
	if got := testutil.ToFloat64(p.cfg.Metrics.read.WithLabelValues("unreadable")); got != 4 {
		t.Errorf("%v unreadable orders counted", got)
	}
	if lint, err := testutil.GatherAndLint(reg); err != nil || len(lint) > 0 {
		t.Errorf("metrics: %v %v", lint, err)
	}
}

// TestAnAnswerThatMakesNoSenseIsReadAgain: it may be of the moment. One that stays so is unreadable
// and keeps nothing else from being read.
func TestAnAnswerThatMakesNoSenseIsReadAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("leeds")
	for n := range 3 {
		w.vendor.set(orderID(n), "New")
		w.notify("leeds", orderID(n))
		w.vendor.set(orderID(n), "Confirmed")
	}
	w.vendor.failing(func(order string) error {
		if order == orderID(0) || order == orderID(1) && w.vendor.readings(order) < 3 {
			return refusal(audatex.Malformed)
		}
		return nil
	})
	p := w.start("leeds", nil)
	w.ask(p, "leeds", false)
	w.idle("leeds")
	if d := w.reconciled("leeds"); len(d) != 1 || d[0].Changed != 2 || d[0].Unreadable != 1 ||
		w.vendor.readings(orderID(0)) != readings || w.vendor.readings(orderID(1)) != 3 {
		t.Errorf("told %+v", d)
	}
}

// TestAPageInThePlaceOfEveryAnswerHoldsARun: a host that sends its maintenance page with status 200
// does not make a run skip every order. If this goes on for too long, the run ends with the result
// that nothing could be read.
func TestAPageInThePlaceOfEveryAnswerHoldsARun(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                string
		patience            time.Duration
		pages               int // until orders are given again
		changed, unreadable int
	}{
		{"for a while", time.Hour, 10 * readings, 6, 0},
		{"for too long", time.Nanosecond, 1 << 30, 0, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.connect("leeds")
			for n := range 6 {
				w.vendor.set(orderID(n), "New")
				w.notify("leeds", orderID(n))
				w.vendor.set(orderID(n), "Confirmed")
			}
			w.vendor.failing(func(string) error {
				total := 0
				for n := range 6 {
					total += w.vendor.readings(orderID(n))
				}
				if total <= 6*c.pages {
					return refusal(audatex.Malformed)
				}
				return nil
			})
			p := w.start("leeds", func(config *Config) { config.patience = c.patience })
			w.ask(p, "leeds", false)
			w.idle("leeds")
			if d := w.reconciled("leeds"); len(d) != 1 || d[0].Changed != c.changed || d[0].Unreadable != c.unreadable {
				t.Errorf("told %+v", d)
			}
		})
	}
}

// TestAGapJustAfterARunHasBegunLooksAtDeliveredOrders: a run that has listed its orders, but read
// none of them yet, lists them again.
func TestAGapJustAfterARunHasBegunLooksAtDeliveredOrders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	since := time.Now().Add(-time.Minute).UTC()
	for n := range 20 {
		id := fmt.Sprintf("site-%d", n)
		c := w.connect(id)
		orders := []string{relayOrder(id, 0), relayOrder(id, 1)}
		for _, order := range orders {
			w.vendor.set(order, "Delivered")
			w.notify(id, order)
			w.vendor.set(order, "Delivered")
		}
		w.vendor.set(orders[0], "New")
		w.notify(id, orders[0])
		p := w.start(id, nil)
		w.ask(p, id, false)
		<-time.After(time.Duration(n) * 200 * time.Microsecond)
		p.Suspected(id, relay.Poll{Generation: c.Generation, Gaps: 1, GapCause: relay.CauseGap, GapSince: &since})
		w.eventually("the gap is noted", func() bool { return w.document(id).Gaps == 1 })
		w.idle(id)
		p.stop()
		if events := w.events(id, orders[1]); len(events) != 2 {
			t.Errorf("%s: %d events of the delivered order that has changed", id, len(events))
		}
	}
}

// TestNobodyIsMissedAtNight: a replica that looks from time to time finds each connection's turn
// before the night is over.
func TestNobodyIsMissedAtNight(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 3, 1, 1, 0, 0, 0, time.UTC)
	for _, length := range []time.Duration{time.Minute, 2 * time.Minute, time.Hour, 24 * time.Hour} {
		n := Night{Length: length, Location: time.UTC}
		lastLook := began.Add(max(0, length-lookAtNight)) // there is none later than the next after it
		for i := range 10_000 {
			if turn := n.Turn(fmt.Sprint("site-", i), began); turn.Before(began) || turn.After(lastLook) {
				t.Fatalf("in a night of %s a turn comes after %s", length, turn.Sub(began))
			}
		}
	}
}

// TestAnEventInBetweenHasTheOrderReadAgain: a notification that is published while the order is
// read is not followed by the older reading.
func TestAnEventInBetweenHasTheOrderReadAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("leeds")
	w.vendor.set(orderID(0), "New")
	w.notify("leeds", orderID(0))
	w.vendor.set(orderID(0), "Confirmed")
	once := true
	w.vendor.during = func(order string) {
		if once {
			once = false
			w.vendor.set(order, "Dispatched")
			w.notify("leeds", order)
		}
	}
	p := w.start("leeds", nil)
	w.ask(p, "leeds", false)
	w.idle("leeds")
	events := w.events("leeds", orderID(0))
	if len(events) != 2 || events[1].data.Origin != relay.OriginNotification ||
		relay.StatusOf(events[1].data.Order) != "Dispatched" {
		t.Errorf("%d events, the last %+v", len(events), events[len(events)-1])
	}
	if n := w.vendor.readings(orderID(0)); n != 2 {
		t.Errorf("read %d times", n)
	}
}

// TestTroubleAtTheVendorHoldsARun, and no more than some orders are asked for meanwhile. A consent
// that ended is such trouble.
func TestTroubleAtTheVendorHoldsARun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("leeds")
	const orders = 40
	for n := range orders {
		w.vendor.set(orderID(n), "New")
		w.notify("leeds", orderID(n))
		w.vendor.set(orderID(n), "Confirmed")
	}
	asked := make(chan struct{}, 1000)
	trouble := []error{refusal(audatex.Unavailable), refusal(audatex.Throttled), &audatex.ConsentRequiredError{},
		relay.ErrNoToken, errors.New("no answer")}
	w.vendor.failing(func(string) error {
		asked <- struct{}{}
		return trouble[len(asked)%len(trouble)]
	})
	p := w.start("leeds", nil)
	w.ask(p, "leeds", false)
	for range 100 {
		<-asked
	}
	if doc := w.document("leeds"); doc.Run == nil || doc.Run.Done != 0 || doc.Run.Total != orders {
		t.Errorf("document %+v", doc)
	}
	tried := 0
	for n := range orders {
		if w.vendor.readings(orderID(n)) > 0 {
			tried++
		}
	}
	if most := failuresInRow + concurrency; tried > most {
		t.Errorf("%d orders were asked for while the vendor fails, at most %d should be", tried, most)
	}
	w.vendor.failing(nil)
	w.idle("leeds")
	if d := w.reconciled("leeds"); len(d) != 1 || d[0].Changed != orders || d[0].Orders != orders {
		t.Errorf("told %+v", d)
	}
}

// TestTheNextOwnerGoesOn: a process that is killed in the middle leaves its run to the next, which
// reads no more than a portion again.
func TestTheNextOwnerGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("leeds")
	const orders = 5 * portion
	for n := range orders {
		w.vendor.set(orderID(n), "New")
		w.notify("leeds", orderID(n))
		w.vendor.set(orderID(n), "Confirmed")
	}
	reached := make(chan struct{})
	w.vendor.failing(func(order string) error {
		if order == orderID(2*portion+5) {
			select {
			case <-reached:
			default:
				close(reached)
			}
			return refusal(audatex.Unavailable)
		}
		return nil
	})
	first := w.start("leeds", nil)
	w.ask(first, "leeds", false)
	<-reached
	first.kill()
	doc := w.document("leeds")
	if doc.Run == nil || doc.Run.Position != relay.OpenKey("leeds", "leeds", orderID(2*portion-1)) ||
		doc.Run.Done != 2*portion {
		t.Fatalf("document %+v", doc.Run)
	}
	w.vendor.failing(nil)
	w.start("leeds", nil)
	w.idle("leeds")
	for n := range orders {
		got, most := w.vendor.readings(orderID(n)), 1
		if n >= 2*portion && n < 3*portion {
			most = 1 + w.vendor.readings(orderID(2*portion+5)) // tried until it was killed, and once more
		}
		if got < 1 || got > most {
			t.Errorf("order %d was read %d times", n, got)
		}
		if len(w.events("leeds", orderID(n))) != 2 {
			t.Errorf("order %d has %d events", n, len(w.events("leeds", orderID(n))))
		}
	}
	if d := w.reconciled("leeds"); len(d) != 1 || d[0].Orders != orders || d[0].Changed != orders {
		t.Errorf("told %+v", d)
	}
}

// The documents of shards that come together are read together, and each shard gets its own.
func TestShardsThatComeTogetherAreReadTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for n := range 100 {
		id := fmt.Sprintf("c%d", n)
		if _, err := w.store.Reconciliations.Create(t.Context(), store.ReconcileKey(id),
			relay.Reconciliation{Epoch: 1}); err != nil {
			t.Fatal(err)
		}
	}
	r := New(Config{Store: w.open(store.Gate{}), Log: slog.New(slog.DiscardHandler)})
	asked := natstest.Requests(t, w.conn)
	var loading sync.WaitGroup
	var lines atomic.Int64
	for n := range relay.Shards {
		loading.Go(func() {
			s := newOwnedShard(r, shardtest.Fixed(n, 2))
			if !s.load(t.Context()) {
				t.Errorf("shard %d was not loaded", n)
			}
			for id := range s.lines {
				if relay.ShardOf(id) != n {
					t.Errorf("shard %d has %s", n, id)
				}
			}
			lines.Add(int64(len(s.lines)))
		})
	}
	loading.Wait()
	if lines.Load() != 100 {
		t.Errorf("100 connections had %d documents", lines.Load())
	}
	if n := asked("CONSUMER.CREATE."); n == 0 || n > relay.Shards/2 {
		t.Errorf("the documents were listed %d times", n)
	}
}

// TestClosedAndForgottenOrdersLeaveTheList; an entry that was written lately stays, as the event it
// is for may be on its way.
func TestClosedAndForgottenOrdersLeaveTheList(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("leeds")
	for n, status := range []string{"New", "Cancelled", "New"} {
		w.vendor.set(orderID(n), "New")
		w.notify("leeds", orderID(n))
		w.vendor.set(orderID(n), status)
		w.notify("leeds", orderID(n))
	}
	listed := func() (numbers []string) {
		all, err := w.store.Open.All(t.Context(), "leeds", func(key string, err error) { t.Error(key, err) })
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			_, _, order, _ := relay.SplitOpenKey(e.Key)
			numbers = append(numbers, order[len(order)-1:])
		}
		slices.Sort(numbers)
		return numbers
	}
	later := func(d time.Duration) *process {
		return w.start("leeds", func(c *Config) { c.now = func() time.Time { return time.Now().Add(d) } })
	}
	reconcile := func(p *process) {
		w.ask(p, "leeds", true)
		w.idle("leeds")
		p.stop()
	}
	reconcile(later(0))
	if got := listed(); !slices.Equal(got, []string{"0", "1", "2"}) {
		t.Errorf("listed at once: %v", got)
	}
	if w.vendor.readings(orderID(1)) != 0 {
		t.Error("a closed order was read")
	}
	reconcile(later(25 * time.Hour))
	if got := listed(); !slices.Equal(got, []string{"0", "2"}) {
		t.Errorf("listed on the next day: %v", got)
	}
	reads := w.vendor.readings(orderID(0))
	reconcile(later(61 * 24 * time.Hour))
	if got := listed(); len(got) != 0 || w.vendor.readings(orderID(0)) != reads {
		t.Errorf("listed after two months: %v", got)
	}
}

// TestTheListIsMadeAnewFromTheOrders where a restore has left it out.
func TestTheListIsMadeAnewFromTheOrders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("leeds")
	const orders = wholePage + 10
	for n := range orders {
		w.vendor.set(orderID(n), map[bool]string{true: "Cancelled", false: "New"}[n%10 == 0])
		w.notify("leeds", orderID(n))
		w.vendor.set(orderID(n), "Confirmed")
	}
	all, err := w.store.Open.All(t.Context(), "leeds", func(string, error) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if err := w.store.Open.Delete(t.Context(), e.Key, 0); err != nil {
			t.Fatal(err)
		}
	}
	p := w.start("leeds", nil)
	w.ask(p, "leeds", false)
	w.idle("leeds")
	if d := w.reconciled("leeds"); len(d) != 1 || d[0].Changed != orders*9/10 {
		t.Errorf("told %+v", d)
	}
	p.stop()
	// Once is enough.
	if err := w.store.Open.Delete(t.Context(), all[0].Key, 0); err != nil {
		t.Fatal(err)
	}
	p = w.start("leeds", nil)
	w.ask(p, "leeds", false)
	w.idle("leeds")
	if d := w.reconciled("leeds"); len(d) != 2 || d[1].Orders != orders*9/10-1 {
		t.Errorf("told %+v", d)
	}
}

// TestPausedAndRemovedConnections: nothing is read while a connection is paused, and nothing more
// when it has gone.
func TestPausedAndRemovedConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.connect("leeds")
	w.vendor.set(orderID(0), "New")
	w.notify("leeds", orderID(0))
	c.Paused = true
	w.connections.put(c)
	p := w.start("leeds", nil)
	w.ask(p, "leeds", false)
	if err := w.store.Connections.Delete(t.Context(), "leeds", 0); err != nil {
		t.Fatal(err)
	}
	w.connections.mu.Lock()
	delete(w.connections.all, "leeds")
	w.connections.mu.Unlock()
	w.eventually("nobody works on it", func() bool {
		running, _ := p.cfg.Metrics.underWay()
		return running == 0
	})
	if n := w.vendor.readings(orderID(0)); n != 0 {
		t.Errorf("read %d times", n)
	}
	if _, err := p.Reconcile(context.Background(), "leeds", false); !errors.Is(err, ErrNotOwned) {
		t.Errorf("reconciles a connection that is not there: %v", err)
	}
	// It is created again under the same name, with a known order.
	c.Paused, c.Generation = false, relay.NewID()
	w.connections.put(c)
	w.ask(p, "leeds", false)
	w.idle("leeds")
	if doc := w.document("leeds"); doc.Generation != c.Generation || w.vendor.readings(orderID(0)) != 1 {
		t.Errorf("document %+v", doc)
	}
}

// TestAFormerOwnerStepsBack when it finds a document of a higher epoch.
func TestAFormerOwnerStepsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("leeds")
	for n := range 2 * portion {
		w.vendor.set(orderID(n), "New")
		w.notify("leeds", orderID(n))
		w.vendor.set(orderID(n), "Confirmed")
	}
	at, woken := make(chan struct{}), make(chan struct{})
	once := make(chan struct{}, 1)
	w.vendor.during = func(order string) {
		if order == orderID(0) {
			select {
			case once <- struct{}{}:
				close(at)
				<-woken
			default:
			}
		}
	}
	former := w.start("leeds", nil)
	w.ask(former, "leeds", false)
	<-at
	w.start("leeds", nil)
	w.idle("leeds")
	close(woken)
	w.eventually("it steps back", func() bool { return slices.Contains(former.lease.Found(), w.epoch.Load()) })
	w.eventually("it does nothing more", func() bool {
		running, _ := former.cfg.Metrics.underWay()
		return running == 0
	})
	for n := range 2 * portion {
		if events := w.events("leeds", orderID(n)); len(events) != 2 {
			t.Errorf("order %d has %d events", n, len(events))
		}
	}
	if d := w.reconciled("leeds"); len(d) != 1 {
		t.Errorf("told %+v", d)
	}
}

// TestAtNight: each connection has its turn once a night.
func TestAtNight(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ids := []string{"leeds", "leeds-2", "leeds-3"}
	for n, id := range ids {
		w.connect(id)
		w.vendor.set(orderID(n), "New")
		w.notify(id, orderID(n))
	}
	w.vendor.set(orderID(1), "Confirmed")
	from := time.Now().UTC().Add(-time.Hour)
	night := Night{
		From:   time.Duration(from.Hour())*time.Hour + time.Duration(from.Minute())*time.Minute,
		Length: time.Hour + 30*time.Minute, Location: time.UTC,
	}
	// At its end all have had their turn. That a process starts again in the same night does not
	// give them another.
	for n, at := range []time.Duration{28 * time.Minute, 29 * time.Minute, 48*time.Hour + 28*time.Minute} {
		p := map[string]*process{}
		for _, id := range ids {
			p[id] = w.start(id, func(c *Config) {
				c.Night, c.now = night, func() time.Time { return time.Now().Add(at) }
			})
			w.eventually("its turn comes", func() bool { return len(w.reconciled(id)) == 1+n/2 })
			w.idle(id)
		}
		for _, p := range p {
			p.stop()
		}
	}
	for n, id := range ids {
		d := w.reconciled(id)
		if len(d) != 2 || !slices.Equal(d[0].Causes, []relay.ReconcileCause{relay.CauseNightly}) || d[0].Orders != 1 ||
			w.vendor.readings(orderID(n)) != 2 {
			t.Errorf("%s: %+v, read %d times", id, d, w.vendor.readings(orderID(n)))
		}
	}
}

// TestNoAnswerToTheLastWrite: a run that was published, but whose end was not stored, is not
// published twice.
func TestNoAnswerToTheLastWrite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("leeds")
	w.vendor.set(orderID(0), "New")
	w.notify("leeds", orderID(0))
	w.vendor.set(orderID(0), "Confirmed")
	died := make(chan struct{})
	var dead atomic.Bool
	first := w.start("leeds", func(c *Config) {
		c.Store = w.open(store.Gate{Before: func(store.Write) error {
			if dead.Load() {
				return store.ErrUnavailable
			}
			return nil
		}, After: func(wr store.Write) error {
			if wr.Subject == "relay.publish.leeds.relay.reconciled.leeds" {
				dead.Store(true)
				close(died)
			}
			return nil
		}})
		c.Publisher = w.publisherOver(c.Store)
	})
	w.ask(first, "leeds", false)
	<-died
	first.kill()
	if doc := w.document("leeds"); doc.Run == nil {
		t.Fatal("its end is stored")
	}
	w.start("leeds", nil)
	w.idle("leeds")
	if d := w.reconciled("leeds"); len(d) != 1 || d[0].Changed != 1 {
		t.Errorf("told %+v", d)
	}
	if got := fmt.Sprint(len(w.events("leeds", orderID(0)))); got != "2" {
		t.Errorf("%s events", got)
	}
}
