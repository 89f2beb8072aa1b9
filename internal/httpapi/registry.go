package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// A client's document lists its callbacks, for two reasons: a client has a maximum number of
// callbacks, even if three replicas make some at the same time, and it is removed only if it has
// none. Both are decided by a compare-and-set on that document.
//
//	make     1. read the revision of the callback's key; 2. enter the id in the client's document;
//	         3. store the callback, if its key still has that revision
//	remove   1. remove the callback; 2. remove its id from the client's document
//
// A crash, or an unclear response of the store, may leave an id without a callback. A request that
// finds one first withdraws the key (settled), so that a third step that is still to come fails,
// and then removes the id. That happens where it matters: when the client has no room left, and
// when it is removed.

const (
	// clientTries is how often a change of a client's document is repeated when others change it at
	// the same time. Within this process each client has only one change under way.
	clientTries = 64
	// unsettledFor is how long an id without a callback is left alone. It is longer than a request
	// may take.
	unsettledFor = 30 * time.Second
	// settleMost is how many ids without a callback one request removes from a client's document.
	settleMost = 32
)

// errClientGone means that the client is no longer the one with which the request began.
var errClientGone = errors.New("the client was removed")

// register stores a new callback of a client and returns its revision. It returns ErrConflict if
// there is a callback with this id, and errClientGone if the client was removed.
func (a *API) register(ctx context.Context, owner relay.Client, cb relay.Callback) (uint64, error) {
	for try := range tries {
		rest(ctx, try)
		place := a.c.Store.Sealed.Current(ctx, []string{cb.ID})[0]
		if place.Err != nil {
			return 0, place.Err
		}
		if !place.Deleted {
			if try > 0 { // it belongs to another client, or another request of this client has made it
				a.withdraw(ctx, owner, cb.ID)
			}
			return 0, fmt.Errorf("register callback %s: %w", cb.ID, store.ErrConflict)
		}
		if err := a.enter(ctx, owner, cb.ID); err != nil {
			return 0, err
		}
		revision, err := a.c.Store.Callbacks.Update(ctx, cb.ID, cb, place.Revision)
		if err == nil {
			a.wroteCallback(cb, revision)
			return revision, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			a.withdraw(ctx, owner, cb.ID)
			return 0, err
		}
	}
	a.withdraw(ctx, owner, cb.ID)
	return 0, fmt.Errorf("register callback %s: %w", cb.ID, store.ErrConflict)
}

// enter enters a callback's id in its client's document, or returns a problem.
func (a *API) enter(ctx context.Context, owner relay.Client, id string) error {
	// A full client is refused without waiting for a turn, if it is still full.
	if known, _ := a.c.Keys.Client(owner.ID); len(known.Callbacks) >= known.Allowed().Callbacks {
		c, _, err := a.c.Store.Clients.GetAtLeader(ctx, owner.ID)
		if err == nil && c.Generation == owner.Generation &&
			len(c.Callbacks) >= c.Allowed().Callbacks && len(a.missing(c)) == 0 {
			return fullClient(c)
		}
	}
	return a.changeCallbacks(ctx, owner, func(c *relay.Client) error {
		if _, there := c.Callbacks[id]; !there && len(c.Callbacks) >= c.Allowed().Callbacks {
			if err := a.makeRoom(ctx, c); err != nil {
				return err
			}
		}
		if c.Callbacks == nil {
			c.Callbacks = map[string]int64{}
		}
		// An existing id is entered again, too, so that a request about to remove it finds the
		// document changed.
		c.Callbacks[id] = time.Now().Unix()
		return nil
	})
}

// missing returns ids in a client's document that were entered a while ago and seem to have no
// callback.
func (a *API) missing(c relay.Client) (ids []string) {
	for id, at := range c.Callbacks {
		if _, there := a.callbacks.Get(id); !there &&
			time.Since(time.Unix(at, 0)) > unsettledFor && len(ids) < settleMost {
			ids = append(ids, id)
		}
	}
	return ids
}

func fullClient(c relay.Client) error {
	return full("callbacks", len(c.Callbacks), c.Allowed().Callbacks)
}

// makeRoom removes ids without a callback from a full client's document, or returns a problem.
func (a *API) makeRoom(ctx context.Context, c *relay.Client) error {
	select {
	case <-a.callbacks.Ready():
	default:
		return starting()
	}
	for _, id := range a.missing(*c) {
		there, err := a.settled(ctx, *c, id)
		if err != nil {
			return err
		}
		if !there {
			delete(c.Callbacks, id)
		}
	}
	if len(c.Callbacks) >= c.Allowed().Callbacks {
		return fullClient(*c)
	}
	return nil
}

// withdraw removes the id of a callback that was removed, or not made, from its client's document.
// If that fails, the id stays until its place is needed.
func (a *API) withdraw(ctx context.Context, owner relay.Client, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience) // even if the caller has gone
	defer cancel()
	err := a.changeCallbacks(ctx, owner, func(c *relay.Client) error {
		if _, there := c.Callbacks[id]; !there {
			return errNoChange
		}
		there, err := a.settled(ctx, *c, id)
		if err == nil && there {
			err = errNoChange
		}
		delete(c.Callbacks, id)
		return err
	})
	if err != nil && !errors.Is(err, errClientGone) {
		a.c.Log.Log(ctx, store.Level(err, slog.LevelWarn),
			"a callback's id stays in its client's document until its place is needed",
			"client", owner.ID, "callback", id, "error", err)
	}
}

// settled reports whether the client has a callback with an id. If it has none, no earlier entry in
// the client's document can lead to one any more: a request that is still to store it fails.
func (a *API) settled(ctx context.Context, c relay.Client, id string) (bool, error) {
	for range tries {
		found := a.c.Store.Sealed.Current(ctx, []string{id})[0]
		if found.Err != nil {
			return false, found.Err
		}
		if !found.Deleted { // if it is another client's: what was prepared while there was none fails
			return found.Value.BelongsTo(c), nil
		}
		if err := a.c.Store.Sealed.Withdraw(ctx, id, found.Revision); !errors.Is(err, store.ErrConflict) {
			return false, err
		}
	}
	return false, fmt.Errorf("look whether there is a callback %s: %w", id, store.ErrConflict)
}

// errNoChange ends changeCallbacks without a change.
var errNoChange = errors.New("nothing is to be changed")

// changeCallbacks changes the list of callbacks in a client's document.
func (a *API) changeCallbacks(ctx context.Context, owner relay.Client, edit func(*relay.Client) error) error {
	err := a.withClient(ctx, owner.ID, func(c relay.Client, revision uint64) error {
		if c.Generation != owner.Generation {
			return errClientGone
		}
		if err := edit(&c); err != nil {
			return err
		}
		revision, err := a.c.Store.Clients.Update(ctx, c.ID, c, revision)
		if err == nil {
			a.c.Keys.Put(c, revision)
		}
		return err
	})
	switch {
	case errors.Is(err, errNoChange):
		return nil
	case errors.Is(err, store.ErrNotFound):
		return errClientGone
	}
	return err
}

// withClient reads a client at the leader and changes it, again as long as others do the same. Of
// this replica one request at a time does.
func (a *API) withClient(ctx context.Context, id string, change func(c relay.Client, revision uint64) error) error {
	done, ok := a.clients.take(ctx, id)
	if !ok {
		return ctx.Err()
	}
	defer done()
	for try := range clientTries {
		rest(ctx, try)
		c, revision, err := a.c.Store.Clients.GetAtLeader(ctx, id)
		if err == nil {
			err = change(c, revision)
		}
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("change client %s: %w", id, store.ErrConflict)
}

// removeClient removes a client without callbacks. Its keys end with its document. A request that
// makes a callback at the same time has either entered it in the document, and removeClient looks
// again, or finds the client gone.
func (a *API) removeClient(ctx context.Context, id, ifMatch string) error {
	return a.withClient(ctx, id, func(c relay.Client, revision uint64) error {
		if !matches(ifMatch, revision) {
			return &problem{kind: kindPrecondition}
		}
		known := a.callbacks.Keys(id) // these first: usually one of them has a callback
		ids := known
		for entered := range c.Callbacks {
			if _, there := slices.BinarySearch(known, entered); !there {
				ids = append(ids, entered)
			}
		}
		for _, callback := range ids {
			there, err := a.settled(ctx, c, callback)
			if err != nil {
				return err
			}
			if there {
				return kindInUse.problem("It has callbacks.")
			}
		}
		err := a.c.Store.Clients.Delete(ctx, id, revision)
		if err == nil {
			a.c.Keys.Removed(id, revision)
		}
		return err
	})
}
