package dispatcher

import (
	"context"
	"log/slog"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// disablement must be stored: a callback is disabled. It is published once the owner finds it in the configuration.
type disablement struct {
	cb      *callback
	why     relay.Disabled
	resumed int // how often the callback had been resumed when this was decided
}

// beginDisabling disables a callback until an operator resumes it. Nothing is sent to it from now on.
func (c *core) beginDisabling(cb *callback, why, detail string) {
	if cb.phase != live || cb.target.Callback.Disabled != nil {
		return
	}
	cb.phase, cb.endedAt = disabling, cb.target.Callback.Resumed
	cb.reading.atHand.DropAll()
	cb.reading.page, cb.reading.pageThrough = nil, 0
	cb.log.Warn("the callback is disabled", "reason", why, "detail", detail)
	c.underWay++
	c.out.disables = append(c.out.disables, disablement{cb, relay.Disabled{Reason: why, At: c.now.UTC()}, cb.endedAt})
}

// storeDisabling stores that a callback is disabled, unless it was deleted, made again or resumed meanwhile. It returns
// false if it must be called again. If this is not stored when the shard is given up, the next owner decides the same.
func (l *loop) storeDisabling(ctx context.Context, what *disablement) bool {
	if !l.lease.Valid() {
		return l.run.Err() != nil
	}
	_, err := l.d.conf.Deliverer.Targets.Disable(ctx, what.cb.id, what.cb.gen, what.resumed, what.why)
	if err != nil {
		what.cb.log.Log(ctx, store.Level(err, slog.LevelWarn), "that the callback is disabled could not be stored", "error", err)
	}
	return err == nil
}
