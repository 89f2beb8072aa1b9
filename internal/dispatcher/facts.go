package dispatcher

import (
	"context"
	"errors"
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

// How facts are told: aged-out deliveries of a callback at most once a minute, in one event.
const (
	expiredSettle = time.Second
	expiredEvery  = time.Minute
	factRetry     = 2 * time.Second
)

// expiry gathers what aged out until it is told.
type expiry struct {
	entries       int
	positions     uint64
	from, through uint64
	waiting       bool
}

// chore runs something beside the attempts that must not be lost: until it answers true, or the shard is given up.
func (t *tenure) chore(try func(ctx context.Context) bool) {
	t.chores.Go(func() {
		for !try(t.life) {
			if t.run.Err() != nil { // one try more would only hold up the hand-over; what it was about shows again at the next owner
				return
			}
			wait(t.run, factRetry)
		}
	})
}

// tell publishes a fact; it answers whether it is stored.
func (c *callback) tell(ctx context.Context, kind relay.Kind, message string, details map[string]any) bool {
	c.mu.Lock()
	of := c.target.callback
	details["callback"], details["client"], details["clientGeneration"] = c.id, of.Client, of.ClientGeneration
	c.mu.Unlock()
	if err := c.d.conf.Operational.Operational(ctx, relay.NoSite, kind, c.id, message, details); err != nil {
		c.log.Log(ctx, store.Level(err, slog.LevelWarn), "an operational event could not be published", "kind", kind, "error", err)
		return false
	}
	return true
}

// disable ends the callback until an operator resumes it. Nothing is taken from now on; that it is disabled is stored, and told.
// mu is held.
func (c *callback) disable(why, detail string, now time.Time) {
	if c.ending || c.target.callback.Disabled != nil {
		return
	}
	c.ending, c.endedAt = true, c.target.callback.Resumed
	c.dropHeld(func(*event) bool { return true })
	c.page, c.pageThrough = nil, 0
	resumed, stored := c.endedAt, false
	c.log.Warn("the callback is disabled", "reason", why, "detail", detail)
	c.t.chore(func(ctx context.Context) bool {
		if !c.t.lease.Valid() {
			return false
		}
		if !stored {
			switch done, err := c.storeDisabled(ctx, why, resumed, now); {
			case err != nil:
				c.log.Log(ctx, store.Level(err, slog.LevelWarn), "that the callback is disabled could not be stored", "error", err)
				return false
			case !done:
				return true // deleted, made anew or resumed meanwhile
			}
			stored = true
		}
		return c.tell(ctx, relay.KindCallbackDisabled, fmt.Sprintf("Callback %s is disabled: %s. Nothing is lost: resume it to go on.", c.id, detail),
			map[string]any{"reason": why})
	})
}

func (c *callback) storeDisabled(ctx context.Context, why string, resumed int, at time.Time) (bool, error) {
	bucket := c.d.conf.Store.Callbacks
	cb, rev, err := bucket.Get(ctx, c.id)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if cb.Generation != c.gen || cb.Resumed > resumed {
		return false, nil
	}
	if cb.Disabled != nil { // our own write, answered unclearly
		return true, nil
	}
	cb.Disabled, cb.UpdatedAt = &relay.Disabled{Reason: why, At: at.UTC()}, at.UTC()
	_, err = bucket.Update(ctx, c.id, cb, rev)
	return err == nil, err
}

// recovered tells that a receiver answers again after its circuit was open. mu is held.
func (c *callback) recovered(now time.Time) {
	waiting := c.cur.Unsettled()
	c.log.Info("the receiver answers again", "waiting", waiting)
	c.t.chore(func(ctx context.Context) bool {
		return c.tell(ctx, relay.KindCallbackRecovered, fmt.Sprintf("The receiver of callback %s answers again; what waited is being delivered.", c.id),
			map[string]any{"waiting": waiting, "at": now.UTC().Format(time.RFC3339)})
	})
}

// expireBelow settles what can no longer be read because the log now begins at first. mu is held.
func (c *callback) expireBelow(first uint64, now time.Time) {
	ex := c.cur.ExpireBelow(first)
	c.expire(ex.Entries, ex.Stretches, now)
	for _, e := range ex.Entries {
		c.dropSeq(e.Seq)
	}
}

// expire records deliveries that ended because their event left the log, and tells of them soon. mu is held.
func (c *callback) expire(entries []cursor.Entry, stretches []cursor.Stretch, now time.Time) {
	if len(entries) == 0 && len(stretches) == 0 {
		return
	}
	x := &c.expired
	cover := func(from, through uint64) {
		if x.from == 0 || from < x.from {
			x.from = from
		}
		x.through = max(x.through, through)
	}
	for _, e := range entries {
		id := "" // what is not at hand any more is known by its position only
		if ev := c.held[e.Seq]; ev != nil {
			id = ev.id
		}
		c.records = append(c.records, relay.AttemptRecord{
			Event: id, Seq: e.Seq, Order: e.Order, At: now.UTC(), Closing: relay.DeliveryExpired, Reason: "the event left the log before it could be delivered",
		})
		cover(e.Seq, e.Seq)
	}
	for _, s := range stretches {
		x.positions += s.To - s.From + 1
		cover(s.From, s.To)
	}
	x.entries += len(entries)
	c.d.metrics.delivery(relay.DeliveryExpired, len(entries))
	if x.waiting {
		return
	}
	x.waiting = true
	delay := max(expiredSettle, c.announced.Add(expiredEvery).Sub(now))
	c.t.chores.Go(func() {
		wait(c.t.run, delay)
		c.mu.Lock()
		x := c.expired
		c.expired, c.announced = expiry{}, time.Now()
		c.mu.Unlock()
		c.log.Warn("events left the log before they could be delivered", "deliveries", x.entries, "unread_positions", x.positions, "from", x.from, "through", x.through)
		c.t.chore(func(ctx context.Context) bool {
			return c.tell(ctx, relay.KindDeliveriesExpired,
				fmt.Sprintf("Events for callback %s left the log before they could be delivered. They are lost to it; read the orders anew if they matter.", c.id),
				map[string]any{"deliveries": x.entries, "unreadPositions": x.positions, "from": x.from, "through": x.through})
		})
	})
}
