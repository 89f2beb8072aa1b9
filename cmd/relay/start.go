package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/settings"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// start repeats the steps of a start that may have to wait for others: for NATS, for a leader, for room on the disk.
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
			s.log.Warn(trouble+"; trying again", "error", err, "for", now.Sub(since).Round(time.Second).String())
		}
		s.waiting(trouble)
		if !backoff.Sleep(ctx, natsd.ReconnectDelay(n)) {
			return ctx.Err()
		}
	}
}

// join makes this replica known to the others, and then reads which formats they all know. It is in
// this order so that a replica that raises the formats' mark sees this one, or is seen by it.
func (s start) join(
	ctx context.Context, st *store.Store, exclusive bool, registry prometheus.Registerer,
) (member *shard.Member, formats *topology.Versions, err error) {
	if err := s.step(ctx, "the mark of the stored formats cannot be read", func() (err error) {
		formats, err = topology.OpenFormats(ctx,
			topology.FormatsConfig{JS: st.JetStream(), Topology: st.Topology(), Log: s.log})
		return err
	}); err != nil {
		return nil, nil, err
	}
	replica := replicaName()
	err = s.step(ctx, "the other replicas cannot be joined", func() (err error) {
		if member == nil {
			member, err = shard.Join(ctx, shard.Config{
				Store: st, Replica: replica, Version: topology.BuildFormats(), Exclusive: exclusive, Metrics: registry,
				Log: s.log,
			})
		}
		if err == nil {
			err = formats.Join(ctx)
		}
		return err
	})
	return member, formats, err
}

// replicaName is a name for people and for the share; a nonce distinguishes replicas.
func replicaName() string {
	name, _ := os.Hostname()
	return name
}

// liveReplicas returns how many replicas there are, and what the vendor has asked of any of them.
func liveReplicas(m *shard.Member) (int, relay.Throttle) {
	var asked relay.Throttle
	peers, _ := m.Members()
	for _, p := range peers {
		asked = asked.With(p.Throttle, time.Now())
	}
	return len(peers), asked
}
