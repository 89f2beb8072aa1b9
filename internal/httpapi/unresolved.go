package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// ListUnresolved implements GET /v1/unresolved.
func (a *API) ListUnresolved(w http.ResponseWriter, r *http.Request, params ListUnresolvedParams) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		all, err := a.c.Store.Unresolved.All(ctx, "", a.unreadable("unresolved"))
		if err != nil {
			return reply{}, err
		}
		all = slices.DeleteFunc(all, func(e store.Entry[relay.Unresolved]) bool {
			return params.Connection != "" && e.Value.Connection != params.Connection
		})
		entries, next, err := pageOf(all, params.After, params.Limit)
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
	a.do(w, r, func(ctx context.Context, c caller) (reply, error) {
		u, _, err := remove(ctx, a.c.Store.Unresolved, id, "", func(relay.Unresolved) error { return nil })
		if err == nil {
			a.logOf(c).Warn("an unresolved notification was given up by an operator", "unresolved", id, "connection", u.Connection, "site", u.Site, "order", u.Order)
		}
		return reply{status: http.StatusNoContent}, err
	})
}

// RetryUnresolved implements POST /v1/unresolved/{unresolvedId}/retry.
func (a *API) RetryUnresolved(w http.ResponseWriter, r *http.Request, id string) {
	a.do(w, r, func(ctx context.Context, c caller) (reply, error) {
		switch outcome, err := a.c.Resolver.Retry(ctx, id); outcome {
		case Retried:
			a.logOf(c).Info("an unresolved notification was resolved by an operator's retry", "unresolved", id)
			return reply{status: http.StatusNoContent}, nil
		case RetryUnknown:
			return reply{}, &problem{kind: kindNotFound, cause: err}
		case RetryRefused:
			return reply{}, stillUnresolved(err)
		default: // RetryUnavailable
			return reply{}, retryLater(err)
		}
	})
}

// stillUnresolved says why a notification stays: by the vendor's answer if it gave one, else by what the resolver lacks.
func stillUnresolved(err error) error {
	p := &problem{kind: kindUnresolved, cause: err}
	if e, ok := errors.AsType[*audatex.Error](err); ok {
		p.detail = "The vendor's answer about the order: " + e.Outcome.String() + "."
		if said := vendorSaid(err); said != "" {
			p.detail += " " + said
		}
		return p
	}
	p.detail = err.Error()
	return p
}

// retryLater tells the store's trouble from the vendor's. A missing consent is told as such: waiting would not help.
func retryLater(err error) error {
	p := &problem{kind: kindBusy, detail: vendorSaid(err), retryAfter: max(audatex.RetryAfterOf(err), 5*time.Second), cause: err}
	switch {
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrUnclear):
		p.kind, p.detail = kindStore, "The event may be in the log already; a repetition does not make a second one."
	case errors.Is(err, audatex.ErrNoToken), audatex.OutcomeOf(err) == audatex.Unauthorised:
		p.kind, p.retryAfter = kindConsent, 0
	}
	return p
}

func unresolvedView(u relay.Unresolved) Unresolved {
	raw := u.Raw
	if raw == nil {
		raw = []byte{}
	}
	view := Unresolved{
		Id: u.ID, Connection: u.Connection, Site: u.Site, VendorSite: u.VendorSite, Order: u.Order, Reason: u.Reason, Detail: u.Detail, Raw: raw,
		Size: max(u.Size, len(raw)), Count: max(u.Count, 1), ReceivedAt: u.ReceivedAt, LastReceivedAt: u.LastReceivedAt, UnresolvedAt: u.UnresolvedAt,
	}
	if u.RetriedAt != nil {
		view.RetriedAt = *u.RetriedAt
	}
	return view
}
