package dispatcher

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// disablement is that a callback ends until an operator resumes it: it must be stored, and then published.
type disablement struct {
	cb      *callback
	why     string
	at      time.Time
	resumed int // how often it had been resumed
	fact    fact
}

// beginDisabling ends a callback until an operator resumes it. Nothing is taken from now on.
func (c *core) beginDisabling(cb *callback, why, detail string) {
	if cb.phase != live || cb.target.Callback.Disabled != nil {
		return
	}
	cb.phase, cb.endedAt = disabling, cb.target.Callback.Resumed
	cb.reading.atHand.DropAll()
	cb.reading.page, cb.reading.pageThrough = nil, 0
	cb.log.Warn("the callback is disabled", "reason", why, "detail", detail)
	c.underWay++
	c.out.disables = append(c.out.disables, disablement{cb: cb, why: why, at: c.now, resumed: cb.endedAt, fact: c.fact(cb, relay.KindCallbackDisabled,
		fmt.Sprintf("Callback %s is disabled: %s. Nothing is lost: resume it to go on.", cb.id, detail), map[string]any{"reason": why})})
}

// storeDisabling stores that a callback is disabled and publishes it; false: it has to be tried again. What is not stored when
// the shard must be given up is left to the next owner, who will find the same.
func (l *loop) storeDisabling(ctx context.Context, what *disablement, stored *bool) bool {
	if !*stored {
		if !l.lease.Valid() {
			return l.run.Err() != nil
		}
		switch done, err := l.d.conf.Deliverer.Targets.Disable(ctx, what.cb.id, what.cb.gen, what.resumed, relay.Disabled{Reason: what.why, At: what.at.UTC()}); {
		case err != nil:
			what.cb.log.Log(ctx, store.Level(err, slog.LevelWarn), "that the callback is disabled could not be stored", "error", err)
			return false
		case !done:
			return true // deleted, made again or resumed meanwhile
		}
		*stored = true
	}
	return l.d.publish(ctx, &what.fact)
}
