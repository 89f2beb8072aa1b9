package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/httpapi"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/owners"
	"github.com/audatex-relay/relay/internal/publisher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/resolver"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// readOrder stands for the vendor.
type readOrder func(order string) (json.RawMessage, error)

func (f readOrder) Order(
	_ context.Context, _, order string, begin func() (context.Context, error),
) (json.RawMessage, error) {
	if _, err := begin(); err != nil {
		return nil, err
	}
	return f(order)
}

// The API, the resolver and the publisher as serve joins them: what an operator does about a
// notification of an unknown site.
func TestAnOperatorRetriesANotification(t *testing.T) {
	t.Parallel()
	const order = "5f0c0000-0000-4000-8000-000000000001"
	ctx, log := t.Context(), slog.New(slog.DiscardHandler)
	raw, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := store.NewSealer(raw)
	if err != nil {
		t.Fatal(err)
	}
	nc := natstest.Start(t)
	s, err := store.Open(ctx, store.Config{
		Conn: nc, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour}, Sealer: sealer,
		Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	var vendorSays error
	resolving := resolver.New(resolver.Config{
		Store: s, Log: log, Publisher: publisher.New(
			publisher.Config{Store: s, PublicURL: "https://relay.example", Log: log}),
		Orders: readOrder(func(order string) (json.RawMessage, error) {
			return json.RawMessage(`{"PartsOrderId":"` + order + `","Status":"New","Parts":[]}`), vendorSays
		}),
	})
	api, err := httpapi.New(httpapi.Config{
		Store: s, Keys: access.New(access.Config{Clients: s.Clients, Log: log}),
		Admins: access.NewAdmins([]access.Admin{{Name: "admin", Token: "an-admin-token"}}), Log: log,
		Resolver: notifications{resolving,
			&vendor{store: s, owners: owners.New(owners.Config{Conn: nc, Topology: s.Topology(), Log: log})}},
	})
	if err != nil {
		t.Fatal(err)
	}
	retry := func(status int, says string) {
		t.Helper()
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/unresolved/leeds-7-0/retry", nil)
		r.Header.Set("Authorization", "Bearer an-admin-token")
		w := httptest.NewRecorder()
		api.Handler().ServeHTTP(w, r)
		if body, _ := io.ReadAll(w.Body); w.Code != status || !strings.Contains(string(body), says) {
			t.Fatalf("answer %d %s, want %d and %q", w.Code, body, status, says)
		}
	}
	events := func() int {
		t.Helper()
		stored, _, err := s.Events.Scan(ctx, 0, []string{topology.OrderFilter("leeds", order)}, 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(stored)
	}

	retry(404, "not-found")
	now := time.Now().UTC()
	unresolved := relay.Unresolved{
		ID: "leeds-7-0", Connection: "leeds", Order: order, Reason: "site-unknown", InboxEntry: relay.PackEntry(7, 0),
		ReceivedAt: now, UnresolvedAt: now,
		Raw: []byte(`{"NotificationId":"1","Topic":"PARTS.ORDER.CREATED","SiteId":"99",` +
			`"Resources":[{"ResourceType":"PartsOrder","ResourceId":"` + order + `"}]}`),
	}
	if _, err := s.Unresolved.Create(ctx, unresolved.ID, unresolved); err != nil {
		t.Fatal(err)
	}
	retry(409, "its connection is gone")
	connection := relay.Connection{ID: "leeds", Level: relay.LevelCompany,
		Sites: map[string]string{"1": "york"}, Generation: "g"}
	revision, err := s.Connections.Create(ctx, "leeds", connection)
	if err != nil {
		t.Fatal(err)
	}
	retry(409, "vendor site 99 is mapped to no site")
	connection.Sites["99"] = "leeds"
	if _, err := s.Connections.Update(ctx, "leeds", connection, revision); err != nil {
		t.Fatal(err)
	}
	vendorSays = &audatex.Error{Operation: audatex.OpOrder, Outcome: audatex.Forbidden, CorrelationID: "corr-1"}
	retry(409, "forbidden. Correlation id: corr-1")
	vendorSays = &audatex.Error{Operation: audatex.OpOrder, Outcome: audatex.Unavailable}
	retry(503, "not-available")
	if n := events(); n != 0 {
		t.Fatalf("%d events of an order that was never read", n)
	}
	vendorSays = nil
	retry(204, "")
	retry(404, "not-found")
	if n := events(); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}
