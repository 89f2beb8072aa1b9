package resolver_test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/resolver"
	"github.com/audatex-relay/relay/internal/store"
)

func vendorError(o audatex.Outcome) error {
	return &audatex.Error{Operation: audatex.OpOrder, Outcome: o}
}

// clock is the time plus what a test puts it forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

func TestRefusedForAnHour(t *testing.T) {
	t.Parallel()
	for _, outcome := range []audatex.Outcome{audatex.NotFound, audatex.Forbidden, audatex.Malformed} {
		t.Run(outcome.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.connect("leeds", "leeds")
			missing, fine := orderID(1), orderID(2)
			r.vendor.set(fine, "New")
			r.vendor.set(missing, "New")
			var back atomic.Bool
			r.vendor.fail = func(_, order string) error {
				if order == missing && !back.Load() {
					return vendorError(outcome)
				}
				return nil
			}
			c := r.config(r.store)
			clk, reg := &clock{}, prometheus.NewRegistry()
			c.Now, c.Metrics = clk.now, resolver.NewMetrics(reg)
			stop := r.run(c)
			first := r.page("leeds", "leeds", updated(missing), updated(fine))
			eventually(t, "the other order's event", func() bool { return len(r.events("leeds", fine)) == 1 })
			tried := r.vendor.count()
			eventually(t, "more tries", func() bool { return r.vendor.count() > tried+3 })
			clk.forward(59 * time.Minute)
			tried = r.vendor.count()
			eventually(t, "more tries", func() bool { return r.vendor.count() > tried+3 })
			if n := len(r.unresolved()); n != 0 {
				t.Fatalf("%d set aside before the hour", n)
			}
			clk.forward(2 * time.Minute)
			r.settled("leeds", first)
			stop()
			u := r.unresolved()
			if len(u) != 1 || u[0].Reason != outcome.String() || u[0].ID != fmt.Sprintf("leeds.%d-0", first) ||
				u[0].Order != missing || !strings.Contains(string(u[0].Raw), "PARTS.ORDER") {
				t.Fatalf("unresolved: %+v", u)
			}
			if n := r.operational(relay.KindOrderUnresolved); n != 1 {
				t.Errorf("%d operational events, want 1", n)
			}
			if lint, err := testutil.GatherAndLint(reg); err != nil || len(lint) > 0 {
				t.Errorf("metrics: %v %v", lint, err)
			}

			// An operator's retry resolves it once the vendor has it.
			res := resolver.New(c)
			if got, err := res.Retry(t.Context(), u[0].ID); got != relay.RetryRefused || err == nil {
				t.Errorf("retry while refused: %v, %v", got, err)
			}
			back.Store(true)
			if got, err := res.Retry(t.Context(), u[0].ID); got != relay.RetryResolved {
				t.Errorf("retry: %v, %v", got, err)
			}
			if got, _ := res.Retry(t.Context(), u[0].ID); got != relay.RetryNotFound {
				t.Errorf("second retry: %v", got)
			}
			if events := r.events("leeds", missing); len(events) != 1 || len(r.unresolved()) != 0 {
				t.Errorf("%d events, want 1", len(events))
			}
		})
	}
}

// An outage holds everything, probes the vendor instead of hammering it, and loses nothing; after ten days the waiting
// ends visibly.
func TestOutage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	var down atomic.Bool
	down.Store(true)
	r.vendor.fail = func(string, string) error {
		if down.Load() {
			return vendorError(audatex.Unavailable)
		}
		return nil
	}
	c := r.config(r.store)
	clk := &clock{}
	c.Now = clk.now
	c.Schedule = []time.Duration{20 * time.Millisecond}
	stop := r.run(c)
	const orders, each = 20, 12
	var last uint64
	for range each {
		var page []string
		for o := range orders {
			r.vendor.set(orderID(o), "New")
			page = append(page, updated(orderID(o)))
		}
		last = r.page("leeds", "leeds", page...)
	}
	eventually(t, "an open circuit", func() bool {
		d, _, err := r.store.Cursors.Get(t.Context(), store.InboxCursors.Key("leeds"))
		return err == nil && d.Health.Open
	})
	stop() // and a restart in the middle of it
	before := r.vendor.count()
	r.run(c)
	eventually(t, "probes", func() bool { return r.vendor.count() >= before+5 })
	clk.forward(9 * 24 * time.Hour)
	before = r.vendor.count()
	eventually(t, "probes", func() bool { return r.vendor.count() >= before+5 })
	if n := len(r.unresolved()); n != 0 {
		t.Fatalf("%d set aside in an outage of nine days", n)
	}
	down.Store(false)
	r.settled("leeds", last)
	for o := range orders {
		events := r.events("leeds", orderID(o))
		if len(events) != each {
			t.Errorf("order %d: %d events, want %d", o, len(events), each)
		}
		for i := 1; i < len(events); i++ {
			if events[i].Inbox.Seq <= events[i-1].Inbox.Seq {
				t.Errorf("order %d: page %d after %d", o, events[i].Inbox.Seq, events[i-1].Inbox.Seq)
			}
		}
	}

	down.Store(true)
	held := r.page("leeds", "leeds", updated(orderID(1)))
	clk.forward(11 * 24 * time.Hour)
	r.settled("leeds", held)
	if u := r.unresolved(); len(u) != 1 || u[0].Reason != "held-too-long" {
		t.Errorf("unresolved after ten days: %+v", u)
	}
}

// An outage of the vendor's is not made much longer by our waits.
func TestWaitsForTheVendorGrowWithItsOutage(t *testing.T) {
	t.Parallel()
	away := time.Duration(0)
	for i, wait := range resolver.DefaultSchedule {
		if wait > 5*time.Minute || i > 0 && wait > 2*away {
			t.Errorf("wait %d is %s, after %s without an answer", i+1, wait, away)
		}
		away += wait
	}
	stated := []time.Duration{5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute,
		2 * time.Minute, 5 * time.Minute}
	if !slices.Equal(resolver.DefaultSchedule, stated) {
		t.Errorf("%v, and docs/guarantees.md says %v", resolver.DefaultSchedule, stated)
	}
}

// A store that takes no writes stops everything and loses nothing.
func TestStoreTrouble(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	var down atomic.Bool
	var refused atomic.Int32
	s := r.open(store.Gate{Before: func(store.Write) error {
		if down.Load() {
			refused.Add(1)
			return store.ErrUnavailable
		}
		return nil
	}})
	down.Store(true)
	r.run(r.config(s))
	var last uint64
	for o := range 5 {
		r.vendor.set(orderID(o), "New")
		last = r.page("leeds", "leeds", created(orderID(o)), `{}`)
	}
	eventually(t, "refused writes", func() bool { return refused.Load() > 8 })
	if n := r.vendor.count(); n > 60 {
		t.Errorf("%d readings while nothing could be stored", n)
	}
	down.Store(false)
	r.settled("leeds", last)
	for o := range 5 {
		if n := len(r.events("leeds", orderID(o))); n != 1 {
			t.Errorf("order %d: %d events, want 1", o, n)
		}
	}
	if docs := r.unresolved(); len(docs) != 1 || docs[0].Count != 5 {
		t.Errorf("unresolved %+v, want one that came 5 times", docs)
	}
}

// A consent that has ended, or a client the token endpoint refuses, shows nothing about an order: it is held past the
// hour.
func TestConsentHolds(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"consent": &audatex.ConsentRequiredError{Connection: "leeds"},
		"client":  &audatex.Error{Operation: audatex.OpToken, Outcome: audatex.Forbidden},
		"throttled": &audatex.Error{Operation: audatex.OpOrder, Outcome: audatex.Throttled,
			RetryAfter: 20 * time.Millisecond}, "unknown": errors.New("network"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.connect("leeds", "leeds")
			r.vendor.set(orderID(1), "New")
			var ended atomic.Bool
			ended.Store(true)
			r.vendor.fail = func(string, string) error {
				if ended.Load() {
					return err
				}
				return nil
			}
			c := r.config(r.store)
			clk := &clock{}
			c.Now = clk.now
			r.run(c)
			seq := r.page("leeds", "leeds", created(orderID(1)))
			eventually(t, "tries", func() bool { return r.vendor.count() > 3 })
			clk.forward(3 * time.Hour)
			before := r.vendor.count()
			eventually(t, "tries", func() bool { return r.vendor.count() > before+3 })
			if u := r.unresolved(); len(u) != 0 {
				t.Fatalf("set aside: %+v", u)
			}
			ended.Store(false)
			r.settled("leeds", seq)
			if n := len(r.events("leeds", orderID(1))); n != 1 {
				t.Errorf("%d events, want 1", n)
			}
		})
	}
}

// The store's trouble has a line of its own: orders that wait for it add none. Those that wait for the vendor do.
func TestOrdersHeldByTheStoresTroubleAreNotToldOneByOne(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"store":  {fmt.Errorf("token of connection leeds: %w", store.ErrUnavailable), "DEBUG"},
		"vendor": {errors.New("network"), "WARN"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.connect("leeds", "leeds")
			r.vendor.fail = func(string, string) error { return c.err }
			config, told := r.config(r.store), make(chan string, 100)
			config.Log = slog.New(slog.NewTextHandler(lines(told), &slog.HandlerOptions{Level: slog.LevelDebug}))
			r.run(config)
			r.page("leeds", "leeds", created(orderID(1)))
			eventually(t, "the order is held", func() bool {
				select {
				case line := <-told:
					if !strings.Contains(line, "order cannot be read yet") {
						return false
					}
					if !strings.Contains(line, "level="+c.want) {
						t.Errorf("want level %s: %s", c.want, line)
					}
					return true
				default:
					return false
				}
			})
		})
	}
}

// lines is a log: each line is handed on, as long as there is room.
type lines chan<- string

func (l lines) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default:
	}
	return len(b), nil
}
