package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/demo"
	"github.com/audatex-relay/relay/internal/group"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/settings"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// hears is a log that passes each message on.
type hears func(message string)

func (h hears) Handle(_ context.Context, r slog.Record) error { h(r.Message); return nil }
func (h hears) Enabled(context.Context, slog.Level) bool      { return true }
func (h hears) WithAttrs([]slog.Attr) slog.Handler            { return h }
func (h hears) WithGroup(string) slog.Handler                 { return h }

// A start asks the store once for what all shards have, not once for each shard: with many requests the renewal of
// leases has to wait, and the store seems to be away.
func TestAStartAsksTheStoreForAllShardsTogether(t *testing.T) {
	t.Parallel()
	vendor := httptest.NewServer(http.NotFoundHandler())
	defer vendor.Close()
	bus := natstest.StartLimited(t, 8<<20)
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	unchecked := demoSettings(demo.Relay{Dir: t.TempDir(), VendorURL: vendor.URL,
		AdminToken: "an-admin-token-for-this-test"}, true)
	unchecked.NATSURL, unchecked.NATSListen, unchecked.StreamReplicas, unchecked.EncryptionKeys = bus.URL(), "", 1,
		string(keys)
	config, err := unchecked.Check()
	if err != nil {
		t.Fatal(err)
	}
	fill(t, bus.Conn(), keys, config)
	asked := natstest.Requests(t, bus.Conn())
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	if err := serve(ctx, config, slog.New(slog.DiscardHandler), func(addresses) { stop() }); err != nil {
		t.Error(err)
	}
	all, cursors := asked(""), asked("CONSUMER.CREATE.KV_relay_cursors.")
	t.Logf("%d requests: %d new readers, %d of them of cursors; %d readers removed",
		all, asked("CONSUMER.CREATE."), cursors, asked("CONSUMER.DELETE."))
	if most := 800; cursors == 0 || all > most {
		t.Errorf("a start took %d requests; at most %d are right", all, most)
	}
	if keys := asked("STREAM.INFO.KV_relay_cursors"); keys > 30 {
		t.Errorf("a start asked %d times for the state of the cursors", keys)
	}
}

// fill makes the store of a relay with a client and a handful of callbacks.
func fill(t *testing.T, nc *nats.Conn, keys []byte, c settings.Config) {
	t.Helper()
	sealer, err := store.NewSealer(keys)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{
		Conn: nc, Sealer: sealer, Log: slog.New(slog.DiscardHandler),
		Topology: topology.Topology{Prefix: c.NATSPrefix, Replicas: c.StreamReplicas, Retention: c.Retention.D()},
	})
	if err == nil {
		_, err = s.Clients.Create(t.Context(), "shop", relay.Client{ID: "shop", AllSites: true})
	}
	for n := 0; n < 5 && err == nil; n++ {
		id := fmt.Sprintf("bms-%d", n)
		_, err = s.Callbacks.Create(t.Context(), id, relay.Callback{
			ID: id, Client: "shop", Concurrency: 4, TimeoutSeconds: 5, Mode: relay.ModeEvery, Generation: relay.NewID(),
			Secrets: relay.CallbackSecrets{URL: "http://127.0.0.1:1/"},
		})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A relay that is told to stop before its callbacks are loaded never reports that it serves, and ends well.
func TestAStopDuringTheStartIsNoStart(t *testing.T) {
	t.Parallel()
	vendor := httptest.NewServer(http.NotFoundHandler())
	defer vendor.Close()
	config, err := demoSettings(demo.Relay{Dir: t.TempDir(), VendorURL: vendor.URL,
		AdminToken: "an-admin-token-for-this-test"}, true).Check()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var serves, stopped atomic.Bool
	log := slog.New(hears(func(message string) {
		switch message {
		case "the shards are divided again": // none is taken yet, so no callback can be loaded
			stop()
		case "the relay serves":
			serves.Store(true)
		case "stopped":
			stopped.Store(true)
		}
	}))
	if err := serve(ctx, config, log, func(addresses) { t.Error("started") }); err != nil {
		t.Error(err)
	}
	if serves.Load() || !stopped.Load() {
		t.Errorf("it says that it serves: %v, that it has stopped: %v", serves.Load(), stopped.Load())
	}
}

// A part that fails ends a start that waits for others.
func TestAPartThatFailsEndsTheStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, fail := context.WithCancelCause(t.Context())
		failed := errors.New("the listener is gone")
		parts := group.Group{OnFailure: fail}
		waits := start{log: slog.New(slog.DiscardHandler), waiting: func(string) {
			parts.Go(t.Context(), "the API", func(context.Context) error { return failed })
		}}
		err := waits.step(ctx, "the store is away", func() error { return store.ErrUnavailable })
		if !errors.Is(err, context.Canceled) || !errors.Is(context.Cause(ctx), failed) ||
			!errors.Is(parts.Wait(), failed) {
			t.Errorf("the start ended with %v, because of %v", err, context.Cause(ctx))
		}
	})
}
