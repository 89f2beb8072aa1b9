package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/audatex-relay/relay/internal/demo"
	"github.com/audatex-relay/relay/internal/group"
	"github.com/audatex-relay/relay/internal/store"
)

// hears is a log that passes each message on.
type hears func(message string)

func (h hears) Handle(_ context.Context, r slog.Record) error { h(r.Message); return nil }
func (h hears) Enabled(context.Context, slog.Level) bool      { return true }
func (h hears) WithAttrs([]slog.Attr) slog.Handler            { return h }
func (h hears) WithGroup(string) slog.Handler                 { return h }

// A relay that is told to stop before its callbacks are loaded never says that it serves, and ends well.
func TestAStopDuringTheStartIsNoStart(t *testing.T) {
	t.Parallel()
	vendor := httptest.NewServer(http.NotFoundHandler())
	defer vendor.Close()
	config, err := demoSettings(demo.Relay{Dir: t.TempDir(), VendorURL: vendor.URL, AdminToken: "an-admin-token-for-this-test"}, true).Check()
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
		if !errors.Is(err, context.Canceled) || !errors.Is(context.Cause(ctx), failed) || !errors.Is(parts.Wait(), failed) {
			t.Errorf("the start ended with %v, because of %v", err, context.Cause(ctx))
		}
	})
}
