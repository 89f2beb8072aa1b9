package httpapi

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// maxKeys is how many API keys a client may have. They are stored in its document.
const maxKeys = 100

// ListClients implements GET /v1/clients.
func (a *API) ListClients(w http.ResponseWriter, r *http.Request, params ListClientsParams) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		entries, next, err := page(ctx, a.c.Keys.Clients(), "", params.After, params.Limit, nil)
		return reply{body: ClientList{Items: views(entries, clientView), Next: next}}, err
	})
}

// GetClient implements GET /v1/clients/{id}.
func (a *API) GetClient(w http.ResponseWriter, r *http.Request, id Id) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		c, revision, err := a.c.Store.Clients.Get(ctx, id)
		return reply{revision: revision, body: clientView(c)}, err
	})
}

// PutClient implements PUT /v1/clients/{id}.
func (a *API) PutClient(w http.ResponseWriter, r *http.Request, id Id, params PutClientParams) {
	withBody(a, w, r, func(ctx context.Context, _ caller, settings ClientSettings) (reply, error) {
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
	})
}

// apply returns the client with these settings.
func (s ClientSettings) apply(c relay.Client, now time.Time) relay.Client {
	c.Description, c.Sites, c.AllSites, c.UpdatedAt = s.Description, s.Sites, s.AllSites, now
	return c
}

// DeleteClient implements DELETE /v1/clients/{id}. Everything that the client had belongs to its
// generation, so a later client with the same id inherits nothing.
func (a *API) DeleteClient(w http.ResponseWriter, r *http.Request, id Id, params DeleteClientParams) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		return reply{status: http.StatusNoContent}, a.removeClient(ctx, id, params.IfMatch)
	})
}

// ListKeys implements GET /v1/clients/{id}/keys.
func (a *API) ListKeys(w http.ResponseWriter, r *http.Request, id Id) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		c, _, err := a.c.Store.Clients.Get(ctx, id)
		if err != nil {
			return reply{}, err
		}
		list := KeyList{Items: []Key{}}
		for _, k := range c.Keys {
			list.Items = append(list.Items, Key{
				Id: k.ID, Role: KeyRole(k.Role), Description: k.Description, CreatedAt: k.CreatedAt, ExpiresAt: timeOf(k.ExpiresAt),
			})
		}
		return reply{body: list}, nil
	})
}

// CreateKey implements POST /v1/clients/{id}/keys.
func (a *API) CreateKey(w http.ResponseWriter, r *http.Request, id Id, _ CreateKeyParams) {
	withBody(a, w, r, func(ctx context.Context, _ caller, settings KeySettings) (reply, error) {
		now := time.Now().UTC()
		var expires *time.Time
		if !settings.ExpiresAt.IsZero() {
			if !settings.ExpiresAt.After(now) {
				return reply{}, invalid(at("/expiresAt", "must lie in the future"))
			}
			expires = new(settings.ExpiresAt.UTC())
		}
		role := cmp.Or(relay.Role(settings.Role), relay.RoleWrite)
		random := exchangeOf(r).maker.bytes("API key", access.KeyBytes)
		text, key := access.KeyOf(random, role, settings.Description, now, expires)
		c, revision, err := change(ctx, a.c.Store.Clients, id, "", func(c relay.Client) (relay.Client, error) {
			same := func(k relay.Key) bool { return k.ID == key.ID } // the same request has made it before
			if i := slices.IndexFunc(c.Keys, same); i >= 0 {
				key = c.Keys[i]
				return c, nil
			}
			if len(c.Keys) >= maxKeys {
				return c, kindLimit.problem("The client has %d keys.", len(c.Keys))
			}
			c.Keys = append(slices.Clone(c.Keys), key)
			return c, nil
		})
		if err != nil {
			return reply{}, err
		}
		a.c.Keys.Put(c, revision)
		created := KeyCreated{
			Id: key.ID, Key: text, Role: KeyRole(key.Role), Description: key.Description,
			CreatedAt: key.CreatedAt, ExpiresAt: timeOf(key.ExpiresAt),
		}
		return reply{status: http.StatusCreated, body: created}, nil
	})
}

// DeleteKey implements DELETE /v1/clients/{id}/keys/{keyId}.
func (a *API) DeleteKey(w http.ResponseWriter, r *http.Request, id Id, keyID KeyId) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		c, revision, err := change(ctx, a.c.Store.Clients, id, "", func(c relay.Client) (relay.Client, error) {
			i := slices.IndexFunc(c.Keys, func(k relay.Key) bool { return k.ID == keyID })
			if i < 0 {
				return c, notFound()
			}
			c.Keys = slices.Delete(slices.Clone(c.Keys), i, i+1)
			return c, nil
		})
		if err != nil {
			return reply{}, err
		}
		a.c.Keys.Put(c, revision)
		return reply{status: http.StatusNoContent}, nil
	})
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

func clientView(c relay.Client) Client {
	sites := c.Sites
	if sites == nil {
		sites = []string{}
	}
	return Client{
		Id: c.ID, Description: c.Description, Sites: sites, AllSites: c.AllSites, CreatedAt: c.CreatedAt,
		UpdatedAt: c.UpdatedAt,
	}
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
