package dispatcher

import (
	"context"
	"log/slog"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// disablement is that a callback ends until an operator resumes it: it must be stored. Its owner then publishes it.
type disablement struct {
	cb      *callback
	why     relay.Disabled
	resumed int // how often it had been resumed
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
	c.out.disables = append(c.out.disables, disablement{cb, relay.Disabled{Reason: why, At: c.now.UTC()}, cb.endedAt})
}

// storeDisabling stores that a callback is disabled, unless it was deleted, made again or resumed meanwhile; false: it
// must be tried again. What is not stored when the shard is given up is left to the next owner, who finds the same.
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
