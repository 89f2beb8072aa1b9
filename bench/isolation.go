package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"time"
)

const (
	// healthyCallbacks is how many callbacks are looked at beside deadCallbacks.
	healthyCallbacks = 50
	deadCallbacks    = 50
	// isolationRate is how many events a second happen for all of them.
	isolationRate = 20
	// refusing is a port at which nobody listens.
	refusing = "127.0.0.1:1"
)

// measureIsolation looks whether receivers that fail disturb healthy ones.
func (b *bench) measureIsolation() {
	b.isolationOfTwo()
	b.isolationOfFifty()
}

// isolationOfTwo looks at two healthy callbacks, alone and then beside a dead, a failing and a slow
// one.
func (b *bench) isolationOfTwo() {
	f := b.pipeline()
	defer end(f.close)
	relay := f.begin("isolation")
	phase := func(name string) (worst seen) {
		var paths []string
		for i := range 2 {
			path := fmt.Sprintf("ok/%s-%d", name, i)
			paths = append(paths, path)
			b.callback(relay, fmt.Sprintf("%s-healthy-%d", name, i), path, "now", 8)
		}
		f.steady(b.sizes.latency, steadySites, steadyRate)
		for _, s := range b.receiver.wait(b.ctx, b.sizes.latency, time.Minute, paths...) {
			if s.P99 >= worst.P99 {
				worst = s
			}
		}
		return worst
	}
	alone := phase("alone")
	for _, bad := range []string{"dead", "tenth", "slow"} {
		b.callback(relay, bad, bad+"/isolation", "now", 8)
	}
	beside := phase("beside")
	sayLatency("healthy_alone", alone)
	sayLatency("healthy_beside_dead_failing_slow", beside)
	sayDifference("isolation", alone, beside, 5)
}

// isolationOfFifty delivers a log to fifty healthy callbacks, as fast as it goes, and then what
// happens at a steady rate: first to them alone, then beside fifty that are dead in different ways.
func (b *bench) isolationOfFifty() {
	const id = "isolation-50"
	b.fill(filepath.Join(b.dir, id), b.sizes.isolated)
	f := b.pipeline()
	defer end(f.close)
	relay := f.begin(id)
	alone := b.healthy(f, relay, "alone")
	dead := []string{
		"http://" + refusing, b.receiver.base + "/dead/isolation-50", "http://" + b.receiver.odd,
		b.receiver.base + "/failing/isolation-50",
		"https://" + b.receiver.odd, b.receiver.base + "/endless/isolation-50",
	}
	f.put(deadCallbacks, func(i int) (string, any, error) {
		return fmt.Sprint("/v1/callbacks/dead-", i), map[string]any{
			"url": dead[i%len(dead)], "startFrom": "earliest", "concurrency": 8, "timeoutSeconds": 5,
		}, nil
	})
	beside := b.healthy(f, relay, "beside")
	say("isolation_50_alone_deliveries_per_second", "%.0f", alone.rate)
	say("isolation_50_beside_50_dead_deliveries_per_second", "%.0f", beside.rate)
	say("isolation_50_rate_lost_percent", "%.1f (at most 10: %s)", 100*(1-beside.rate/alone.rate),
		verdict(beside.rate >= 0.9*alone.rate))
	sayLatency("isolation_50_alone", alone.latency)
	sayLatency("isolation_50_beside_50_dead", beside.latency)
	sayDifference("isolation_50", alone.latency, beside.latency, 5)
	cpu, peak := relay.usage()
	say("isolation_50_cpu_seconds", "%.1f", cpu)
	say("isolation_50_peak_memory_mib", "%.0f", peak)
}

// isolated is what healthy callbacks have got.
type isolated struct {
	rate    float64 // deliveries of the log a second
	latency seen    // of what happens at a steady rate
}

// healthy measures fifty healthy callbacks, and removes them again. They share a path of the
// receiver, so that its percentiles are those of all.
func (b *bench) healthy(f *fleet, relay *program, name string) (all isolated) {
	register := func(kind, from string) (path string) {
		path = "ok/" + name + "-" + kind
		f.put(healthyCallbacks, func(i int) (string, any, error) {
			return fmt.Sprintf("/v1/callbacks/%s-%s-%d", name, kind, i), map[string]any{
				"url": b.receiver.base + "/" + path, "startFrom": from, "concurrency": 4, "timeoutSeconds": 5,
			}, nil
		})
		return path
	}
	remove := func(kind string) {
		for i := range healthyCallbacks {
			_ = get(relay.call(http.MethodDelete, fmt.Sprintf("/v1/callbacks/%s-%s-%d", name, kind, i), nil))
		}
	}
	log := register("log", "earliest")
	all.rate = span(b.receiver.wait(b.ctx, healthyCallbacks*b.sizes.isolated, 10*time.Minute, log))
	remove("log")
	steady := register("steady", "now")
	f.steady(b.sizes.latency, steadySites, isolationRate)
	all.latency = b.receiver.wait(b.ctx, healthyCallbacks*b.sizes.latency, time.Minute, steady)[0]
	remove("steady")
	return all
}
