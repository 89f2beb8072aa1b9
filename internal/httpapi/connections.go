package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// listConnections implements GET /v1/connections.
func (a *API) listConnections(ctx context.Context, _ caller, params ListConnectionsParams) (reply, error) {
	of := func(c relay.Connection) bool {
		return len(params.Sites) == 0 || slices.ContainsFunc(params.Sites, c.Covers)
	}
	if len(params.State) > 0 {
		views, next, err := a.connectionsIn(ctx, params.State, params.After, cmp.Or(params.Limit, defaultLimit), of)
		return reply{body: ConnectionList{Items: views, Next: next}}, err
	}
	entries, next, err := page(ctx, a.connections, "", params.After, params.Limit, of)
	if err != nil {
		return reply{}, err
	}
	views, err := a.connectionViews(ctx, valuesOf(entries))
	return reply{body: ConnectionList{Items: views, Next: next}}, err
}

// A connection's state is made of what several parts know, so it is found for one connection after
// another. One page looks at stateMost connections at most, stateChunk at a time, and begins no
// further chunk after stateWithin.
const (
	stateMost   = 1000
	stateChunk  = 100
	stateWithin = 2 * time.Second
)

// connectionsIn returns one page of the connections that pass and are in one of the states.
func (a *API) connectionsIn(
	ctx context.Context, states []ConnectionState, after string, limit int, pass func(relay.Connection) bool,
) (items []Connection, next string, err error) {
	began := time.Now()
	items = []Connection{}
	for looked := 0; looked < stateMost && time.Since(began) < stateWithin; looked += stateChunk {
		var entries []store.Entry[relay.Connection]
		if entries, next, err = page(ctx, a.connections, "", after, stateChunk, pass); err != nil {
			return nil, "", err
		}
		views, err := a.connectionViews(ctx, valuesOf(entries))
		if err != nil {
			return nil, "", err
		}
		for i, view := range views {
			if !slices.Contains(states, view.State) {
				continue
			}
			if items = append(items, view); len(items) < limit {
				continue
			}
			if i < len(views)-1 {
				next = token('k', entries[i].Key)
			}
			return items, next, nil
		}
		if after = next; next == "" {
			break
		}
	}
	return items, next, nil
}

// withConnection does an operation on a connection that is there.
func (a *API) withConnection(
	ctx context.Context, id string, operation func(c relay.Connection, revision uint64) (reply, error),
) (reply, error) {
	c, revision, err := a.c.Store.Connections.Get(ctx, id)
	if err != nil {
		return reply{}, err
	}
	return operation(c, revision)
}

// getConnection implements GET /v1/connections/{id}.
func (a *API) getConnection(ctx context.Context, _ caller, id Id) (reply, error) {
	return a.withConnection(ctx, id, func(c relay.Connection, revision uint64) (reply, error) {
		return a.connectionReply(ctx, c, revision, false)
	})
}

// putConnection implements PUT /v1/connections/{id}.
func (a *API) putConnection(
	ctx context.Context, _ caller, id Id, params PutConnectionParams, settings ConnectionSettings,
) (reply, error) {
	if err := a.checkConnection(ctx, id, &settings); err != nil {
		return reply{}, err
	}
	now := time.Now().UTC()
	c, revision, created, err := put(ctx, a.c.Store.Connections, id, params.IfMatch,
		func() (relay.Connection, error) {
			c := relay.Connection{ID: id, Generation: relay.NewID(), CreatedAt: now}
			settings.apply(&c, now)
			return c, nil
		},
		func(c relay.Connection) (uint64, error) { return a.c.Store.Connections.Create(ctx, id, c) },
		func(c relay.Connection) (relay.Connection, error) {
			settings.apply(&c, now)
			return c, nil
		},
		// The poller looks for the token as soon as it sees the connection.
		func(c relay.Connection) error { return a.putToken(ctx, c, settings.RefreshToken) })
	if err != nil {
		return reply{}, err
	}
	a.connections.Put(id, c, revision)
	return a.connectionReply(ctx, c, revision, created)
}

// patchConnection implements PATCH /v1/connections/{id}.
func (a *API) patchConnection(
	ctx context.Context, _ caller, id Id, params PatchConnectionParams, patch json.RawMessage,
) (reply, error) {
	var settings ConnectionSettings
	edit := func(c relay.Connection) (_ relay.Connection, err error) {
		if settings, err = patched(a, connectionSettings(c), patch, "ConnectionSettings"); err != nil {
			return c, err
		}
		if err := a.checkConnection(ctx, id, &settings); err != nil {
			return c, err
		}
		settings.apply(&c, time.Now().UTC())
		return c, nil
	}
	c, revision, err := change(ctx, a.c.Store.Connections, id, params.IfMatch, edit,
		func(c relay.Connection) error { return a.putToken(ctx, c, settings.RefreshToken) })
	if err != nil {
		return reply{}, err
	}
	a.connections.Put(id, c, revision)
	return a.connectionReply(ctx, c, revision, false)
}

// deleteConnection implements DELETE /v1/connections/{id}. The document is removed first, because
// the owner works by it, and removes where it is in the inbox. Its tokens and its poll follow. If
// that fails, a repetition finds nothing; what is left is overwritten when the id is used again.
func (a *API) deleteConnection(ctx context.Context, _ caller, id Id, params DeleteConnectionParams) (reply, error) {
	if params.Unsubscribe {
		if err := a.unsubscribe(ctx, id, params.IfMatch); err != nil {
			return reply{}, err
		}
	}
	_, revision, err := remove(ctx, a.c.Store.Connections, id, params.IfMatch,
		func(relay.Connection) error { return nil })
	if err != nil {
		return reply{}, err
	}
	a.connections.Removed(id, revision)
	for what, err := range map[string]error{
		"tokens": a.c.Store.Tokens.Delete(ctx, id, 0), "poll": a.c.Store.Polls.Delete(ctx, id, 0),
		"reconciliation": a.c.Store.Reconciliations.Delete(ctx, store.ReconcileKey(id), 0),
	} {
		if err != nil {
			return reply{}, fmt.Errorf("remove the %s of connection %s: %w", what, id, err)
		}
	}
	return reply{body: RemovedConnection{Id: id, Notice: withdrawConsent}}, nil
}

// withdrawConsent explains what only the vendor's user can do.
const withdrawConsent = "The relay has forgotten the connection's tokens. The consent itself can only be withdrawn " +
	"by its user, at the vendor: until then it stays there, also if a backup from before is restored."

func (a *API) unsubscribe(ctx context.Context, id, ifMatch string) error {
	c, revision, err := a.c.Store.Connections.Get(ctx, id)
	if err != nil {
		return err
	}
	if !matches(ifMatch, revision) {
		return &problem{kind: kindPrecondition}
	}
	poll, err := a.poll(ctx, c)
	if err != nil || poll.SubscriptionID == "" {
		return err
	}
	err = a.c.Vendor.Unsubscribe(ctx, c, poll.SubscriptionID)
	if err == nil || audatex.OutcomeOf(err) == audatex.NotFound {
		return nil
	}
	return vendorProblem(err)
}

// pollConnection implements POST /v1/connections/{id}/poll.
func (a *API) pollConnection(ctx context.Context, _ caller, id Id) (reply, error) {
	return a.withConnection(ctx, id, func(c relay.Connection, _ uint64) (reply, error) {
		if c.Paused {
			return reply{}, kindConflict.problem("The connection is paused.")
		}
		if err := a.c.Poller.PollNow(ctx, id); err != nil {
			return reply{}, refuse(
				"The owner of the connection does not answer, or polls nothing as the store takes no writes.", err)
		}
		return reply{status: http.StatusAccepted}, nil
	})
}

// reconcileConnection implements POST /v1/connections/{id}/reconcile.
func (a *API) reconcileConnection(
	ctx context.Context, _ caller, id Id, params ReconcileConnectionParams,
) (reply, error) {
	return a.withConnection(ctx, id, func(c relay.Connection, _ uint64) (reply, error) {
		if c.Paused {
			return reply{}, kindConflict.problem("The connection is paused.")
		}
		doc, err := a.c.Reconciler.Reconcile(ctx, id, params.Delivered)
		if err != nil {
			return reply{}, refuse("The owner of the connection does not answer, or the store takes no writes.", err)
		}
		run := reconciling(doc)
		if run == nil {
			return reply{}, fmt.Errorf("reconcile connection %s: the owner answered without a run", id)
		}
		return reply{status: http.StatusAccepted, body: ReconcileStarted{Reconciling: *run}}, nil
	})
}
