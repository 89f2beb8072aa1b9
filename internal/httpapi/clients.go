package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// listClients implements GET /v1/clients.
func (a *API) listClients(ctx context.Context, _ caller, params ListClientsParams) (reply, error) {
	entries, next, err := page(ctx, a.c.Keys.Clients(), "", params.After, params.Limit, nil)
	return reply{body: ClientList{Items: views(entries, clientView), Next: next}}, err
}

// getClient implements GET /v1/clients/{id}.
func (a *API) getClient(ctx context.Context, _ caller, id Id) (reply, error) {
	c, revision, err := a.c.Store.Clients.Get(ctx, id)
	return reply{revision: revision, body: clientView(c)}, err
}

// putClient implements PUT /v1/clients/{id}.
func (a *API) putClient(
	ctx context.Context, _ caller, id Id, params PutClientParams, settings ClientSettings,
) (reply, error) {
	if settings.AllSites && len(settings.Sites) > 0 {
		return reply{}, invalid(at("/sites", "must be empty when allSites is true"))
	}
	now := time.Now().UTC()
	c, revision, created, err := put(ctx, a.c.Store.Clients, id, params.IfMatch,
		func() (relay.Client, error) {
			return settings.apply(relay.Client{ID: id, Generation: relay.NewID(), CreatedAt: now}, now), nil
		},
		func(c relay.Client) (uint64, error) { return a.c.Store.Clients.Create(ctx, id, c) },
		func(c relay.Client) (relay.Client, error) { return settings.apply(c, now), nil })
	if err != nil {
		return reply{}, err
	}
	a.c.Keys.Put(c, revision)
	answer := reply{revision: revision, body: clientView(c)}
	if created {
		answer.status, answer.location = http.StatusCreated, "/v1/clients/"+id
	}
	return answer, nil
}

// apply returns the client with these settings.
func (s ClientSettings) apply(c relay.Client, now time.Time) relay.Client {
	if sites := relay.Sorted(s.Sites); !c.UpdatedAt.IsZero() &&
		(c.AllSites != s.AllSites || !slices.Equal(relay.Sorted(c.Sites), sites)) {
		c.SitesChangedAt = now
	}
	c.Description, c.Sites, c.AllSites, c.UpdatedAt = s.Description, s.Sites, s.AllSites, now
	c.Limits = relay.Limits(s.Limits)
	return c
}

// deleteClient implements DELETE /v1/clients/{id}. Everything that the client had belongs to its
// generation, so a later client with the same id inherits nothing.
func (a *API) deleteClient(ctx context.Context, _ caller, id Id, params DeleteClientParams) (reply, error) {
	return reply{status: http.StatusNoContent}, a.removeClient(ctx, id, params.IfMatch)
}

// defaultClient returns the client that the admin token acts for when it names none. It creates the
// client if needed.
func (a *API) defaultClient(ctx context.Context) (relay.Client, error) {
	c, _, err := a.c.Store.Clients.Get(ctx, relay.DefaultClient)
	if !errors.Is(err, store.ErrNotFound) {
		return c, err
	}
	now := time.Now().UTC()
	c = relay.Client{
		ID: relay.DefaultClient, Description: "Whom the admin token acts for when it names no client", AllSites: true,
		Generation: relay.NewID(), CreatedAt: now, UpdatedAt: now,
	}
	revision, err := a.c.Store.Clients.Create(ctx, c.ID, c)
	if errors.Is(err, store.ErrConflict) { // another request has made it
		c, _, err = a.c.Store.Clients.Get(ctx, relay.DefaultClient)
		return c, err
	}
	if err == nil {
		a.c.Keys.Put(c, revision)
	}
	return c, err
}

func clientView(c relay.Client) ClientInfo {
	sites := c.Sites
	if sites == nil {
		sites = []string{}
	}
	return ClientInfo{
		Id: c.ID, Description: c.Description, Sites: sites, AllSites: c.AllSites, CreatedAt: c.CreatedAt,
		UpdatedAt: c.UpdatedAt, Limits: ClientLimits(c.Limits),
	}
}
