package delivery

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Targets has the present target of every callback, whichever replica delivers to it. Run keeps it up to date: changes
// made through other replicas show a moment later.
type Targets struct {
	clients   *store.Mirror[relay.Client]
	callbacks *store.Mirror[relay.Callback] // in groups by shard

	stored *store.Bucket[relay.Callback]

	callbackChanged, clientChanged []func(id string)
}

func newTargets(s *store.Store, log *slog.Logger) *Targets {
	t := &Targets{stored: s.Callbacks}
	t.clients = store.NewMirror(store.MirrorConfig[relay.Client]{Bucket: s.Clients, Log: log, What: "client",
		OnChange: t.changedClient})
	t.callbacks = store.NewMirror(store.MirrorConfig[relay.Callback]{
		Bucket: s.Callbacks, Log: log, What: "callback", OnChange: t.changedCallback,
		Group: func(cb relay.Callback) string { return shardGroup(relay.ShardOf(cb.ID)) },
	})
	return t
}

func shardGroup(shard int) string { return strconv.Itoa(shard) }

// OnChange registers functions that are called with the id of a callback that has changed, and with that of a client
// whose change concerns its callbacks. They must not block. OnChange must be called before Run.
func (t *Targets) OnChange(callback, client func(id string)) {
	t.callbackChanged, t.clientChanged = append(t.callbackChanged, callback), append(t.clientChanged, client)
}

// Run follows callbacks and clients until ctx ends.
func (t *Targets) Run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { t.clients.Run(ctx) })
	both.Go(func() { t.callbacks.Run(ctx) })
	both.Wait()
}

// Ready waits until all callbacks and clients are known; false if ctx has ended before.
func (t *Targets) Ready(ctx context.Context) bool {
	for _, ready := range []<-chan struct{}{t.clients.Ready(), t.callbacks.Ready()} {
		select {
		case <-ready:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// OfShard returns the ids of a shard's registered callbacks.
func (t *Targets) OfShard(shard int) []string { return t.callbacks.Keys(shardGroup(shard)) }

// Of returns a callback's present target, nil if it is not registered.
func (t *Targets) Of(id string) *Target {
	cb, registered := t.callbacks.Get(id)
	if !registered {
		return nil
	}
	client, known := t.clients.Get(cb.Value.Client)
	orphaned := !known || !cb.Value.BelongsTo(client.Value)
	if orphaned {
		client.Value = relay.Client{ID: cb.Value.Client}
	}
	of := NewTarget(cb.Value, client.Value)
	of.Orphaned, of.Revisions = orphaned, [2]uint64{cb.Revision, client.Revision}
	return of
}

// Confirm reports whether a callback is registered, of which a stored cursor of a generation was found ("" if none
// was). If the callback is not known here in that generation, it asks the store, as what is known here may be some
// milliseconds old. It also makes sure that the callback's client is known.
func (t *Targets) Confirm(ctx context.Context, id, generation string) (registered bool, err error) {
	if cb, known := t.callbacks.Get(id); known && generation != "" && cb.Value.Generation == generation {
		return true, nil
	}
	cb, registered, err := t.callbacks.Read(ctx, id)
	switch {
	case store.InTrouble(err):
		return false, err
	case err != nil:
		return true, nil //nolint:nilerr // what was known before still counts
	case !registered:
		return false, nil
	}
	if client, known := t.clients.Get(cb.Value.Client); known && cb.Value.BelongsTo(client.Value) {
		return true, nil
	}
	_, _, err = t.clients.Read(ctx, cb.Value.Client)
	return true, err
}

// Disable stores that a callback is disabled. It returns false if the callback is not registered in this generation any
// more, or has been resumed more often than given.
func (t *Targets) Disable(ctx context.Context, id, generation string, resumed int, why relay.Disabled) (bool, error) {
	cb, revision, err := t.stored.Get(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case cb.Generation != generation || cb.Resumed > resumed:
		return false, nil
	case cb.Disabled != nil: // by an earlier call whose outcome was unclear
		return true, nil
	}
	cb.Disabled, cb.UpdatedAt = &why, why.At
	_, err = t.stored.Update(ctx, id, cb, revision)
	return err == nil, err
}

func (t *Targets) changedClient(before, now *store.Entry[relay.Client]) {
	changed := before
	if now != nil {
		changed = now
		if b := before; b != nil && b.Value.Generation == now.Value.Generation &&
			b.Value.AllSites == now.Value.AllSites &&
			slices.Equal(b.Value.Sites, now.Value.Sites) {
			return // its keys have changed, or how many callbacks it has
		}
	}
	for _, f := range t.clientChanged {
		f(changed.Key)
	}
}

func (t *Targets) changedCallback(before, now *store.Entry[relay.Callback]) {
	if now == nil {
		now = before
	}
	for _, f := range t.callbackChanged {
		f(now.Key)
	}
}
