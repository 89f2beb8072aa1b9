package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/httpapi"
	"github.com/audatex-relay/relay/internal/owners"
	"github.com/audatex-relay/relay/internal/poller"
	"github.com/audatex-relay/relay/internal/reconciler"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/replay"
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
	owners *owners.Owners
}

// refresh asks the connection's owner to make sure that the stored token is good: only the owner
// refreshes it. Where that fails, the call that follows returns why.
func (v *vendor) refresh(ctx context.Context, connection string) {
	ctx, cancel := context.WithTimeout(ctx, refreshPatience)
	defer cancel()
	_ = v.owners.Ask(ctx, relay.ShardOf(connection), askAccess, connection, nil)
}

// refreshPatience is how long a call of the API waits for a token to be refreshed.
const refreshPatience = 20 * time.Second

func (v *vendor) session(c relay.Connection) *audatex.Session {
	return audatex.NewSession(v.client, v.tokens, c.ID, c.Level)
}

// Order reads an order for the resolver. Levels differ in the event calls only, so the connection's id is enough.
func (v *vendor) Order(
	ctx context.Context, connection, id string, begin func() (context.Context, error),
) (json.RawMessage, error) {
	order, err := audatex.NewSession(v.client, v.tokens, connection, relay.LevelSite).Order(ctx, id, begin)
	return order.JSON, err
}

// knownConnections is the poller as the reconciler sees it. The poller is made after the
// reconciler, which learns of gaps from it.
type knownConnections struct{ *poller.Poller }

// unhurried reads orders for the reconciler: behind all other requests.
type unhurried struct{ vendor *vendor }

// Order reads an order.
func (u unhurried) Order(
	ctx context.Context, connection, id string, begin func() (context.Context, error),
) (json.RawMessage, error) {
	session := audatex.NewSession(u.vendor.client, u.vendor.tokens, connection, relay.LevelSite)
	order, err := session.At(audatex.PriorityReconcile).Order(ctx, id, begin)
	return order.JSON, err
}

// Assessment looks up an assessment for the API.
func (v *vendor) Assessment(ctx context.Context, c relay.Connection, originator, number string) (string, error) {
	v.refresh(ctx, c.ID)
	return v.session(c).AssessmentID(ctx, originator, number)
}

// Unsubscribe ends a subscription for the API.
func (v *vendor) Unsubscribe(ctx context.Context, c relay.Connection, subscription string) error {
	v.refresh(ctx, c.ID)
	return v.session(c).Unsubscribe(ctx, subscription)
}

// notifications is the resolver as the API sees it: each connection's own replica responds.
type notifications struct {
	*resolver.Resolver
	vendor *vendor
}

// Doing returns what only their owners know of connections, of those whose owners respond.
func (n notifications) Doing(ctx context.Context, connections []string) map[string]httpapi.Doing {
	return owners.Gather[httpapi.Doing](ctx, n.vendor.owners, askDoing, connections, relay.ShardOf)
}

// Retry resolves an unresolved notification now, at the replica that got the request: the log's
// condition decides if two do so.
func (n notifications) Retry(ctx context.Context, unresolved string) (relay.RetryOutcome, error) {
	if doc, _, err := n.vendor.store.Unresolved.Get(ctx, unresolved); err == nil {
		n.vendor.refresh(ctx, doc.Connection)
	}
	return n.Resolver.Retry(ctx, unresolved)
}

// RetryAll is Retry of several.
func (n notifications) RetryAll(
	ctx context.Context, unresolved []relay.Unresolved, each func(id string, outcome relay.RetryOutcome, err error),
) {
	var refreshing sync.WaitGroup
	refreshed := map[string]bool{}
	for _, u := range unresolved {
		if !refreshed[u.Connection] {
			refreshed[u.Connection] = true
			refreshing.Go(func() { n.vendor.refresh(ctx, u.Connection) })
		}
	}
	refreshing.Wait()
	n.Resolver.RetryAll(ctx, unresolved, each)
}

// callbacks is the dispatcher as the API sees it: each callback's own replica responds.
type callbacks struct {
	*dispatcher.Dispatcher
	deliverer *delivery.Deliverer
	owners    *owners.Owners
}

// Status returns how callbacks are doing, of those whose owners respond.
func (c callbacks) Status(ctx context.Context, ids []string) map[string]httpapi.Status {
	return owners.Gather[httpapi.Status](ctx, c.owners, askStatus, ids, relay.ShardOf)
}

// health returns the health of callbacks whose owners respond.
func (c callbacks) health(ctx context.Context, ids []string) map[string]string {
	all := map[string]string{}
	for id, status := range c.Status(ctx, ids) {
		all[id] = string(status.Health)
		if status.Health == httpapi.CallbackHealthCongested && status.Slowed.PerSecond > 0 {
			all[id] = "slowed" // the receiver gets as much as it asks for: that is no trouble
		}
	}
	return all
}

// RetryDelivery asks the owner to make a delivery that waits due now.
func (c callbacks) RetryDelivery(
	ctx context.Context, cb relay.Callback, seq uint64, order string,
) (w httpapi.Waiting, err error) {
	err = c.owners.Ask(ctx, relay.ShardOf(cb.ID), askRetry, deliveryRef{cb.ID, cb.Generation, seq, order}, &w)
	return w, err
}

// SkipDelivery asks the owner to end a delivery that waits.
func (c callbacks) SkipDelivery(
	ctx context.Context, cb relay.Callback, seq uint64, order string,
) (w httpapi.Waiting, err error) {
	err = c.owners.Ask(ctx, relay.ShardOf(cb.ID), askSkip, deliveryRef{cb.ID, cb.Generation, seq, order}, &w)
	return w, err
}

// loadPatience is how long a test waits for the owner of a callback that was made just now to learn
// of it, loadAgain how often it asks.
const (
	loadPatience = 3 * time.Second
	loadAgain    = 50 * time.Millisecond
)

// beginTest asks the callback's owner to permit a test.
func (c callbacks) beginTest(ctx context.Context, of testedCallback) error {
	ctx, cancel := context.WithTimeout(ctx, loadPatience)
	defer cancel()
	for {
		var answer testAnswer
		switch err := c.owners.Ask(ctx, relay.ShardOf(of.Callback), askTest, of, &answer); {
		case err != nil:
			return err
		case answer.Known && answer.Granted:
			return nil
		case answer.Known:
			return &httpapi.TestRefusedError{Reason: answer.Reason, Again: answer.Again}
		}
		if !backoff.Sleep(ctx, loadAgain) {
			return fmt.Errorf("test callback %s: %w", of.Callback, dispatcher.ErrUnknown)
		}
	}
}

// Test sends one event to a callback exactly as deliveries are sent, if the callback's owner permits
// it: a test counts against the concurrency and rate of the callback, whichever replica sends it.
func (c callbacks) Test(
	ctx context.Context, cb relay.Callback, ev relay.Event, inspect *sender.Inspection,
) (relay.AttemptRecord, error) {
	body, err := relay.Encode(ev)
	if err != nil {
		return relay.AttemptRecord{}, fmt.Errorf("encode the sample event: %w", err)
	}
	of := testedCallback{Callback: cb.ID, Generation: cb.Generation}
	if err := c.beginTest(ctx, of); err != nil {
		return relay.AttemptRecord{}, err
	}
	defer func() { // if this is lost, the owner ends the test itself
		_ = c.owners.Ask(context.WithoutCancel(ctx), relay.ShardOf(cb.ID), askTested, of, nil)
	}()
	a, err := c.deliverer.Test(ctx, cb, body, ev.ID, inspect)
	if err != nil {
		return relay.AttemptRecord{}, err
	}
	of.Delivered = a.Outcome == sender.Success
	record := a.Record()
	record.Event, record.Order, record.Number = ev.ID, ev.Subject, 1
	if a.Outcome == sender.Success {
		record.Closing = relay.DeliveryDelivered
	}
	return record, nil
}

// What replicas ask the owner of a shard: the last token of the request's subject. They are part of
// what runs between versions.
const (
	askPoll      = "poll"   // a connection id: poll it now
	askReconcile = "again"  // a connection: read its open orders again
	askAccess    = "access" // a connection id: make sure that its stored access token is good
	askStatus    = "status" // callback ids: how they are doing
	askDoing     = "doing"  // connection ids: what only their owner knows of them
	askTest      = "test"   // a callback: whether a test may be sent to it now
	askTested    = "tested" // a callback: its test has ended
	askRetry     = "retry"  // a delivery: make it due now
	askSkip      = "skip"   // a delivery: end it
)

// answers returns the functions by which this replica handles requests about the shards that it owns.
func answers(
	polling *poller.Poller, reconciling *reconciler.Reconciler, resolving *resolver.Resolver,
	dispatching *dispatcher.Dispatcher, replaying *replay.Replayer, tokens *audatex.Tokens,
) map[string]owners.Handler {
	return map[string]owners.Handler{
		askPoll: owners.Answer(func(ctx context.Context, connection string) (any, error) {
			return nil, polling.PollNow(ctx, connection)
		}),
		askReconcile: owners.Answer(func(ctx context.Context, of reconcileRequest) (any, error) {
			return reconciling.Reconcile(ctx, of.Connection, of.Delivered)
		}),
		askAccess: owners.Answer(func(ctx context.Context, connection string) (any, error) {
			_, err := tokens.Access(ctx, connection) // the caller reads it from the store: not sent in the clear
			return nil, err
		}),
		askStatus: owners.Look(func(_ context.Context, id string) (httpapi.Status, bool) {
			s, ok := dispatching.Status(id)
			status := httpapi.Status{Health: httpapi.CallbackHealth(s.Health), Backlog: s.Backlog,
				LagSeconds: s.LagSeconds, Expired: s.Expired}
			if slow := s.Slowed; slow != nil {
				status.Slowed = httpapi.CallbackSlowed{PerSecond: slow.PerSecond, Since: slow.Since}
			}
			return status, ok
		}),
		askDoing: owners.Look(func(ctx context.Context, id string) (httpapi.Doing, bool) {
			var d httpapi.Doing
			var polled bool
			d.Unstored, polled = polling.Unstored(id)
			n, err := resolving.Waiting(ctx, id)
			if err == nil {
				d.Waiting = &n
			}
			return d, polled || err == nil
		}),
		askTest: owners.Answer(func(_ context.Context, of testedCallback) (any, error) {
			permission, known := dispatching.BeginTest(of.Callback, of.Generation)
			return testAnswer{permission, known}, nil
		}),
		askRetry: owners.Answer(func(_ context.Context, of deliveryRef) (any, error) {
			w, earlier, err := dispatching.Retry(of.Callback, of.Generation, of.Seq, of.Order)
			return httpapi.Waiting{State: w, Earlier: earlier}, err
		}),
		askSkip: owners.Answer(func(ctx context.Context, of deliveryRef) (any, error) {
			w, err := dispatching.Skip(ctx, of.Callback, of.Generation, of.Seq)
			return httpapi.Waiting{State: w}, err
		}),
		askTested: owners.Answer(func(_ context.Context, of testedCallback) (any, error) {
			dispatching.EndTest(of.Callback, of.Generation, of.Delivered)
			if of.Delivered {
				replaying.Answers(of.Callback, of.Generation)
			}
			return nil, nil
		}),
	}
}

// deliveryRef names a delivery.
type deliveryRef struct {
	Callback   string `json:"callback"`
	Generation string `json:"generation"`
	Seq        uint64 `json:"seq"`
	Order      string `json:"order"`
}

// testedCallback names the callback of a test.
type testedCallback struct {
	Callback   string `json:"callback"`
	Generation string `json:"generation"`
	Delivered  bool   `json:"delivered,omitempty"` // the test was successful
}

// testAnswer is the owner's response to askTest. Known is false while it has not loaded the callback.
type testAnswer struct {
	capacity.TestPermission

	Known bool `json:"known"`
}

// reconcileRequest names the connection whose open orders must be read again.
type reconcileRequest struct {
	Connection string `json:"connection"`
	Delivered  bool   `json:"delivered"`
}

// reconcilers is the reconciler as the API sees it: the connection's own replica reads its orders.
type reconcilers struct{ owners *owners.Owners }

// Reconcile asks the owner to have a connection's open orders read again. It returns when that is stored.
func (r reconcilers) Reconcile(
	ctx context.Context, connection string, delivered bool,
) (doc relay.Reconciliation, err error) {
	err = r.owners.Ask(ctx, relay.ShardOf(connection), askReconcile, reconcileRequest{connection, delivered}, &doc)
	return doc, err
}

// pollers is the poller as the API sees it: the connection's own replica polls.
type pollers struct{ owners *owners.Owners }

// PollNow asks the owner for a poll at once. It does not wait for it. The owner refuses while the
// store takes no writes.
func (p pollers) PollNow(ctx context.Context, connection string) error {
	return p.owners.Ask(ctx, relay.ShardOf(connection), askPoll, connection, nil)
}
