package main

import (
	"context"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// join makes this replica known to the others, and then reads which formats they all know. It is in
// this order so that a replica that raises the formats' mark sees this one, or is seen by it.
func (s start) join(
	ctx context.Context, st *store.Store, exclusive bool, registry prometheus.Registerer,
) (member *shard.Member, formats *topology.Versions, err error) {
	if err := s.step(ctx, "the mark of the stored formats cannot be read", func() (err error) {
		formats, err = topology.OpenFormats(ctx, topology.FormatsConfig{JS: st.JetStream(), Topology: st.Topology(), Log: s.log})
		return err
	}); err != nil {
		return nil, nil, err
	}
	replica, _ := os.Hostname() // a name for people and for the share; a nonce distinguishes replicas
	err = s.step(ctx, "the other replicas cannot be joined", func() (err error) {
		if member == nil {
			member, err = shard.Join(ctx, shard.Config{
				Store: st, Replica: replica, Version: topology.BuildFormats(), Exclusive: exclusive, Metrics: registry, Log: s.log,
			})
		}
		if err == nil {
			err = formats.Join(ctx)
		}
		return err
	})
	return member, formats, err
}

// live returns how many replicas there are, and what the vendor has asked of any of them.
func live(m *shard.Member) (int, relay.Throttle) {
	var asked relay.Throttle
	peers, _ := m.Members()
	for _, p := range peers {
		asked = asked.With(p.Throttle, time.Now())
	}
	return len(peers), asked
}
