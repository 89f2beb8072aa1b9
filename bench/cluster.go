package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// measureReplicas delivers a filled log of three copies with one, two and three relays. All of it
// shares this machine.
func (b *bench) measureReplicas() {
	for replicas := 1; replicas <= maxReplicas; replicas++ {
		b.replicas(replicas)
	}
}

func (b *bench) replicas(replicas int) {
	directory := fmt.Sprint("replicas-", replicas)
	defer end(func() error { return os.RemoveAll(filepath.Join(b.dir, directory)) })
	f := b.newReplicas(directory, time.Hour)
	defer end(f.close)
	nc := get(f.nats.connect())
	err := failed(func() { must(fillStore(b.ctx, b.openOn(nc, natsNodes, nil), b.sizes.fanOut)) })
	nc.Close()
	if err != nil {
		must(fmt.Errorf("fill the log: %w", err))
	}
	f.grow(replicas)
	f.settle()
	before, cpu := f.nats.traffic(), f.cpu()
	var paths []string
	for i := range b.sizes.callbacks {
		paths = append(paths, fmt.Sprintf("ok/replicas-%d-%d", replicas, i))
	}
	f.put(len(paths), func(i int) (string, any, error) {
		return fmt.Sprintf("/v1/callbacks/cb-%d", i),
			map[string]any{"url": b.receiver.base + "/" + paths[i], "startFrom": "earliest", "concurrency": 8}, nil
	})
	all := b.receiver.wait(b.ctx, b.sizes.fanOut, 10*time.Minute, paths...)
	t, used := f.nats.traffic().less(before, 1), f.cpu()-cpu
	deliveries, name := float64(b.sizes.fanOut*b.sizes.callbacks), fmt.Sprintf("r3_%d_replicas", replicas)
	b.sayRate(name+"_deliveries", span(all))
	sayRepeats(name, all, b.sizes.fanOut)
	say(name+"_relays_cpu_seconds_per_1000_deliveries", "%.3f", used*1000/deliveries)
	say(name+"_nats_cpu_seconds_per_1000_deliveries", "%.3f", t[serversCPU]*1000/deliveries)
	say(name+"_nats_messages_per_delivery", "%.3f", t[messages]/deliveries)
	say(name+"_nats_bytes_per_delivery", "%.0f", t[transferred]/deliveries)
}

// measureClusterLatency lets few and many notifications a second come to three relays and measures
// how long each takes from the vendor's response to the callback. Few sites are polled, so that
// their load is not what is measured.
func (b *bench) measureClusterLatency() {
	f := b.newReplicas("cluster-latency", time.Second)
	defer end(f.close)
	f.grow(maxReplicas)
	f.connect(steadySites)
	f.subscribed(steadySites)
	for _, m := range []struct {
		events    int
		perSecond float64
	}{{b.sizes.latency / 10, steadyRate / 10}, {b.sizes.latency, steadyRate}} {
		path := fmt.Sprintf("received/cluster-latency-%.0f", m.perSecond)
		must(f.relays[0].put("/v1/callbacks/latency",
			map[string]any{"url": b.receiver.base + "/" + path, "startFrom": "now", "concurrency": 8}))
		f.settle()
		f.orders = nil
		f.steady(m.events, steadySites, m.perSecond)
		all := b.receiver.wait(b.ctx, m.events, time.Minute, path)
		sayLatency(fmt.Sprintf("r3_notification_received_to_callback_at_%.0f_per_second", m.perSecond), all[0])
	}
}

// measureIdle measures three relays with many connections and callbacks while nothing happens: none
// is due for a poll.
func (b *bench) measureIdle() {
	f := b.newReplicas("idle", 24*time.Hour)
	defer end(f.close)
	f.grow(maxReplicas)
	connections, callbacks := b.sizes.idleConnections, b.sizes.idleConnections/10
	began := time.Now()
	f.connect(connections)
	f.put(callbacks, func(i int) (string, any, error) {
		return fmt.Sprint("/v1/callbacks/idle-", i),
			map[string]any{"url": fmt.Sprint(b.receiver.base, "/ok/idle-", i)}, nil
	})
	f.subscribed(connections)
	say("r3_idle_connections", "%d", connections)
	say("r3_idle_callbacks", "%d", callbacks)
	say("r3_idle_set_up_seconds", "%.1f", time.Since(began).Seconds())
	f.window("r3_idle", nil)
	peak := 0.0
	for _, p := range f.relays {
		_, mib := p.usage()
		peak = max(peak, mib)
	}
	say("r3_idle_peak_memory_of_a_relay_mib", "%.0f", peak)
}
