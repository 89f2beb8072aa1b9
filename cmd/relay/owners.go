package main

import (
	"context"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/httpapi"
	"github.com/audatex-relay/relay/internal/owners"
	"github.com/audatex-relay/relay/internal/poller"
	"github.com/audatex-relay/relay/internal/reconciler"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/resolver"
)

// What replicas ask the owner of a shard: the last token of the request's subject. They are part of
// what runs between versions.
const (
	askPoll   = "poll"   // a connection id: poll it now
	askAgain  = "again"  // a connection: read its open orders again
	askAccess = "access" // a connection id: make sure that its stored access token is good
	askStatus = "status" // callback ids: how they are doing
	askDoing  = "doing"  // connection ids: what only their owner knows of them
	askTest   = "test"   // a callback: whether a test may be sent to it now
	askTested = "tested" // a callback: its test has ended
)

// answers returns the functions by which this replica handles requests about the shards that it
// owns.
func answers(
	polling *poller.Poller, reconciling *reconciler.Reconciler, resolving *resolver.Resolver, dispatching *dispatcher.Dispatcher,
	tokens *audatex.Tokens,
) map[string]owners.Handler {
	return map[string]owners.Handler{
		askPoll: owners.Answer(func(ctx context.Context, connection string) (any, error) {
			return nil, polling.PollNow(ctx, connection)
		}),
		askAgain: owners.Answer(func(ctx context.Context, of again) (any, error) {
			return reconciling.Reconcile(ctx, of.Connection, of.Delivered)
		}),
		askAccess: owners.Answer(func(ctx context.Context, connection string) (any, error) {
			_, err := tokens.Access(ctx, connection) // the caller reads it from the store: not sent in the clear
			return nil, err
		}),
		askStatus: owners.Look(func(_ context.Context, id string) (httpapi.Status, bool) {
			s, ok := dispatching.Status(id)
			return httpapi.Status{Health: httpapi.CallbackHealth(s.Health), Backlog: s.Backlog, LagSeconds: s.LagSeconds}, ok
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
		askTest: owners.Answer(func(_ context.Context, of tested) (any, error) {
			leave, known := dispatching.BeginTest(of.Callback, of.Generation)
			return trial{leave, known}, nil
		}),
		askTested: owners.Answer(func(_ context.Context, of tested) (any, error) {
			dispatching.EndTest(of.Callback, of.Generation)
			return nil, nil
		}),
	}
}

// tested names the callback of a test.
type tested struct {
	Callback   string `json:"callback"`
	Generation string `json:"generation"`
}

// trial is the owner's response to a test. Known is false while it has not loaded the callback.
type trial struct {
	dispatcher.Trial

	Known bool `json:"known"`
}

// again names the connection whose open orders must be read again.
type again struct {
	Connection string `json:"connection"`
	Delivered  bool   `json:"delivered"`
}

// reconcilers is the reconciler as the API sees it: the connection's own replica reads its orders.
type reconcilers struct{ owners *owners.Owners }

// Reconcile asks the owner to have a connection's open orders read again. It returns when that is
// stored.
func (r reconcilers) Reconcile(ctx context.Context, connection string, delivered bool) (doc relay.Reconciliation, err error) {
	err = r.owners.Ask(ctx, relay.ShardOf(connection), askAgain, again{connection, delivered}, &doc)
	return doc, err
}

// pollers is the poller as the API sees it: the connection's own replica polls.
type pollers struct{ owners *owners.Owners }

// PollNow asks the owner for a poll at once. It does not wait for it. The owner refuses while the
// store takes no writes.
func (p pollers) PollNow(ctx context.Context, connection string) error {
	return p.owners.Ask(ctx, relay.ShardOf(connection), askPoll, connection, nil)
}
