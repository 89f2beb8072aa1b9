package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

func (a *API) connectionReply(ctx context.Context, c relay.Connection, revision uint64, created bool) (reply, error) {
	view, err := a.connectionView(ctx, c)
	answer := reply{revision: revision, body: view}
	if created {
		answer.status, answer.location = http.StatusCreated, "/v1/connections/"+c.ID
	}
	return answer, err
}

// poll answers where the connection stands with the vendor's queue; of an earlier connection of the same id, nothing.
func (a *API) poll(ctx context.Context, c relay.Connection) (relay.Poll, error) {
	p, _, err := a.c.Store.Polls.Get(ctx, c.ID)
	if errors.Is(err, store.ErrNotFound) || err == nil && p.Generation != c.Generation {
		return relay.Poll{}, nil
	}
	return p, err
}

// connectionView is what reads answer.
func (a *API) connectionView(ctx context.Context, c relay.Connection) (Connection, error) {
	views, err := a.connectionViews(ctx, []relay.Connection{c})
	if err != nil {
		return Connection{}, err
	}
	return views[0], nil
}

// connectionViews is the same of several. Their owners are asked all at once.
func (a *API) connectionViews(ctx context.Context, connections []relay.Connection) ([]Connection, error) {
	ids := make([]string, len(connections))
	for i, c := range connections {
		ids[i] = c.ID
	}
	doing := a.c.Resolver.Doing(ctx, ids)
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

// storedConnection is what is stored of a connection as reads answer it.
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
		Id: c.ID, Level: ConnectionLevel(c.Level), Site: c.Site, Sites: c.Sites, PollIntervalSeconds: c.PollIntervalSeconds, Paused: c.Paused,
		State: connectionState(c, p, token), SubscriptionAdopted: p.SubscriptionAdopted, TokenRefreshedAt: token.RefreshedAt,
		CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt,
	}
	if p.Outcome != nil {
		view.LastPollAt = p.Outcome.At
		if !beforeConsent(p, token) {
			view.LastError = p.Outcome.Error
		}
	}
	if token.ConsentRequiredSince != nil {
		view.LastError, view.ConsentRequiredSince, view.ConsentRequiredReason = token.Reason, *token.ConsentRequiredSince, token.Reason
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

// reconciling is the run under way, nil if there is none.
func reconciling(doc relay.Reconciliation) *Reconciling {
	run := doc.Run
	if run == nil {
		return nil
	}
	causes := make([]ReconcileCause, len(run.Causes))
	for i, c := range run.Causes {
		causes[i] = ReconcileCause(c)
	}
	return &Reconciling{Causes: causes, Since: run.Since, StartedAt: run.StartedAt, Done: run.Done, Total: run.Total}
}

// connectionState says how a connection is doing. Polls of one that has no consent come to nothing, so they do not make it active or failing.
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

// beforeConsent reports whether the last poll failed before the consent there is now was given: its error says nothing of that.
func beforeConsent(p relay.Poll, token relay.TokenRecord) bool {
	return p.Outcome != nil && p.Outcome.Error != "" && p.Outcome.At.Before(token.ConsentAt)
}

// unreadable tells the log of a stored document that cannot be decoded. It is left out of lists.
func (a *API) unreadable(what string) func(string, error) {
	return func(key string, err error) {
		a.c.Log.Error("a stored document cannot be read", what, key, "error", err)
	}
}
