package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// ListConnections implements GET /v1/connections.
func (a *API) ListConnections(w http.ResponseWriter, r *http.Request, params ListConnectionsParams) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
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
	})
}

// A connection's state is made of what several parts know, so it is looked at for one connection after another. One page looks at stateMost
// at most, stateChunk at a time, and begins no further ones after stateWithin.
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

// GetConnection implements GET /v1/connections/{id}.
func (a *API) GetConnection(w http.ResponseWriter, r *http.Request, id Id) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		c, revision, err := a.c.Store.Connections.Get(ctx, id)
		if err != nil {
			return reply{}, err
		}
		return a.connectionReply(ctx, c, revision, false)
	})
}

// PutConnection implements PUT /v1/connections/{id}.
func (a *API) PutConnection(w http.ResponseWriter, r *http.Request, id Id, params PutConnectionParams) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		settings, err := bodyOf[ConnectionSettings](r)
		if err != nil {
			return reply{}, err
		}
		if err := a.cleanSecret(ctx, "/refreshToken", &settings.RefreshToken, "connection", id); err != nil {
			return reply{}, err
		}
		if err := checkConnection(settings); err != nil {
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
				if settings.RefreshToken != "" {
					c.Consent = nil
				}
				return c, nil
			},
			// The poller looks for the token as soon as it sees the connection.
			func(c relay.Connection) error { return a.putToken(ctx, c, settings.RefreshToken) })
		if err != nil {
			return reply{}, err
		}
		a.connections.Put(id, c, revision)
		return a.connectionReply(ctx, c, revision, created)
	})
}

// PatchConnection implements PATCH /v1/connections/{id}.
func (a *API) PatchConnection(w http.ResponseWriter, r *http.Request, id Id, params PatchConnectionParams) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		patch, err := bodyOf[json.RawMessage](r)
		if err != nil {
			return reply{}, err
		}
		var settings ConnectionSettings
		c, revision, err := change(ctx, a.c.Store.Connections, id, params.IfMatch, func(c relay.Connection) (relay.Connection, error) {
			if settings, err = patched(a, connectionSettings(c), patch, "ConnectionSettings"); err != nil {
				return c, err
			}
			if err := a.cleanSecret(ctx, "/refreshToken", &settings.RefreshToken, "connection", id); err != nil {
				return c, err
			}
			if err := checkConnection(settings); err != nil {
				return c, err
			}
			settings.apply(&c, time.Now().UTC())
			if settings.RefreshToken != "" {
				c.Consent = nil
			}
			return c, nil
		}, func(c relay.Connection) error { return a.putToken(ctx, c, settings.RefreshToken) })
		if err != nil {
			return reply{}, err
		}
		a.connections.Put(id, c, revision)
		return a.connectionReply(ctx, c, revision, false)
	})
}

// DeleteConnection implements DELETE /v1/connections/{id}. The document goes first: it is what the owner works by. Its tokens and
// its poll follow; should that fail, repeating would find nothing, so what is left is overwritten when the id is used again.
func (a *API) DeleteConnection(w http.ResponseWriter, r *http.Request, id Id, params DeleteConnectionParams) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		if params.Unsubscribe {
			if err := a.unsubscribe(ctx, id, params.IfMatch); err != nil {
				return reply{}, err
			}
		}
		_, revision, err := remove(ctx, a.c.Store.Connections, id, params.IfMatch, func(relay.Connection) error { return nil })
		if err != nil {
			return reply{}, err
		}
		a.connections.Removed(id, revision)
		for what, err := range map[string]error{
			"tokens": a.c.Store.Tokens.Delete(ctx, id), "poll": a.c.Store.Polls.Delete(ctx, id, 0),
			"reconciliation": a.c.Store.Reconciliations.Delete(ctx, store.ReconcileKey(id), 0),
		} {
			if err != nil {
				return reply{}, fmt.Errorf("remove the %s of connection %s: %w", what, id, err)
			}
		}
		return reply{body: RemovedConnection{Id: id, Notice: withdrawConsent}}, nil
	})
}

// withdrawConsent is what the API cannot do for a vendor's user.
const withdrawConsent = "The relay has forgotten the connection's tokens. The consent itself can only be withdrawn by its user, at the vendor: " +
	"until then it stays there, also if a backup from before is restored."

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

// PollConnection implements POST /v1/connections/{id}/poll.
func (a *API) PollConnection(w http.ResponseWriter, r *http.Request, id Id) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		c, _, err := a.c.Store.Connections.Get(ctx, id)
		if err != nil {
			return reply{}, err
		}
		if c.Paused {
			return reply{}, kindConflict.problem("The connection is paused.")
		}
		if err := a.c.Poller.PollNow(ctx, id); err != nil {
			return reply{}, refuse("The owner of the connection does not answer, or polls nothing as the store takes no writes.", err)
		}
		return reply{status: http.StatusAccepted}, nil
	})
}

// ReconcileConnection implements POST /v1/connections/{id}/reconcile.
func (a *API) ReconcileConnection(w http.ResponseWriter, r *http.Request, id Id, params ReconcileConnectionParams) {
	a.do(w, r, func(ctx context.Context, _ caller) (reply, error) {
		c, _, err := a.c.Store.Connections.Get(ctx, id)
		if err != nil {
			return reply{}, err
		}
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

func checkConnection(s ConnectionSettings) error {
	if s.Site == "" && len(s.Sites) == 0 {
		return invalid(at("/site", "is missing: site or sites must say which site notifications belong to"))
	}
	return checkVendorSites(s.Sites)
}

// maxVendorSite bounds a vendor's site id in a connection's table, in bytes.
const maxVendorSite = 128

// checkVendorSites refuses ids that no notification can have, which a table copied from elsewhere easily holds, and ids that are the same one.
func checkVendorSites(sites map[string]string) error {
	seen := make(map[string]string, len(sites))
	for _, id := range slices.Sorted(maps.Keys(sites)) {
		where := "/sites/" + escape(id)
		switch {
		case strings.TrimSpace(id) == "":
			return invalid(at(where, "is no site id of the vendor's: it is empty"))
		case len(id) > maxVendorSite:
			return invalid(at("/sites", "has a site id of more than %d bytes", maxVendorSite))
		case strings.TrimSpace(id) != id || strings.ContainsFunc(id, unicode.IsControl):
			return invalid(at(where, "is no site id of the vendor's: it has white space at an end, or control characters"))
		}
		folded := strings.ToLower(id)
		if first, ok := seen[folded]; ok {
			return invalid(at(where, "is the same site id of the vendor's as %s", first))
		}
		seen[folded] = id
	}
	return nil
}

// apply writes the settings into a connection.
func (s ConnectionSettings) apply(c *relay.Connection, now time.Time) {
	c.Level, c.Site, c.Sites = relay.Level(s.Level), s.Site, s.Sites
	c.PollIntervalSeconds, c.Paused, c.UpdatedAt = s.PollIntervalSeconds, s.Paused, now
}

// connectionSettings is what apply wrote.
func connectionSettings(c relay.Connection) ConnectionSettings {
	return ConnectionSettings{
		Level: ConnectionLevel(c.Level), Site: c.Site, Sites: c.Sites, PollIntervalSeconds: c.PollIntervalSeconds, Paused: c.Paused,
	}
}

// putToken stores a refresh token in place of all that was known of the one before.
func (a *API) putToken(ctx context.Context, c relay.Connection, refreshToken string) error {
	if refreshToken == "" {
		return nil
	}
	record := audatex.TokenRecord{RefreshToken: audatex.NewSecret(refreshToken), Generation: c.Generation, ConsentAt: time.Now().UTC()}
	for try := range tries {
		rest(ctx, try)
		_, revision, err := a.c.Store.Tokens.Token(ctx, c.ID)
		if err != nil && !errors.Is(err, audatex.ErrNoToken) {
			return err
		}
		if _, err = a.c.Store.Tokens.SaveToken(ctx, c.ID, record, revision); !errors.Is(err, audatex.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("store the refresh token of connection %s: %w", c.ID, store.ErrConflict)
}

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
	if errors.Is(err, audatex.ErrNoToken) || token.Generation != c.Generation {
		token, err = audatex.TokenRecord{}, nil
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
func connectionState(c relay.Connection, p relay.Poll, token audatex.TokenRecord) ConnectionState {
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
func beforeConsent(p relay.Poll, token audatex.TokenRecord) bool {
	return p.Outcome != nil && p.Outcome.Error != "" && p.Outcome.At.Before(token.ConsentAt)
}

// unreadable tells the log of a stored document that cannot be decoded. It is left out of lists.
func (a *API) unreadable(what string) func(string, error) {
	return func(key string, err error) {
		a.c.Log.Error("a stored document cannot be read", what, key, "error", err)
	}
}
