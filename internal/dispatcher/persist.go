package dispatcher

import (
	"context"
	"log/slog"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// persist calls try until it succeeds or, once the shard must be given up, has failed a few times more. It is for
// publishing an operational event, which is left to the next owner then, and for disabling a callback (ev is nil).
func (l *loop) persist(ev *operationalEvent, try func(ctx context.Context) bool) {
	l.goroutines.Go(func() {
		defer l.send(done{published: ev})
		backoff.Persist(l.run, l.life, try)
	})
}

// publish publishes an operational event, and reports whether it is stored.
func (d *Dispatcher) publish(ctx context.Context, ev *operationalEvent) bool {
	err := d.conf.Operational.Operational(ctx, relay.NoSite, ev.kind, ev.cb.id, ev.message, ev.details)
	if err != nil {
		ev.cb.log.Log(ctx, store.Level(err, slog.LevelWarn), "an operational event could not be published",
			"kind", ev.kind, "error", err)
	}
	ev.stored = err == nil
	return ev.stored
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
