package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// listCallbacks implements GET /v1/callbacks.
func (a *API) listCallbacks(ctx context.Context, c caller, params ListCallbacksParams) (reply, error) {
	if !c.isAdmin() && params.Client != "" && params.Client != c.client.ID {
		return reply{}, notFound()
	}
	of := params.Client
	if !c.isAdmin() {
		of = c.client.ID
	}
	entries, next, err := page(ctx, a.callbacks, of, params.After, params.Limit, func(cb store.SealedCallback) bool {
		if !c.isAdmin() {
			return c.owns(cb.Callback)
		}
		client, known := a.c.Keys.Client(cb.Client)
		return known && cb.BelongsTo(client)
	})
	return reply{body: CallbackList{Items: a.callbackViews(ctx, a.opened(entries)), Next: next}}, err
}

// createCallback implements POST /v1/callbacks.
func (a *API) createCallback(
	ctx context.Context, c caller, params CreateCallbackParams, settings CallbackSettings,
) (reply, error) {
	owner, err := a.ownerFor(ctx, c, params.Client)
	if err != nil {
		return reply{}, err
	}
	m := exchangeOf(ctx).maker
	cb, secret, err := a.newCallback(ctx, m, m.id("callback"), owner, settings)
	if err != nil {
		return reply{}, err
	}
	revision, err := a.register(ctx, owner, cb)
	switch {
	case errors.Is(err, errClientGone):
		err = c.gone()
	case errors.Is(err, store.ErrConflict): // only the same request can have made this id before
		cb, revision, err = a.c.Store.Callbacks.GetAtLeader(ctx, cb.ID)
	}
	if err != nil {
		return reply{}, err
	}
	return a.createdCallback(ctx, c, cb, revision, secret), nil
}

// getCallback implements GET /v1/callbacks/{id}.
func (a *API) getCallback(ctx context.Context, c caller, id Id) (reply, error) {
	cb, revision, err := a.callback(ctx, c, id)
	return reply{revision: revision, body: a.callbackView(ctx, c, cb)}, err
}

// putCallback implements PUT /v1/callbacks/{id}.
func (a *API) putCallback(
	ctx context.Context, c caller, id Id, params PutCallbackParams, settings CallbackSettings,
) (reply, error) {
	var secret string
	var owner relay.Client
	cb, revision, created, err := put(ctx, a.c.Store.Callbacks, id, params.IfMatch,
		func() (cb relay.Callback, err error) {
			if c.mayChange() != nil { // like an id of another client: a different response would give it away
				return cb, notFound()
			}
			if owner, err = a.ownerFor(ctx, c, params.Client); err != nil {
				return cb, err
			}
			cb, secret, err = a.newCallback(ctx, exchangeOf(ctx).maker, id, owner, settings)
			return cb, err
		},
		func(cb relay.Callback) (uint64, error) { return a.register(ctx, owner, cb) },
		a.ifMayChange(ctx, c, params.Client, func(cb relay.Callback) (relay.Callback, error) {
			return a.replaceSettings(ctx, cb, settings)
		}))
	if errors.Is(err, errClientGone) {
		err = c.gone()
	}
	if err != nil {
		return reply{}, err
	}
	if created {
		return a.createdCallback(ctx, c, cb, revision, secret), nil
	}
	a.wroteCallback(cb, revision)
	return reply{revision: revision, body: a.callbackView(ctx, c, cb)}, nil
}

// patchCallback implements PATCH /v1/callbacks/{id}.
func (a *API) patchCallback(
	ctx context.Context, c caller, id Id, params PatchCallbackParams, patch json.RawMessage,
) (reply, error) {
	cb, revision, err := a.changeCallback(ctx, c, id, params.IfMatch, func(cb relay.Callback) (relay.Callback, error) {
		settings, err := patched(a, callbackSettings(cb), patch, "CallbackSettings")
		if err != nil {
			return cb, err
		}
		return a.replaceSettings(ctx, cb, settings)
	})
	return reply{revision: revision, body: a.callbackView(ctx, c, cb)}, err
}

// deleteCallback implements DELETE /v1/callbacks/{id}. The owner removes the cursor and the lanes.
func (a *API) deleteCallback(ctx context.Context, c caller, id Id, params DeleteCallbackParams) (reply, error) {
	cb, revision, err := remove(ctx, a.c.Store.Callbacks, id, params.IfMatch, func(cb relay.Callback) error {
		_, err := a.ifMayChange(ctx, c, "", func(cb relay.Callback) (relay.Callback, error) { return cb, nil })(cb)
		return err
	})
	if err != nil {
		return reply{}, err
	}
	a.callbacks.Removed(id, revision)
	a.withdraw(ctx, relay.Client{ID: cb.Client, Generation: cb.ClientGeneration}, id)
	a.removeReplays(ctx, cb)
	return reply{status: http.StatusNoContent}, nil
}

// resumeCallback implements POST /v1/callbacks/{id}/resume. When the count rises, the owner makes
// everything due.
func (a *API) resumeCallback(ctx context.Context, c caller, id Id) (reply, error) {
	cb, revision, err := a.changeCallback(ctx, c, id, "", func(cb relay.Callback) (relay.Callback, error) {
		cb.Resumed++
		cb.Disabled, cb.UpdatedAt = nil, time.Now().UTC()
		return cb, nil
	})
	view := a.callbackView(ctx, c, cb)
	if cb.Paused {
		view.Note = "The callback is still paused: nothing is delivered until it is changed to \"paused\": false."
	}
	return reply{revision: revision, body: view}, err
}

// callback reads a callback that the caller may see.
func (a *API) callback(ctx context.Context, c caller, id string) (relay.Callback, uint64, error) {
	cb, revision, err := a.c.Store.Callbacks.Get(ctx, id)
	if err == nil {
		err = a.owns(ctx, c, cb)
	}
	return cb, revision, err
}

// owns returns a problem unless the caller may see a callback. If its client is gone, nobody may.
func (a *API) owns(ctx context.Context, c caller, cb relay.Callback) error {
	if !c.owns(cb) {
		return notFound()
	}
	if !c.isAdmin() {
		return nil
	}
	switch orphaned, err := a.orphaned(ctx, cb); {
	case err != nil:
		return err
	case orphaned:
		return notFound()
	}
	return nil
}

// changeCallback changes a callback that the caller may change.
func (a *API) changeCallback(
	ctx context.Context, c caller, id, ifMatch string, edit func(relay.Callback) (relay.Callback, error),
) (relay.Callback, uint64, error) {
	cb, revision, err := change(ctx, a.c.Store.Callbacks, id, ifMatch, a.ifMayChange(ctx, c, "", edit))
	if err == nil {
		a.wroteCallback(cb, revision)
	}
	return cb, revision, err
}

// wroteCallback updates the copy that lists use with a callback that this replica has just stored.
func (a *API) wroteCallback(cb relay.Callback, revision uint64) {
	sealed, err := a.c.Store.SealCallback(cb)
	if err != nil { // the watch will update it
		a.unreadable("callback")(cb.ID, err)
		return
	}
	a.callbacks.Put(cb.ID, sealed, revision)
}

// opened decrypts callbacks. One that cannot be decrypted is logged and left out.
func (a *API) opened(entries []store.Entry[store.SealedCallback]) []relay.Callback {
	all := make([]relay.Callback, 0, len(entries))
	for _, e := range entries {
		cb, err := a.c.Store.OpenCallback(e.Value)
		if err != nil {
			a.unreadable("callback")(e.Key, err)
			continue
		}
		all = append(all, cb)
	}
	return all
}

// ifMayChange wraps an edit. It refuses callbacks that the caller may not see (or that belong to
// another client than the admin named) and then callbacks that the caller may only read.
func (a *API) ifMayChange(
	ctx context.Context, c caller, client string, edit func(relay.Callback) (relay.Callback, error),
) func(relay.Callback) (relay.Callback, error) {
	return func(cb relay.Callback) (relay.Callback, error) {
		if err := a.owns(ctx, c, cb); err != nil {
			return cb, err
		}
		if client != "" && client != cb.Client {
			return cb, notFound()
		}
		if err := c.mayChange(); err != nil {
			return cb, err
		}
		return edit(cb)
	}
}

// ownerFor returns the client of a new callback.
func (a *API) ownerFor(ctx context.Context, c caller, named string) (relay.Client, error) {
	if !c.isAdmin() {
		if named != "" && named != c.client.ID {
			return relay.Client{}, notFound()
		}
		return c.client, c.mayChange()
	}
	if named == "" || named == relay.DefaultClient {
		return a.defaultClient(ctx)
	}
	client, _, err := a.c.Store.Clients.Get(ctx, named)
	if errors.Is(err, store.ErrNotFound) {
		err = badParameter("client", "there is no such client")
	}
	return client, err
}

func (a *API) createdCallback(ctx context.Context, c caller, cb relay.Callback, revision uint64, secret string) reply {
	view := a.callbackView(ctx, c, cb)
	view.Secret = secret
	return reply{status: http.StatusCreated, location: "/v1/callbacks/" + cb.ID, revision: revision, body: view}
}

// callbackView returns a callback as the API shows it. The whole URL is only for callers who may
// change it.
func (a *API) callbackView(ctx context.Context, c caller, cb relay.Callback) Callback {
	view := a.callbackViews(ctx, []relay.Callback{cb})[0]
	if c.mayChange() == nil {
		view.Url = cb.Secrets.URL
	}
	return view
}

// callbackViews returns callbacks as lists show them. All owners are asked for their status at the
// same time.
func (a *API) callbackViews(ctx context.Context, cbs []relay.Callback) []Callback {
	statuses := a.c.Dispatcher.Status(ctx, each.Of(cbs, func(cb relay.Callback) string { return cb.ID }))
	views := make([]Callback, len(cbs))
	for i, cb := range cbs {
		views[i] = storedView(cb)
		if status, ok := statuses[cb.ID]; ok {
			views[i].Health, views[i].Backlog, views[i].LagSeconds = status.Health,
				&status.Backlog, new(status.LagSeconds)
			views[i].Expired, views[i].Slowed = &status.Expired, status.Slowed
		}
	}
	return views
}

// storedView returns the stored part of a callback as the API shows it: no secret, only the public
// part of the URL, and only the names of headers and the type of auth.
func storedView(cb relay.Callback) Callback {
	view := Callback{
		Id: cb.ID, Client: cb.Client, Url: cb.ShownURL, Description: cb.Description, Sites: cb.Filter.Sites,
		Types: cb.Filter.Types, Orders: cb.Filter.Orders, OrderStatuses: cb.Filter.OrderStatuses,
		ChangedOnly: cb.Filter.ChangedOnly, HeaderNames: cb.HeaderNames, AuthType: AuthScheme(cb.AuthType),
		Concurrency: cb.Concurrency, RatePerSecond: cb.RatePerSecond, TimeoutSeconds: cb.TimeoutSeconds,
		Mode: CallbackMode(cb.Mode), ContentType: cb.ContentType, StartFrom: cb.StartFrom, Paused: cb.Paused,
		State: CallbackStateActive, CreatedAt: cb.CreatedAt, UpdatedAt: cb.UpdatedAt,
		Secrets: signingViews(cb.Secrets, time.Now()),
	}
	if view.HeaderNames == nil {
		view.HeaderNames = []string{}
	}
	switch {
	case cb.Disabled != nil:
		view.State, view.DisabledAt = CallbackStateDisabled, cb.Disabled.At
		view.DisabledReason = CallbackDisabledReason(cb.Disabled.Reason)
	case cb.Paused:
		view.State = CallbackStatePaused
	}
	return view
}
