package httpapi

import (
	"context"
	"net/http"

	"github.com/audatex-relay/relay/internal/relay"
)

// ListUnresolved implements GET /v1/unresolved.
func (a *API) ListUnresolved(w http.ResponseWriter, r *http.Request, params ListUnresolvedParams) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		all, err := a.c.Store.Unresolved.All(ctx, "", a.unreadable("unresolved"))
		if err != nil {
			return reply{}, err
		}
		all = keep(all, func(u relay.Unresolved) bool { return params.Connection == "" || u.Connection == params.Connection })
		entries, next, err := page(all, params.After, params.Limit)
		return reply{body: UnresolvedList{Items: views(entries, unresolvedView), Next: next}}, err
	})
}

// GetUnresolved implements GET /v1/unresolved/{unresolvedId}.
func (a *API) GetUnresolved(w http.ResponseWriter, r *http.Request, id string) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		u, _, err := a.c.Store.Unresolved.Get(ctx, id)
		return reply{body: unresolvedView(u)}, err
	})
}

// DeleteUnresolved implements DELETE /v1/unresolved/{unresolvedId}. The log says what was given up: nothing else will.
func (a *API) DeleteUnresolved(w http.ResponseWriter, r *http.Request, id string) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		u, _, err := remove(ctx, a.c.Store.Unresolved, id, "", func(relay.Unresolved) error { return nil })
		if err == nil {
			a.c.Log.Warn("an unresolved notification was given up by an operator", "unresolved", id, "connection", u.Connection, "site", u.Site, "order", u.Order)
		}
		return reply{status: http.StatusNoContent}, err
	})
}

func unresolvedView(u relay.Unresolved) Unresolved {
	raw := u.Raw
	if raw == nil {
		raw = []byte{}
	}
	return Unresolved{
		Id: u.ID, Connection: u.Connection, Site: u.Site, Order: u.Order, Reason: u.Reason, Detail: u.Detail, Raw: raw,
		ReceivedAt: u.ReceivedAt, UnresolvedAt: u.UnresolvedAt,
	}
}
