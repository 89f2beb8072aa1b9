// Command call calls a relay with a client that was generated from the document that this relay serves: it makes a
// client and a key, registers a callback by its URL alone, has it tested, and reads the event that was sent by its
// type. The generated code is laid over this directory as client.go, so it compiles only as the test of
// internal/e2e/clients builds it.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func as(token string) (*ClientWithResponses, error) {
	return NewClientWithResponses(os.Getenv("RELAY_URL"), WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+token)
		return nil
	}))
}

func run(ctx context.Context) error {
	admin, err := as(os.Getenv("RELAY_ADMIN_TOKEN"))
	if err != nil {
		return err
	}
	everything := true
	made, err := admin.PutClientWithResponse(ctx, "go", nil, ClientSettings{AllSites: &everything})
	if err != nil || made.JSON201 == nil {
		return fmt.Errorf("make a client: %v %s", err, made.Body)
	}
	key, err := admin.CreateKeyWithResponse(ctx, "go", nil, KeySettings{})
	if err != nil || key.JSON201 == nil {
		return fmt.Errorf("make a key: %v %s", err, key.Body)
	}
	relay, err := as(key.JSON201.Key)
	if err != nil {
		return err
	}
	callback, err := relay.CreateCallbackWithResponse(ctx, nil, CallbackSettings{Url: os.Getenv("RECEIVER_URL")})
	if err != nil || callback.JSON201 == nil || callback.JSON201.Concurrency != 4 {
		return fmt.Errorf("register a callback: %v %s", err, callback.Body)
	}
	created := TestCallbackTypeAudatexPartsOrderCreated
	test, err := relay.TestCallbackWithResponse(ctx, callback.JSON201.Id, TestCallback{Type: &created})
	if err != nil || test.JSON200 == nil || !test.JSON200.Delivered {
		return fmt.Errorf("test the callback: %v %s", err, test.Body)
	}
	event, err := test.JSON200.Event.ValueByDiscriminator()
	if err != nil {
		return err
	}
	order, ok := event.(OrderCreatedEvent)
	if !ok || order.Data.Order.Parts == nil || len(*order.Data.Order.Parts) != 1 || *(*order.Data.Order.Parts)[0].OrderedPartNumber != "8K0807065GRU" {
		return fmt.Errorf("the event is %T: %s", event, test.Body)
	}
	list, err := relay.ListCallbacksWithResponse(ctx, nil)
	if err != nil || list.JSON200 == nil || len(list.JSON200.Items) != 1 {
		return fmt.Errorf("list callbacks: %v %s", err, list.Body)
	}
	missing, err := relay.GetCallbackWithResponse(ctx, "none")
	if err != nil || missing.ApplicationproblemJSONDefault == nil ||
		!strings.HasSuffix(missing.ApplicationproblemJSONDefault.Type, "/problems/not-found") {
		return fmt.Errorf("read no callback: %v %s", err, missing.Body)
	}
	feed, err := relay.ListEventsWithResponse(ctx, &ListEventsParams{Types: &[]string{"audatex.parts.order.*"}})
	if err != nil || feed.JSON200 == nil || len(feed.JSON200.Items) != 0 {
		return fmt.Errorf("read the feed: %v %s", err, feed.Body)
	}
	return nil
}
