package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-openapi/jsonpointer"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	startNow      = "now"
	startEarliest = "earliest"
)

// minRate is the lowest rate above 0: about one delivery in a quarter of an hour.
const minRate = 0.001

// newCallback returns a callback of the client made from settings, and its secret as it will be
// shown.
func (a *API) newCallback(
	ctx context.Context, m maker, id string, owner relay.Client, s CallbackSettings,
) (relay.Callback, string, error) {
	now := time.Now().UTC()
	cb := relay.Callback{ID: id, Client: owner.ID, ClientGeneration: owner.Generation, Generation: relay.NewID(),
		CreatedAt: now}
	s, cleaned := cleanCallback(s)
	err := a.apply(&cb, owner, s, cleaned, now)
	if err != nil {
		return cb, "", err
	}
	cleaned.warn(ctx, a.c.Log, "callback", id)
	if cb.StartFrom, cb.StartSeq, err = a.startPosition(ctx, s.StartFrom, now); err != nil {
		return cb, "", err
	}
	secret, err := signingSecret(s.Secret, m)
	if err != nil {
		return cb, "", err
	}
	cb.Secrets.Signing = []relay.SigningSecret{{Secret: secret, CreatedAt: now}}
	return cb, secret, nil
}

// replaceSettings writes settings into an existing callback. If they have a secret, the callback's
// secret is rotated.
func (a *API) replaceSettings(ctx context.Context, cb relay.Callback, s CallbackSettings) (relay.Callback, error) {
	owner, _, err := a.c.Store.Clients.Get(ctx, cb.Client)
	if errors.Is(err, store.ErrNotFound) || err == nil && !cb.BelongsTo(owner) { // the client is gone and sees nothing
		owner, err = relay.Client{ID: cb.Client}, nil
	}
	if err != nil {
		return cb, fmt.Errorf("read the client of callback %s: %w", cb.ID, err)
	}
	if s.StartFrom != "" && s.StartFrom != cb.StartFrom {
		return cb, invalid(at("/startFrom", "counts only when the callback is made"))
	}
	now := time.Now().UTC()
	s, cleaned := cleanCallback(s)
	before, filter := cb.Secrets, cb.Filter
	if err := a.apply(&cb, owner, s, cleaned, now); err != nil {
		return cb, err
	}
	if !filter.Equal(cb.Filter) {
		cb.FilterChangedAt = now
	}
	cleaned.warn(ctx, a.c.Log, "callback", cb.ID)
	if s.Secret != "" {
		_, err = rotate(&cb, s.Secret, relay.DefaultSecretOverlap, maker{}, now)
	}
	after := cb.Secrets
	if before.URL != after.URL || before.Present() != after.Present() || !maps.Equal(before.Headers, after.Headers) ||
		!reflect.DeepEqual(before.Auth, after.Auth) {
		cb.Resumed++ // what failed may succeed now
	}
	return cb, err
}

// apply checks settings, and writes all but secret and startFrom into a callback.
func (a *API) apply(cb *relay.Callback, owner relay.Client, s CallbackSettings, cleaned *cleaner, now time.Time) error {
	if errs := cleaned.with(a.checkCallback(owner, s, *cb)); len(errs) > 0 {
		return invalid(errs...)
	}
	cb.SetURL(s.Url)
	cb.Description = s.Description
	cb.Filter = relay.Filter{
		Sites: s.Sites, Types: s.Types, Orders: each.Of(s.Orders, strings.ToLower), OrderStatuses: s.OrderStatuses,
		ChangedOnly: s.ChangedOnly,
	}
	cb.RatePerSecond, cb.Paused, cb.UpdatedAt = s.RatePerSecond, s.Paused, now
	cb.Concurrency = cmp.Or(s.Concurrency, relay.DefaultConcurrency)
	cb.TimeoutSeconds = cmp.Or(s.TimeoutSeconds, relay.DefaultTimeoutSeconds)
	cb.Mode = cmp.Or(relay.Mode(s.Mode), relay.ModeEvery)
	cb.ContentType = string(cmp.Or(s.ContentType, CallbackSettingsContentTypeApplicationjson))
	cb.Secrets.Headers, cb.HeaderNames = s.Headers, slices.Sorted(maps.Keys(s.Headers))
	cb.Secrets.Auth, cb.AuthType = authOf(s.Auth), string(s.Auth.Type)
	return nil
}

// callbackSettings is the inverse of apply.
func callbackSettings(cb relay.Callback) CallbackSettings {
	s := CallbackSettings{
		Url: cb.Secrets.URL, Description: cb.Description, Sites: cb.Filter.Sites, Types: cb.Filter.Types,
		Orders: cb.Filter.Orders, OrderStatuses: cb.Filter.OrderStatuses, ChangedOnly: cb.Filter.ChangedOnly,
		Headers: cb.Secrets.Headers, Concurrency: cb.Concurrency, RatePerSecond: cb.RatePerSecond,
		TimeoutSeconds: cb.TimeoutSeconds,
		Mode:           CallbackMode(cb.Mode),
		ContentType:    CallbackSettingsContentType(cb.ContentType), Paused: cb.Paused,
	}
	s.Auth = callbackAuth(cb.Secrets.Auth)
	return s
}

// checkCallback checks what the contract's schema cannot. A URL and sites that the callback already
// has are accepted: they may no longer be allowed, but deliveries check that, and it must not
// prevent anybody from pausing the callback.
func (a *API) checkCallback(owner relay.Client, s CallbackSettings, before relay.Callback) (errs []FieldError) {
	if relay.IsRedacted(s.Url) {
		errs = append(errs, at("/url", "holds %s, which stands in lists and in what keys of role read see: "+
			"send the whole URL, or leave it out of a PATCH", relay.RedactionMark))
	} else if err := sender.CheckURL(s.Url, a.c.CallbackNets); err != nil && s.Url != before.Secrets.URL {
		errs = append(errs, at("/url", "%s", err))
	}
	seen, kept := relay.Sorted(owner.Sites), relay.Sorted(before.Filter.Sites)
	for i, site := range s.Sites {
		if !owner.AllSites && !relay.Among(seen, site) && !relay.Among(kept, site) { // whether or not it exists
			errs = append(errs, at(fmt.Sprintf("/sites/%d", i), "is not a site of this client"))
		}
	}
	errs = append(errs, checkFilter(s.Types, s.OrderStatuses)...)
	if wrong, ok := errors.AsType[sender.HeaderErrors](sender.CheckHeaders(s.Headers)); ok {
		for _, e := range wrong {
			errs = append(errs, at("/headers/"+jsonpointer.Escape(e.Name), "%s", e.Reason))
		}
	}
	if s.RatePerSecond > 0 && s.RatePerSecond < minRate {
		errs = append(errs, at("/ratePerSecond", "must be 0, or at least %g", minRate))
	}
	errs = append(errs, a.checkAuth(s.Auth, before.Secrets.Auth)...)
	if s.Auth.Type != "" {
		for name := range s.Headers {
			if http.CanonicalHeaderKey(name) == "Authorization" {
				errs = append(errs, at("/headers/"+jsonpointer.Escape(name), "is said by auth already"))
			}
		}
	}
	return errs
}

// checkFilter checks what the contract's schema cannot of a filter's types and statuses.
func checkFilter(types, statuses []string) (errs []FieldError) {
	for i, typ := range types {
		if err := relay.CheckType(typ); err != nil {
			errs = append(errs, at(fmt.Sprintf("/types/%d", i), "%s", err))
		}
	}
	for i, status := range statuses {
		if err := relay.CheckOrderStatus(status); err != nil {
			errs = append(errs, at(fmt.Sprintf("/orderStatuses/%d", i), "%s", err))
		}
	}
	return errs
}

// startPosition returns the log position after which a callback begins.
func (a *API) startPosition(ctx context.Context, from string, now time.Time) (string, uint64, error) {
	first, last, err := a.c.Store.Events.Bounds(ctx)
	if err != nil {
		return "", 0, err
	}
	switch from {
	case "", startNow:
		return startNow, last, nil
	case startEarliest:
		return startEarliest, first - 1, nil
	}
	since, err := time.Parse(time.RFC3339Nano, from)
	if err != nil {
		return "", 0, invalid(at("/startFrom", "must be now, earliest or an RFC 3339 time"))
	}
	if since.After(now) {
		return "", 0, invalid(at("/startFrom", "must not lie in the future"))
	}
	events, _, err := a.c.Store.Events.ScanSince(ctx, logTime(since), nil, 1)
	if err != nil {
		return "", 0, err
	}
	if len(events) > 0 {
		last = events[0].Seq - 1
	}
	return from, last, nil
}
