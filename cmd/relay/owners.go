package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/httpapi"
	"github.com/audatex-relay/relay/internal/owners"
	"github.com/audatex-relay/relay/internal/poller"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/resolver"
)

// What replicas ask the owner of a shard: the last token of the request's subject. They are part of what runs between versions.
const (
	askPoll    = "poll"    // a connection id: poll it now
	askAccess  = "access"  // a connection id: see to it that its stored access token is good
	askStatus  = "status"  // callback ids: how they are doing
	askWaiting = "waiting" // connection ids: how many notifications wait
)

// answers are what this replica says about the shards it owns.
func answers(polling *poller.Poller, resolving *resolver.Resolver, dispatching *dispatcher.Dispatcher, tokens *audatex.Tokens) map[string]owners.Handler {
	return map[string]owners.Handler{
		askPoll: func(ctx context.Context, question json.RawMessage) (any, error) {
			connection, err := asked[string](question)
			if err != nil {
				return nil, err
			}
			return nil, polling.PollNow(ctx, connection)
		},
		askAccess: func(ctx context.Context, question json.RawMessage) (any, error) {
			connection, err := asked[string](question)
			if err != nil {
				return nil, err
			}
			_, err = tokens.Access(ctx, connection) // the one who asks reads it from the store: it crosses no wire in the clear
			return nil, err
		},
		askStatus: about(func(id string) (httpapi.Status, bool) {
			s, ok := dispatching.Status(id)
			return httpapi.Status{Health: httpapi.CallbackHealth(s.Health), Backlog: s.Backlog, LagSeconds: s.LagSeconds}, ok
		}),
		askWaiting: about(resolving.Waiting),
	}
}

// about answers a question about several ids with what is known of each.
func about[T any](look func(id string) (T, bool)) owners.Handler {
	return func(_ context.Context, question json.RawMessage) (any, error) {
		ids, err := asked[[]string](question)
		if err != nil {
			return nil, err
		}
		known := make(map[string]T, len(ids))
		for _, id := range ids {
			if v, ok := look(id); ok {
				known[id] = v
			}
		}
		return known, nil
	}
}

func asked[T any](question json.RawMessage) (v T, err error) {
	if err = json.Unmarshal(question, &v); err != nil {
		err = fmt.Errorf("the question cannot be read: %w", err)
	}
	return v, err
}

// pollers is the poller as the API sees it: the connection's own replica polls.
type pollers struct{ owners *owners.Owners }

// PollNow asks the owner for a poll at once. It does not wait for it. The owner refuses while the store takes no writes.
func (p pollers) PollNow(ctx context.Context, connection string) error {
	return p.owners.Ask(ctx, relay.ShardOf(connection), askPoll, connection, nil)
}
