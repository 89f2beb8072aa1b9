package quota

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/signal"
	"github.com/audatex-relay/relay/internal/store"
)

// throttleAgain is the wait before what could not be stored is tried again.
const throttleAgain = time.Second

// Throttles keeps what the vendor asks by its 429s: the other replicas learn of it, and those that
// start later, this one after a crash among them, find it in the store.
type Throttles struct {
	store *store.Store
	share func(relay.Throttle)
	log   *slog.Logger
	wake  signal.Signal

	mu   sync.Mutex
	last relay.Throttle
}

// NewThrottles returns Throttles that share with the other replicas what is asked of this one.
func NewThrottles(s *store.Store, share func(relay.Throttle), log *slog.Logger) *Throttles {
	return &Throttles{store: s, share: share, log: log, wake: signal.New()}
}

// Heed makes a budget keep what was asked before this start, and keeps what is asked from now on.
func (t *Throttles) Heed(ctx context.Context, budget *audatex.Budget) {
	defer budget.OnThrottled(t.asked)
	asked, err := t.store.Throttle(ctx)
	if err != nil {
		t.log.WarnContext(ctx, "what the vendor asked before this start is not known", "error", err)
		return
	}
	budget.Heed(asked)
	if left := time.Until(asked.Until); left > 0 {
		t.log.InfoContext(ctx, "the vendor has asked for silence before this start; it is kept", "until", asked.Until, "left", left.Round(time.Second).String())
	}
}

// asked takes in what the vendor asks now. It returns at once.
func (t *Throttles) asked(asked relay.Throttle) {
	t.share(asked)
	t.mu.Lock()
	t.last = asked
	t.mu.Unlock()
	t.wake.Set()
}

// Run stores what is asked until ctx ends.
func (t *Throttles) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.wake:
		}
		t.mu.Lock()
		asked := t.last
		t.mu.Unlock()
		if err := t.store.KeepThrottle(ctx, asked); err != nil && ctx.Err() == nil {
			t.log.Log(ctx, store.Level(err, slog.LevelWarn), "what the vendor asks could not be stored; it is tried again", "error", err)
			time.AfterFunc(throttleAgain, t.wake.Set)
		}
	}
}
