package reconciler

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
)

// TestEveryChangeIsPublishedOnce lets orders change, notifications arrive, gaps be suspected,
// owners be killed, stopped and replaced while they still run, and the vendor fail, in random
// order. In the end every run has ended and the last event of every order has the vendor's state.
// Only notifications have events without a change, and no closed order is ever read.
func TestEveryChangeIsPublishedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var worlds atomic.Int64
	rapid.Check(t, func(rt *rapid.T) {
		s := &story{world: w, rt: rt, id: fmt.Sprintf("site-%d", worlds.Add(1)), notified: map[string]int{},
			closed: map[string]bool{}, ended: map[string]bool{}}
		s.begin()
		for range rapid.IntRange(3, 25).Draw(rt, "actions") {
			s.act(rapid.SampledFrom([]string{
				"change", "change", "change", "notify", "notify", "gap", "ask", "fail", "heal", "kill", "stop",
				"succeed", "wait",
			}).Draw(rt, "action"))
		}
		s.end()
	})
}

// story is what happens to one connection.
type story struct {
	*world
	rt       *rapid.T
	id       string
	conn     relay.Connection
	orders   []string
	notified map[string]int  // events that notifications have made, by order
	closed   map[string]bool // from the beginning
	ended    map[string]bool // closed by now: it does not change any more
	owner    *process
	former   []*process // still at work
	gap      relay.Poll // the poller's document
}

func (s *story) begin() {
	s.conn = s.connect(s.id)
	s.vendor.failing(nil)
	for n := range rapid.IntRange(1, 3*portion).Draw(s.rt, "orders") {
		order := relayOrder(s.id, n)
		s.orders = append(s.orders, order)
		status := rapid.SampledFrom([]string{"New", "Confirmed", "Delivered", "Cancelled", "New"}).Draw(s.rt, "status")
		s.vendor.set(order, status)
		s.tell(order)
		s.closed[order], s.ended[order] = relay.IsClosed(status), relay.IsClosed(status)
	}
	s.succeed()
}

func relayOrder(id string, n int) string { return fmt.Sprintf("%s-%03d", id, n) }

func (s *story) tell(order string) {
	s.notify(s.id, order)
	s.notified[order]++
}

// succeed makes another process own the shard. The stored gaps are reported to it, as a poller does
// that takes over the connection.
func (s *story) succeed() {
	s.owner = s.start(s.id, nil)
	if s.gap.Gaps > 0 {
		s.owner.Suspected(s.id, s.gap)
	}
}

func (s *story) act(action string) {
	order := rapid.SampledFrom(s.orders).Draw(s.rt, "order")
	switch action {
	case "change", "notify":
		if s.ended[order] {
			return
		}
		status := rapid.SampledFrom([]string{"Confirmed", "Dispatched", "Delivered", "ReturnRequested", "Cancelled",
			"Odd"}).Draw(s.rt, "status")
		s.vendor.set(order, status)
		s.ended[order] = relay.IsClosed(status)
		if action == "notify" {
			s.tell(order)
		}
	case "gap":
		now := time.Now().UTC()
		s.gap = relay.Poll{Generation: s.conn.Generation, Gaps: s.gap.Gaps + 1,
			GapCause: relay.CauseGap, GapSince: &now}
		s.owner.Suspected(s.id, s.gap)
	case "ask":
		if _, err := s.owner.Reconcile(s.t.Context(), s.id, rapid.Bool().Draw(s.rt, "delivered")); err != nil &&
			!errors.Is(err, ErrNotOwned) {
			s.rt.Fatal(err)
		}
	case "fail":
		share := rapid.SampledFrom([]float64{0.3, 0.3, 1}).Draw(s.rt, "share")
		s.vendor.failing(func(string) error {
			if rand.Float64() < share {
				return refusal(audatex.Unavailable)
			}
			return nil
		})
	case "heal":
		s.vendor.failing(nil)
	case "kill":
		s.owner.kill()
		s.succeed()
	case "stop":
		s.owner.stop()
		s.succeed()
	case "succeed":
		s.former = append(s.former, s.owner)
		s.succeed()
	case "wait":
		<-time.After(time.Duration(rapid.IntRange(1, 5).Draw(s.rt, "milliseconds")) * time.Millisecond)
	}
}

func (s *story) end() {
	s.vendor.failing(nil)
	s.act("gap")
	s.eventually("every run ends", func() bool {
		doc := s.document(s.id)
		return doc.Gaps == s.gap.Gaps && doc.Run == nil && doc.Next == nil
	})
	for _, p := range append(s.former, s.owner) {
		p.stop()
	}
	for n, order := range s.orders {
		if s.closed[order] && s.vendor.readings(order) > 0 {
			s.rt.Errorf("order %d was closed from the beginning, and was read", n)
		}
		s.check(order)
	}
}

// check looks at the events of one order.
func (s *story) check(order string) {
	events := s.events(s.id, order)
	told := 0
	for i, e := range events {
		if e.data.Revision != i+1 {
			s.rt.Errorf("order %s: event %d has revision %d", order, i, e.data.Revision)
		}
		if i > 0 && e.Sequence <= events[i-1].Sequence {
			s.rt.Errorf("order %s: sequence %s after %s", order, e.Sequence, events[i-1].Sequence)
		}
		switch {
		case e.data.Origin == relay.OriginNotification:
			told++
		case len(e.data.Changes) == 0:
			s.rt.Errorf("order %s: event %d was reconciled and has no change", order, i)
		}
		if i > 0 && number(e) < number(events[i-1]) {
			s.rt.Errorf("order %s: event %d is older than the one before", order, i)
		}
	}
	if told != s.notified[order] {
		s.rt.Errorf("order %s: %d events of %d notifications", order, told, s.notified[order])
	}
	if last, want := string(events[len(events)-1].data.Order), string(s.vendor.get(order)); last != want {
		s.rt.Errorf("order %s: the last event says\n%s\nthe vendor\n%s", order, last, want)
	}
}

// number is which of its states an event's order was in.
func number(e event) int {
	var order struct{ Number int }
	if json.Unmarshal(e.data.Order, &order) != nil {
		return -1
	}
	return order.Number
}
