package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// sweep regularly looks for callbacks whose client is gone, and removes them, and for callbacks
// that their client's document does not list, and enters them. Normal operation leaves neither. But
// a restored backup may: it has the two buckets as they were at different times.
func (a *API) sweep(ctx context.Context) {
	for _, ready := range []<-chan struct{}{a.callbacks.Ready(), a.c.Keys.Ready()} {
		select {
		case <-ready:
		case <-ctx.Done():
			return
		}
	}
	for ctx.Err() == nil {
		if err := a.sweepOnce(ctx); err != nil && ctx.Err() == nil {
			a.c.Log.Log(ctx, store.Level(err, slog.LevelWarn),
				"callbacks without a client could not be looked for; it is tried again", "error", err)
		}
		backoff.Sleep(ctx, a.c.sweepEvery/2+rand.N(a.c.sweepEvery)) // replicas should not sweep at the same moment
	}
}

func (a *API) sweepOnce(ctx context.Context) error {
	for _, id := range a.callbacks.Keys("") {
		cb, there := a.callbacks.Get(id)
		if !there {
			continue
		}
		client, known := a.c.Keys.Client(cb.Value.Client)
		if !known || !cb.Value.BelongsTo(client) {
			if err := a.removeOrphan(ctx, id); err != nil {
				return err
			}
			continue
		}
		if _, listed := client.Callbacks[id]; !listed {
			if err := a.list(ctx, client, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeOrphan removes a callback if its client is really gone.
func (a *API) removeOrphan(ctx context.Context, id string) error {
	cb, revision, err := a.c.Store.Sealed.GetAtLeader(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if orphaned, err := a.orphanedAtLeader(ctx, cb.Callback); err != nil || !orphaned {
		return err
	}
	switch err := a.c.Store.Sealed.Delete(ctx, id, revision); {
	case errors.Is(err, store.ErrConflict):
		return nil // another replica has removed it
	case err != nil:
		return err
	}
	a.callbacks.Removed(id, revision)
	a.c.Log.Warn("a callback was removed whose client is gone", "callback", id, "client", cb.Client)
	return nil
}

// list enters a callback in its client's document if it exists and is not listed, regardless of the
// client's limit.
func (a *API) list(ctx context.Context, client relay.Client, id string) error {
	err := a.changeCallbacks(ctx, client, func(c *relay.Client) error {
		if _, listed := c.Callbacks[id]; listed {
			return errNoChange
		}
		there := a.c.Store.Sealed.Current(ctx, []string{id})[0]
		if there.Err != nil {
			return there.Err
		}
		if there.Deleted || !there.Value.BelongsTo(*c) {
			return errNoChange
		}
		if c.Callbacks == nil {
			c.Callbacks = map[string]int64{}
		}
		c.Callbacks[id] = time.Now().Unix()
		return nil
	})
	if errors.Is(err, errClientGone) {
		return nil
	}
	return err
}

// orphaned reports whether a callback's client is gone.
func (a *API) orphaned(ctx context.Context, cb relay.Callback) (bool, error) {
	if client, known := a.c.Keys.Client(cb.Client); known && cb.BelongsTo(client) {
		return false, nil
	}
	return a.orphanedAtLeader(ctx, cb) // the copy may lag
}

func (a *API) orphanedAtLeader(ctx context.Context, cb relay.Callback) (bool, error) {
	client, _, err := a.c.Store.Clients.GetAtLeader(ctx, cb.Client)
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the client of callback %s: %w", cb.ID, err)
	}
	return !cb.BelongsTo(client), nil
}
