package publisher

import (
	"context"
	"hash/maphash"
)

// turns lets the operational events of one thing be numbered and published one after another. The
// poller, the resolver and the reconciler publish events about the same connection, each when it
// needs to. Without turns, the one with the lower sequence could enter the log second, and a
// receiver that keeps the highest sequence would drop it.
type turns struct {
	seed maphash.Seed
	of   [64]chan *turn // a thing has one of them by its hash; it holds its turn while nobody has that
}

// turn is the right to publish. It knows the last sequence that was given under it.
type turn struct {
	last uint64
	back chan *turn
}

func newTurns() turns {
	t := turns{seed: maphash.MakeSeed()}
	for i := range t.of {
		t.of[i] = make(chan *turn, 1)
		t.of[i] <- &turn{back: t.of[i]}
	}
	return t
}

// wait returns the turn of a thing at a site when nobody else has it, or the context's error.
func (t *turns) wait(ctx context.Context, site, id string) (*turn, error) {
	select {
	case next := <-t.of[maphash.String(t.seed, site+" "+id)%uint64(len(t.of))]:
		return next, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// leave hands the turn on.
func (t *turn) leave() { t.back <- t }
