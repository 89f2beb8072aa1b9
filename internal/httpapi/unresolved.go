package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// listUnresolved implements GET /v1/unresolved.
func (a *API) listUnresolved(ctx context.Context, _ caller, params ListUnresolvedParams) (reply, error) {
	pass := chosen(params.Reason, params.Sites)
	entries, next, err := page(ctx, a.asides, params.Connection, params.After, params.Limit, pass)
	if err != nil {
		return reply{}, err
	}
	if n := withinBytes(entries, a.unresolvedBytes); n < len(entries) {
		entries, next = entries[:n], token('k', entries[n-1].Key)
	}
	found, err := a.unresolved(ctx, entries)
	return reply{body: UnresolvedList{Items: views(found, unresolvedView), Next: next}}, err
}

// chosen returns the filter for lists of unresolved notifications.
func chosen(reason string, sites []string) func(store.Aside) bool {
	return func(u store.Aside) bool {
		return (reason == "" || u.Reason == reason) && (len(sites) == 0 || slices.Contains(sites, u.Site))
	}
}

// unresolvedBytes is how many bytes of unresolved notifications are read for one page; a single one
// may have more.
const unresolvedBytes = 8 << 20

// withinBytes returns how many of the entries together have at most that many bytes, but at least
// one.
func withinBytes(entries []store.Entry[store.Aside], most int) int {
	size := 0
	for i, e := range entries {
		if size += e.Value.Bytes; size > most && i > 0 {
			return i
		}
	}
	return len(entries)
}

// unresolved reads unresolved notifications as they are stored, without those that are gone.
func (a *API) unresolved(
	ctx context.Context, entries []store.Entry[store.Aside],
) ([]store.Entry[relay.Unresolved], error) {
	var found []store.Entry[relay.Unresolved]
	keys := each.Of(entries, func(e store.Entry[store.Aside]) string { return e.Key })
	for _, there := range a.c.Store.Unresolved.Current(ctx, keys) {
		switch {
		case there.Err != nil:
			return nil, there.Err
		case !there.Deleted:
			found = append(found, there.Entry)
		}
	}
	return found, nil
}

// getUnresolved implements GET /v1/unresolved/{unresolvedId}.
func (a *API) getUnresolved(ctx context.Context, _ caller, id string) (reply, error) {
	u, _, err := a.c.Store.Unresolved.Get(ctx, id)
	return reply{body: unresolvedView(u)}, err
}

// deleteUnresolved implements DELETE /v1/unresolved/{unresolvedId}. Only the log has a record of
// what was given up.
func (a *API) deleteUnresolved(ctx context.Context, c caller, id string) (reply, error) {
	u, revision, err := remove(ctx, a.c.Store.Unresolved, id, "", func(relay.Unresolved) error { return nil })
	if err == nil {
		a.asides.Removed(id, revision)
		a.logOf(c).Warn("an unresolved notification was given up by an operator", "unresolved", id,
			"connection", u.Connection, "site", u.Site, "order", u.Order)
	}
	return reply{status: http.StatusNoContent}, err
}

// retryUnresolved implements POST /v1/unresolved/{unresolvedId}/retry.
func (a *API) retryUnresolved(ctx context.Context, c caller, id string) (reply, error) {
	switch outcome, err := a.c.Resolver.Retry(ctx, id); outcome {
	case relay.RetryResolved:
		a.logOf(c).Info("an unresolved notification was resolved by an operator's retry", "unresolved", id)
		return reply{status: http.StatusNoContent}, nil
	case relay.RetryNotFound:
		return reply{}, &problem{kind: kindNotFound, cause: err}
	case relay.RetryRefused:
		return reply{}, stillUnresolved(err)
	default: // relay.RetryUnavailable
		return reply{}, retryLater(err)
	}
}

// stillUnresolved explains why a notification stays: with the vendor's response if there is one,
// else with what is missing.
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

// retryLater distinguishes trouble of the store from the vendor's. A missing consent is reported as
// such, because waiting would not help.
func retryLater(err error) error {
	p := &problem{
		kind: kindBusy, detail: vendorSaid(err), retryAfter: max(audatex.RetryAfterOf(err), 5*time.Second), cause: err,
	}
	switch {
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrUnclear):
		p.kind, p.detail = kindStore, "The event may be in the log already; a repetition does not make a second one."
	case errors.Is(err, relay.ErrNoToken), audatex.OutcomeOf(err) == audatex.Unauthorised:
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
		Id: u.ID, Connection: u.Connection, Site: u.Site, VendorSite: u.VendorSite, Order: u.Order, Reason: u.Reason,
		Detail: u.Detail, Raw: raw, Size: max(u.Size, len(raw)), Count: max(u.Count, 1),
		ReceivedAt: u.ReceivedAt, LastReceivedAt: u.LastReceivedAt, UnresolvedAt: u.UnresolvedAt,
	}
	if u.RetriedAt != nil {
		view.RetriedAt = *u.RetriedAt
	}
	return view
}
