package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/httpapi"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/resolver"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
)

// The stages and the API do not import one another: what one needs of the other is joined here.

// vendor binds the client to the connections that are stored.
type vendor struct {
	store  *store.Store
	client *audatex.Client
	tokens *audatex.Tokens
}

func (v *vendor) session(c relay.Connection) *audatex.Session {
	return audatex.NewSession(v.client, v.tokens, c.ID, c.Level)
}

// Order reads an order for the resolver. Levels differ in the event calls only, so the connection's id is enough.
func (v *vendor) Order(ctx context.Context, connection, id string) (json.RawMessage, error) {
	order, err := audatex.NewSession(v.client, v.tokens, connection, relay.LevelSite).Order(ctx, id)
	return order.JSON, err
}

// Assessment looks up an assessment for the API.
func (v *vendor) Assessment(ctx context.Context, c relay.Connection, originator, number string) (string, error) {
	return v.session(c).AssessmentID(ctx, originator, number)
}

// Unsubscribe ends a subscription for the API.
func (v *vendor) Unsubscribe(ctx context.Context, c relay.Connection, subscription string) error {
	return v.session(c).Unsubscribe(ctx, subscription)
}

// notifications is the resolver as the API sees it.
type notifications struct{ *resolver.Resolver }

// Retry resolves an unresolved notification now.
func (n notifications) Retry(ctx context.Context, unresolved string) (httpapi.Retry, error) {
	outcome, err := n.Resolver.Retry(ctx, unresolved)
	switch outcome {
	case resolver.RetryResolved:
		return httpapi.Retried, nil
	case resolver.RetryNotFound:
		return httpapi.RetryUnknown, err
	case resolver.RetryRefused:
		return httpapi.RetryRefused, err
	case resolver.RetryUnavailable:
	}
	return httpapi.RetryUnavailable, err
}

// callbacks is the dispatcher as the API sees it.
type callbacks struct{ *dispatcher.Dispatcher }

// Status answers how a callback is doing.
func (c callbacks) Status(id string) (httpapi.Status, bool) {
	s, ok := c.Dispatcher.Status(id)
	return httpapi.Status{
		Health: httpapi.CallbackHealth(s.Health), Backlog: s.Backlog, Lag: time.Duration(s.LagSeconds * float64(time.Second)),
	}, ok
}

// Test sends one event to a callback over the path that deliveries take.
func (c callbacks) Test(ctx context.Context, cb relay.Callback, ev relay.Event) (relay.AttemptRecord, error) {
	body, err := relay.Encode(ev)
	if err != nil {
		return relay.AttemptRecord{}, fmt.Errorf("encode the sample event: %w", err)
	}
	a := c.Dispatcher.Test(ctx, cb, body, ev.ID)
	record := relay.AttemptRecord{
		Event: ev.ID, Order: ev.Subject, Number: 1, At: a.At, DurationMillis: float64(a.Duration) / float64(time.Millisecond),
		Outcome: a.Outcome.String(), Status: a.Status, Error: a.Error, Excerpt: a.Excerpt,
	}
	if a.Outcome == sender.Success {
		record.Closing = relay.DeliveryDelivered
	}
	return record, nil
}
