package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// measureReplicas delivers a filled log of three copies with one, two and three relays. All of it
// shares this machine.
func (b *bench) measureReplicas() error {
	for replicas := 1; replicas <= maxReplicas; replicas++ {
		if err := b.replicas(replicas); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) replicas(replicas int) (err error) {
	f, err := b.newFleet(fmt.Sprint("replicas-", replicas), time.Hour)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.close(), os.RemoveAll(filepath.Join(b.dir, fmt.Sprint("replicas-", replicas))))
	}()
	nc, err := f.nats.connect()
	if err != nil {
		return err
	}
	s, err := store.Open(b.ctx, store.Config{
		Conn: nc, Topology: topology.Topology{Prefix: "relay", Replicas: natsNodes, Retention: 30 * 24 * time.Hour}, Log: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		err = fillStore(b.ctx, s, b.sizes.fanOut)
	}
	nc.Close()
	if err != nil {
		return fmt.Errorf("fill the log: %w", err)
	}
	if err := f.grow(replicas); err != nil {
		return err
	}
	if err := f.settle(); err != nil {
		return err
	}
	before, err := f.nats.traffic(b.ctx)
	if err != nil {
		return err
	}
	cpu, err := f.cpu()
	if err != nil {
		return err
	}
	var paths []string
	for i := range b.sizes.callbacks {
		paths = append(paths, fmt.Sprintf("ok/replicas-%d-%d", replicas, i))
	}
	if err := f.put(len(paths), func(i int) (string, any, error) {
		return fmt.Sprintf("/v1/callbacks/cb-%d", i), map[string]any{"url": b.receiver.base + "/" + paths[i], "startFrom": "earliest", "concurrency": 8}, nil
	}); err != nil {
		return err
	}
	all, err := b.receiver.wait(b.ctx, b.sizes.fanOut, 10*time.Minute, paths...)
	if err != nil {
		return err
	}
	deliveries, name := float64(b.sizes.fanOut*b.sizes.callbacks), fmt.Sprintf("r3_%d_replicas", replicas)
	after, err := f.nats.traffic(b.ctx)
	if err != nil {
		return err
	}
	used, err := f.cpu()
	if err != nil {
		return err
	}
	t := after.since(before)
	b.sayRate(name+"_deliveries", span(all))
	repeats := 0
	for _, s := range all {
		repeats += s.Count - b.sizes.fanOut
	}
	say(name+"_repeats", "%d", repeats)
	say(name+"_relays_cpu_seconds_per_1000_deliveries", "%.3f", (used-cpu)*1000/deliveries)
	say(name+"_nats_cpu_seconds_per_1000_deliveries", "%.3f", t.cpu*1000/deliveries)
	say(name+"_nats_messages_per_delivery", "%.3f", t.messages/deliveries)
	say(name+"_nats_bytes_per_delivery", "%.0f", t.bytes/deliveries)
	return nil
}

// measureClusterLatency lets few and many notifications a second come to three relays and measures
// how long each takes from the vendor's response to the callback. Few sites are polled, so that
// their load is not what is measured.
func (b *bench) measureClusterLatency() (err error) {
	f, err := b.newFleet("cluster-latency", time.Second)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	if err := f.grow(maxReplicas); err != nil {
		return err
	}
	if err := errors.Join(f.connect(steadySites), f.subscribed(steadySites)); err != nil {
		return err
	}
	for _, m := range []struct {
		events    int
		perSecond float64
	}{{b.sizes.latency / 10, steadyRate / 10}, {b.sizes.latency, steadyRate}} {
		path := fmt.Sprintf("received/cluster-latency-%.0f", m.perSecond)
		body := map[string]any{"url": b.receiver.base + "/" + path, "startFrom": "now", "concurrency": 8}
		if err := errors.Join(f.relays[0].put(b.ctx, "/v1/callbacks/latency", body), f.settle()); err != nil {
			return err
		}
		if err := b.steady(&pipeline{sandbox: f.sandbox}, m.events, steadySites, m.perSecond); err != nil {
			return err
		}
		all, err := b.receiver.wait(b.ctx, m.events, time.Minute, path)
		if err != nil {
			return err
		}
		sayLatency(fmt.Sprintf("r3_notification_received_to_callback_at_%.0f_per_second", m.perSecond), all[0])
	}
	return nil
}

// measureIdle measures three relays with many connections and callbacks while nothing happens: none
// is due for a poll.
func (b *bench) measureIdle() (err error) {
	f, err := b.newFleet("idle", 24*time.Hour)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	if err := f.grow(maxReplicas); err != nil {
		return err
	}
	connections, callbacks := b.sizes.idleConnections, b.sizes.idleConnections/10
	began := time.Now()
	if err := f.connect(connections); err != nil {
		return err
	}
	if err := f.put(callbacks, func(i int) (string, any, error) {
		return fmt.Sprint("/v1/callbacks/idle-", i), map[string]any{"url": fmt.Sprint(b.receiver.base, "/ok/idle-", i)}, nil
	}); err != nil {
		return err
	}
	if err := f.subscribed(connections); err != nil {
		return err
	}
	say("r3_idle_connections", "%d", connections)
	say("r3_idle_callbacks", "%d", callbacks)
	say("r3_idle_set_up_seconds", "%.1f", time.Since(began).Seconds())
	if _, err := f.window("r3_idle", nil); err != nil {
		return err
	}
	peak := 0.0
	for _, p := range f.relays {
		_, mib, err := p.usage()
		if err != nil {
			return err
		}
		peak = max(peak, mib)
	}
	say("r3_idle_peak_memory_of_a_relay_mib", "%.0f", peak)
	return nil
}
