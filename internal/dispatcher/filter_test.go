package dispatcher

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/logreader"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// oneCallback is a core with one callback, its slots and a feed.
type oneCallback struct {
	core  *core
	feed  *logreader.Shared
	of    relay.Callback
	cb    *callback
	got   []uint64 // what it was sent, or would be
	comes []read   // what must be caught up together
	pages []read   // what must be read from the log
}

func newOneCallback(sites ...string) *oneCallback {
	conf := Config{Log: slog.New(slog.DiscardHandler)}.withDefaults()
	slots := capacity.NewSlots(8)
	w := &oneCallback{
		core: newCore(&environment{
			conf: &conf, metrics: delivery.NewMetrics(nil), memory: capacity.NewMemory(1 << 20), slots: slots,
			pacer: &cursorstore.Pacer{}, maxBatch: 1 << 20,
		}),
		feed: logreader.NewShared(100, 1<<20, func(int) {}),
		of: relay.Callback{ID: "bms", Client: "shop", Generation: "g", Concurrency: 8, TimeoutSeconds: 5,
			Mode: relay.ModeEvery, Filter: relay.Filter{Sites: sites}},
	}
	w.cb = &callback{id: "bms", gen: "g", log: conf.Log, target: w.target(1), cur: cursor.New(conf.policyOf(w.of))}
	w.cb.sending.allowance = slots.Join("shop", "", func() {})
	return w
}

func (w *oneCallback) target(revision uint64) *delivery.Target {
	t := delivery.NewTarget(w.of, relay.Client{ID: "shop", AllSites: true})
	t.Revisions[0] = revision
	return t
}

func (w *oneCallback) do(m message) {
	for next := []message{m}; len(next) > 0; next = next[1:] {
		e := w.core.step(next[0], time.Now(), true)
		w.feed.Want(0, e.interest)
		for _, j := range e.begin {
			w.got = append(w.got, j.batch.Seqs...)
		}
		for _, r := range e.ring {
			next = append(next, &ringPage{r, w.feed.Join(0, r.target.Sites(), r.pos, capacity.PageEvents)})
		}
		w.comes, w.pages = append(w.comes, e.catchUp...), append(w.pages, e.pages...)
	}
}

func (w *oneCallback) read(seq uint64, site string) {
	w.feed.Add(delivery.Event{Stored: store.Stored{Seq: seq, Site: site, Order: fmt.Sprint(seq),
		Type: relay.TypeOrderUpdated, Body: []byte("{}")}})
}

func (w *oneCallback) offer() {
	events, through, _ := w.feed.Take(0, nil, 100)
	w.do(&newEvents{&w.core.shared, events, through})
}

// What the shared reader has read of a site before the shard wanted it, and after what the callback has been offered,
// arrives all the same.
func TestAWiderFilterMissesNothingThatHasBeenRead(t *testing.T) {
	t.Parallel()
	w := newOneCallback("leeds")
	w.do(&adopted{callbacks: []*callback{w.cb}, first: 1})
	w.read(1, "leeds")
	w.offer()
	w.read(2, "york")
	w.read(3, "leeds")
	w.of.Filter.Sites = []string{"leeds", "york"}
	w.do(configured{"bms", w.target(2)})
	w.read(4, "york")
	w.offer()
	if fmt.Sprint(w.got) != "[1 2 3 4]" {
		t.Errorf("got %v", w.got)
	}
}

// A callback that is changed while it waits to catch up with others reads by itself, as what they will be offered was
// chosen before.
func TestAChangeWhileWaitingToCatchUp(t *testing.T) {
	t.Parallel()
	w := newOneCallback("leeds")
	w.feed.Start(50)
	w.do(&adopted{callbacks: []*callback{w.cb}, first: 1})
	if len(w.comes) != 1 {
		t.Fatalf("%d callbacks are to catch up together", len(w.comes))
	}
	w.of.Filter.Sites = []string{"leeds", "york"}
	w.do(configured{"bms", w.target(2)})
	w.do(&catchUpBegins{members: w.comes})
	if len(w.pages) != 1 || w.pages[0].target != w.cb.target {
		t.Errorf("it reads %+v", w.pages)
	}
}

// A callback that is being retired is left alone when it is granted a slot that it waited for: another goroutine gives
// back what it has.
func TestASlotForARetiredCallback(t *testing.T) {
	t.Parallel()
	w := newOneCallback("leeds")
	w.do(&adopted{callbacks: []*callback{w.cb}, first: 1})
	w.cb.sending.test.Begin(time.Now(), w.cb.sending.allowance, time.Minute)
	w.cb.cancel = func() {}
	w.do(configured{"bms", nil})
	w.do(slotGranted{w.cb})
	if !w.cb.wakeAt.IsZero() {
		t.Error("it was looked at again")
	}
}

// What leaves the log unread is counted as far as is known: at least one of each stretch; one that goes on is the same.
func TestWhatLeavesTheLogUnreadIsCounted(t *testing.T) {
	t.Parallel()
	w, reg := newOneCallback("leeds"), prometheus.NewRegistry()
	w.core.metrics = delivery.NewMetrics(reg)
	w.of.Paused = true
	w.cb.target = w.target(1)
	w.do(&adopted{callbacks: []*callback{w.cb}, first: 1})
	for seq := range uint64(30) {
		w.read(seq+1, "leeds")
	}
	w.offer()
	for _, tc := range []struct {
		first   uint64
		density uint64 // in tenths
		want    int
	}{{1, 0, 0}, {8, 0, 1}, {10, 0, 1}, {11, 5, 5}, {21, 5, 10}} {
		if tc.density > 0 {
			w.cb.reading.estimate.Passed(10, tc.density)
		}
		w.do(logBegins{tc.first})
		counted, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(counted, func(f *dto.MetricFamily) bool {
			return f.GetName() == "audatex_relay_expired_unread_total"
		})
		if n := w.cb.cur.Carried().Notices.EverExpired; n != tc.want ||
			counted[i].GetMetric()[0].GetCounter().GetValue() != float64(tc.want) {
			t.Errorf("the log begins at %d: %d have expired, the metric counts %v, want %d",
				tc.first, n, counted[i], tc.want)
		}
	}
	if s, _ := w.core.status(w.cb); s.Backlog != 5 {
		t.Errorf("%d of 10 wait", s.Backlog)
	}
}
