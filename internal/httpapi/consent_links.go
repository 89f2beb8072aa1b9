package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/consent"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// createConsentLink implements POST /v1/connections/{id}/consent-links.
func (a *API) createConsentLink(
	ctx context.Context, by caller, id Id, _ CreateConsentLinkParams, settings ConsentLinkSettings,
) (reply, error) {
	c, _, err := a.c.Store.Connections.Get(ctx, id)
	if err != nil {
		return reply{}, err
	}
	made, err := a.makeLinks(ctx, exchangeOf(ctx).maker, by, []relay.Connection{c}, settings)
	if err != nil {
		return reply{}, err
	}
	path := "/v1/connections/" + id + "/consent-links/" + made[0].Id
	return reply{status: http.StatusCreated, made: path, body: made[0]}, nil
}

// createConsentLinks implements POST /v1/consent-links.
func (a *API) createConsentLinks(ctx context.Context, by caller, _ CreateConsentLinksParams, body ConsentLinksSettings) (reply, error) {
	connections := make([]relay.Connection, len(body.Connections))
	var unknown []FieldError
	for i, found := range a.c.Store.Connections.Current(ctx, body.Connections) {
		switch {
		case found.Err != nil:
			return reply{}, found.Err
		case found.Deleted:
			unknown = append(unknown, at(fmt.Sprintf("/connections/%d", i), "there is no connection %q", found.Key))
		}
		connections[i] = found.Value
	}
	if len(unknown) > 0 {
		return reply{}, invalid(unknown...)
	}
	settings := ConsentLinkSettings{Force: body.Force, ReturnUrl: body.ReturnUrl}
	made, err := a.makeLinks(ctx, exchangeOf(ctx).maker, by, connections, settings)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusCreated, body: ConsentLinksCreated{Items: made}}, nil
}

// makeLinks makes a link for each connection.
func (a *API) makeLinks(
	ctx context.Context, m maker, by caller, connections []relay.Connection, settings ConsentLinkSettings,
) ([]ConsentLinkCreated, error) {
	if err := a.c.Consents.Usable(); err != nil {
		return nil, kindLinksOff.problem("%s.", err)
	}
	if err := a.c.Consents.CheckReturnURL(settings.ReturnUrl); err != nil {
		return nil, invalid(at("/returnUrl", "%s", err))
	}
	wanted := make([]consent.NewLink, len(connections))
	for i, c := range connections {
		wanted[i] = consent.NewLink{
			Token: m.bytes("consent link of "+c.ID, consent.TokenBytes), Connection: c,
			Force: settings.Force, ReturnURL: settings.ReturnUrl, CreatedBy: by.admin,
		}
	}
	made, err := a.c.Consents.Make(ctx, wanted)
	if errors.Is(err, consent.ErrTooMany) {
		return nil, kindLimit.problem("%s. Withdraw some of them first.", sentence(err))
	}
	if err != nil {
		return nil, err
	}
	return each.Of(made, func(m consent.Made) ConsentLinkCreated {
		return ConsentLinkCreated{Id: m.ID, Connection: m.Connection, Url: m.URL, ExpiresAt: m.ExpiresAt}
	}), nil
}

// sentence returns an error's text with a capital letter.
func sentence(err error) string {
	text := []byte(err.Error())
	if text[0] >= 'a' && text[0] <= 'z' {
		text[0] -= 'a' - 'A'
	}
	return string(text)
}

// listConsentLinks implements GET /v1/connections/{id}/consent-links.
func (a *API) listConsentLinks(ctx context.Context, _ caller, id Id, params ListConsentLinksParams) (reply, error) {
	return a.withConnection(ctx, id, func(c relay.Connection, _ uint64) (reply, error) {
		own := func(l relay.ConsentLink) bool { return l.Generation == c.Generation }
		return a.consentLinks(ctx, id, params.After, params.Limit, params.State, own)
	})
}

// listAllConsentLinks implements GET /v1/consent-links.
func (a *API) listAllConsentLinks(ctx context.Context, _ caller, params ListAllConsentLinksParams) (reply, error) {
	all := func(relay.ConsentLink) bool { return true }
	return a.consentLinks(ctx, "", params.After, params.Limit, params.State, all)
}

// consentLinks returns a page of the links that pass, of one connection or of all.
func (a *API) consentLinks(
	ctx context.Context, connection, after string, limit int, states []ConsentLinkState,
	pass func(relay.ConsentLink) bool,
) (reply, error) {
	after, err := afterKey(after)
	if err != nil {
		return reply{}, err
	}
	if err := await(ctx, a.c.Consents.Ready()); err != nil {
		return reply{}, err
	}
	limit = cmp.Or(limit, defaultLimit)
	now := time.Now()
	links, more := a.c.Consents.Page(connection, after, limit, func(l relay.ConsentLink) bool {
		return pass(l) && (len(states) == 0 || slices.Contains(states, a.linkState(l, now)))
	})
	list := ConsentLinkList{Items: views(links, func(l relay.ConsentLink) ConsentLink { return a.linkView(l, now) })}
	if more {
		list.Next = token('k', links[limit-1].Key)
	}
	return reply{body: list}, nil
}

// linkState returns a link's state. A link whose connection is gone can no longer be used.
func (a *API) linkState(l relay.ConsentLink, now time.Time) ConsentLinkState {
	state := l.State(now)
	if state == relay.ConsentLinkOpen {
		if c, there := a.connections.Get(l.Connection); !there || c.Value.Generation != l.Generation {
			state = relay.ConsentLinkWithdrawn
		}
	}
	return ConsentLinkState(state)
}

func (a *API) linkView(l relay.ConsentLink, now time.Time) ConsentLink {
	view := ConsentLink{
		Id: l.ID, Connection: l.Connection, State: a.linkState(l, now), Force: l.Force, ReturnUrl: l.ReturnURL,
		CreatedAt: l.CreatedAt, CreatedBy: l.CreatedBy, ExpiresAt: l.ExpiresAt, LastOpenedAt: timeOf(l.LastOpenedAt),
		UsedAt: timeOf(l.UsedAt), WithdrawnAt: timeOf(l.WithdrawnAt), Begun: len(l.Attempts),
	}
	for _, attempt := range l.Attempts {
		if r := attempt.Result; r != nil && r.At.After(view.LastResult.At) {
			view.LastResult = ConsentResult{
				Outcome: string(r.Outcome), At: r.At, SiteId: r.Found.SiteID, CompanyCode: r.Found.CompanyCode,
				TerminalId: r.Found.TerminalID, Account: r.Found.Account, CorrelationId: r.CorrelationID,
			}
		}
	}
	return view
}

// deleteConsentLink implements DELETE /v1/connections/{id}/consent-links/{linkId}.
func (a *API) deleteConsentLink(ctx context.Context, _ caller, id Id, linkID ConsentLinkId) (reply, error) {
	c, _, err := a.c.Store.Connections.Get(ctx, id)
	if err == nil {
		err = a.c.Consents.Withdraw(ctx, c, linkID)
	}
	if errors.Is(err, store.ErrNotFound) {
		return reply{}, notFound()
	}
	return reply{status: http.StatusNoContent}, err
}
