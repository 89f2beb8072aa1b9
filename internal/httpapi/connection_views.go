package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

func (a *API) connectionReply(ctx context.Context, c relay.Connection, revision uint64, created bool) (reply, error) {
	views, err := a.connectionViews(ctx, []relay.Connection{c})
	if err != nil {
		return reply{}, err
	}
	answer := reply{revision: revision, body: views[0]}
	if created {
		answer.status, answer.location = http.StatusCreated, "/v1/connections/"+c.ID
	}
	return answer, nil
}

// poll returns the connection's poll document, an empty one if it belongs to an earlier connection
// with the same id.
func (a *API) poll(ctx context.Context, c relay.Connection) (relay.Poll, error) {
	p, _, err := a.c.Store.Polls.Get(ctx, c.ID)
	if errors.Is(err, store.ErrNotFound) || err == nil && p.Generation != c.Generation {
		return relay.Poll{}, nil
	}
	return p, err
}

// connectionViews returns several connections as the API shows them. Their owners are asked at the
// same time.
func (a *API) connectionViews(ctx context.Context, connections []relay.Connection) ([]Connection, error) {
	doing := a.c.Resolver.Doing(ctx, each.Of(connections, func(c relay.Connection) string { return c.ID }))
	views := make([]Connection, len(connections))
	for i, c := range connections {
		view, err := a.storedConnection(ctx, c)
		if err != nil {
			return nil, err
		}
		d := doing[c.ID]
		view.Waiting = d.Waiting
		if d.Unstored != "" {
			view.State, view.LastError = ConnectionStateFailing, d.Unstored
		}
		views[i] = view
	}
	return views, nil
}

// storedConnection returns the stored part of a connection as the API shows it.
func (a *API) storedConnection(ctx context.Context, c relay.Connection) (Connection, error) {
	p, err := a.poll(ctx, c)
	if err != nil {
		return Connection{}, err
	}
	token, _, err := a.c.Store.Tokens.Token(ctx, c.ID)
	if errors.Is(err, relay.ErrNoToken) || token.Generation != c.Generation {
		token, err = relay.TokenRecord{}, nil
	}
	if err != nil {
		return Connection{}, err
	}
	view := Connection{
		Id: c.ID, Level: ConnectionLevel(c.Level), Site: c.Site, Sites: c.Sites,
		PollIntervalSeconds: c.PollIntervalSeconds, Paused: c.Paused,
		State: connectionState(c, p, token), SubscriptionAdopted: p.SubscriptionAdopted,
		TokenRefreshedAt: token.RefreshedAt, CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt,
	}
	if p.Outcome != nil {
		view.LastPollAt = p.Outcome.At
		if !beforeConsent(p, token) {
			view.LastError = p.Outcome.Error
		}
	}
	if token.ConsentRequiredSince != nil {
		view.LastError, view.ConsentRequiredReason = token.Reason, token.Reason
		view.ConsentRequiredSince = *token.ConsentRequiredSince
	}
	if c.Consent != nil {
		view.Consent = ConnectionConsent{
			At: c.Consent.At, Checked: c.Consent.Checked, SiteId: c.Consent.SiteID, CompanyCode: c.Consent.CompanyCode,
			TerminalId: c.Consent.TerminalID, Account: c.Consent.Account,
		}
	}
	if p.GapSuspectedAt != nil {
		view.GapSuspectedAt = *p.GapSuspectedAt
	}
	reconciled, _, err := a.c.Store.Reconciliations.Get(ctx, store.ReconcileKey(c.ID))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return Connection{}, err
	}
	if reconciled.Generation == c.Generation {
		view.Reconciling = reconciling(reconciled)
		if reconciled.Last != nil {
			view.ReconciledAt = reconciled.Last.WantedAt
		}
	}
	return view, nil
}

// reconciling returns the run under way, or nil.
func reconciling(doc relay.Reconciliation) *Reconciling {
	run := doc.Run
	if run == nil {
		return nil
	}
	causes := each.Of(run.Causes, func(c relay.ReconcileCause) ReconcileCause { return ReconcileCause(c) })
	return &Reconciling{Causes: causes, Since: run.Since, StartedAt: run.StartedAt, Done: run.Done, Total: run.Total}
}

// connectionState returns a connection's state. Without a consent polls always fail, so their
// results are ignored then.
func connectionState(c relay.Connection, p relay.Poll, token relay.TokenRecord) ConnectionState {
	switch {
	case c.Paused:
		return ConnectionStatePaused
	case token.ConsentRequiredSince != nil:
		return ConnectionStateConsentRequired
	case token.RefreshToken.Empty():
		return ConnectionStateNew
	case p.FailingSince != nil:
		return ConnectionStateFailing
	case p.Outcome == nil, beforeConsent(p, token):
		return ConnectionStateNew
	}
	return ConnectionStateActive
}

// beforeConsent reports whether the last poll failed before the present consent was given, so that
// its error is out of date.
func beforeConsent(p relay.Poll, token relay.TokenRecord) bool {
	return p.Outcome != nil && p.Outcome.Error != "" && p.Outcome.At.Before(token.ConsentAt)
}

// unreadable returns a function that logs a stored document that cannot be decoded. Lists leave it
// out.
func (a *API) unreadable(what string) func(string, error) {
	return func(key string, err error) {
		a.c.Log.Error("a stored document cannot be read", what, key, "error", err)
	}
}
