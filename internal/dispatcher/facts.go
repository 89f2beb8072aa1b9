package dispatcher

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Operational publishes an operational event. Id names what it is about: a callback's id, here.
type Operational interface {
	Operational(ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any) error
}

// Deliveries of a callback that aged out are published at most once a minute, in one event.
const (
	expiredSettle = time.Second
	expiredEvery  = time.Minute
)

// fact is an operational event about a callback, to be published.
type fact struct {
	cb      *callback
	kind    relay.Kind
	message string
	details map[string]any
}

// expiry gathers what aged out until it is published.
type expiry struct {
	entries       int
	positions     uint64
	from, through uint64
	publishAt     time.Time // zero: nothing waits to be published
	published     time.Time // when something was last
}

func (x *expiry) waiting() bool { return !x.publishAt.IsZero() }

func (x *expiry) cover(from, through uint64) {
	if x.from == 0 || from < x.from {
		x.from = from
	}
	x.through = max(x.through, through)
}

// publish has a fact published.
func (c *core) publish(cb *callback, kind relay.Kind, message string, details map[string]any) {
	c.out.facts = append(c.out.facts, c.fact(cb, kind, message, details))
	c.underWay++
}

func (c *core) fact(cb *callback, kind relay.Kind, message string, details map[string]any) fact {
	of := &cb.target.Callback
	details["callback"], details["client"], details["clientGeneration"] = cb.id, of.Client, of.ClientGeneration
	return fact{cb, kind, message, details}
}

// recovered publishes that a receiver works again after its circuit was open.
func (c *core) recovered(cb *callback) {
	waiting := cb.cur.Unsettled()
	cb.log.Info("the receiver answers again", "waiting", waiting)
	c.publish(cb, relay.KindCallbackRecovered, fmt.Sprintf("The receiver of callback %s answers again; what waited is being delivered.", cb.id),
		map[string]any{"waiting": waiting, "at": c.now.UTC().Format(time.RFC3339)})
}

// expireBelow settles what can no longer be read because the log now begins at first.
func (c *core) expireBelow(cb *callback, first uint64) {
	ex := cb.cur.ExpireBelow(first)
	c.expire(cb, ex.Entries, ex.Stretches)
	for _, e := range ex.Entries {
		c.drop(cb, e.Seq)
	}
}

// expire records deliveries that ended because their event left the log, and has it published soon.
func (c *core) expire(cb *callback, entries []cursor.Entry, stretches []cursor.Stretch) {
	if len(entries) == 0 && len(stretches) == 0 {
		return
	}
	x := &cb.expired
	for _, e := range entries {
		record := relay.AttemptRecord{
			Seq: e.Seq, Order: e.Order, At: c.now.UTC(), Closing: relay.DeliveryExpired, Reason: "the event left the log before it could be delivered",
		}
		if ev := cb.reading.atHand[e.Seq]; ev != nil { // what is not at hand any more is known by its position only
			record = ev.Recorded(record)
		}
		c.record(cb, record)
		x.cover(e.Seq, e.Seq)
	}
	for _, s := range stretches {
		x.positions += s.To - s.From + 1
		x.cover(s.From, s.To)
	}
	x.entries += len(entries)
	c.metrics.Ended(relay.DeliveryExpired, len(entries))
	if !x.waiting() {
		x.publishAt = later(c.now.Add(expiredSettle), x.published.Add(expiredEvery))
	}
	if c.ending.begun {
		c.publishExpired(cb)
	}
}

func (c *core) publishExpired(cb *callback) {
	x := cb.expired
	cb.expired = expiry{published: c.now}
	cb.log.Warn("events left the log before they could be delivered", "deliveries", x.entries, "unread_positions", x.positions, "from", x.from, "through", x.through)
	c.publish(cb, relay.KindDeliveriesExpired,
		fmt.Sprintf("Events for callback %s left the log before they could be delivered. They are lost to it; read the orders anew if they matter.", cb.id),
		map[string]any{"deliveries": x.entries, "unreadPositions": x.positions, "from": x.from, "through": x.through})
}

// publish publishes a fact; it reports whether it is stored.
func (d *Dispatcher) publish(ctx context.Context, f fact) bool {
	if err := d.conf.Operational.Operational(ctx, relay.NoSite, f.kind, f.cb.id, f.message, f.details); err != nil {
		f.cb.log.Log(ctx, store.Level(err, slog.LevelWarn), "an operational event could not be published", "kind", f.kind, "error", err)
		return false
	}
	return true
}
