package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/settings"
	"github.com/audatex-relay/relay/internal/store"
)

// start repeats the steps of a start that may have to wait for others: for NATS, for a leader, for
// room on the disk.
type start struct {
	log     *slog.Logger
	waiting func(reason string) // is called with what is waited for
}

// step does a step that works on the store. Trouble describes what is wrong while it fails.
func (s start) step(ctx context.Context, trouble string, do func() error) error {
	return s.repeat(ctx, trouble, func(err error) bool {
		_, wrong := errors.AsType[*settings.Error](err)
		return !wrong && store.Passing(err)
	}, do)
}

// repeat does a step until it succeeds, until it fails in a way that waiting does not repair, or
// until ctx ends. It logs the first failure, now and then a later one, and the end.
func (s start) repeat(ctx context.Context, trouble string, passing func(error) bool, do func() error) error {
	var since, logged time.Time
	for n := 1; ; n++ {
		err := do()
		if err == nil {
			if !since.IsZero() {
				s.log.Info("the start goes on", "waited", time.Since(since).Round(time.Millisecond).String())
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !passing(err) {
			return err
		}
		now := time.Now()
		if since.IsZero() {
			since = now
		}
		if now.Sub(logged) >= natsd.StillAway {
			logged = now
			s.log.Warn(trouble+"; trying on", "error", err, "for", now.Sub(since).Round(time.Second).String())
		}
		s.waiting(trouble)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(natsd.ReconnectDelay(n)):
		}
	}
}
