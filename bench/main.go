// Command bench measures the relay on this machine, in one run, against a ceiling measured in the same run. It prints
// lines `name: value` with units in the names, which README.md beside this file explains; a measurement that fails ends
// the run with an error and stops what it has started. Begin reading at run, which lists the measurements; fail.go has
// how one ends, fleet.go the relays.
//
//	go run ./bench            everything, some minutes
//	go run ./bench -quick     small numbers, to see that it works
//	go run ./bench -only throughput,latency
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// sizes of a run.
type sizes struct {
	ceiling    int // posts
	filled     int // events in the log for one callback, and for restarts
	fanOut     int // events in the log for a hundred callbacks
	callbacks  int
	endToEnd   int // notifications
	latency    int // events at 50 a second
	laneOwners int
	isolated   int // events in the log

	descriptors     int // events in the log
	idleConnections int
	orders          int // in the log
	searched        int // attempts in their log
	connections     int // of one relay
	idleSeconds     int // that these are looked at
}

var (
	full = sizes{
		ceiling: 200_000, filled: 100_000, fanOut: 1_000, callbacks: 100, endToEnd: 20_000, latency: 1_000,
		laneOwners: 100, isolated: 1_000, descriptors: 50_000, idleConnections: 10_000, orders: 500_000,
		searched: 1_000_000, connections: 10_000, idleSeconds: 120,
	}
	quick = sizes{
		ceiling: 10_000, filled: 5_000, fanOut: 100, callbacks: 20, endToEnd: 1_000, latency: 150, laneOwners: 10,
		isolated: 100, descriptors: 5_000, idleConnections: 300, orders: 50_000, searched: 20_000, connections: 500,
		idleSeconds: 20,
	}
)

// bench is one run: its directory, the program it measures and the receiver in another process.
type bench struct {
	ctx      context.Context
	sizes    sizes
	dir      string
	binary   string
	profile  string
	receiver *receiver
	ceiling  float64 // posts a second
}

func main() {
	program := run
	if os.Getenv(receiverEnv) != "" {
		program = receive
	}
	if err := failed(program); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() {
	small := flag.Bool("quick", false, "small numbers")
	only := flag.String("only", "",
		"measurements to make, by commas: ceiling, throughput, restart, endtoend, latency, isolation, replay, "+
			"descriptors, lanes, orders, search, replicas, clusterlatency, units, idle, connections, scrape")
	binary := flag.String("relay", "",
		"measure the relay built at `PATH`, for instance an older one, in place of this tree's")
	profile := flag.String("cpuprofile", "", "write CPU profiles of the relay to `DIR`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	b := &bench{ctx: ctx, sizes: full, profile: *profile}
	if *small {
		b.sizes = quick
	}
	b.dir = get(os.MkdirTemp("", "relay-bench-"))
	defer end(func() error { return os.RemoveAll(b.dir) })
	if b.binary = *binary; b.binary == "" {
		b.binary = filepath.Join(b.dir, "relay")
		must(harness.Build(ctx, "", "./cmd/relay", b.binary))
	}
	b.receiver = startReceiver(ctx)
	defer b.receiver.stop()

	say("machine", "%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	wanted := strings.Split(*only, ",")
	for _, m := range []struct {
		name string
		run  func(*bench)
	}{
		{"ceiling", (*bench).measureCeiling}, {"throughput", (*bench).measureThroughput},
		{"restart", (*bench).measureRestart},
		{"endtoend", (*bench).measureEndToEnd}, {"latency", (*bench).measureLatency},
		{"isolation", (*bench).measureIsolation},
		{"replay", (*bench).measureReplay},
		{"descriptors", (*bench).measureDescriptors}, {"lanes", (*bench).measureLanes},
		{"orders", (*bench).measureOrders},
		{"search", (*bench).measureSearch},
		{"replicas", (*bench).measureReplicas}, {"clusterlatency", (*bench).measureClusterLatency},
		{"units", (*bench).measureUnits}, {"idle", (*bench).measureIdle},
		{"connections", (*bench).measureConnections}, {"scrape", (*bench).measureScrape},
	} {
		if *only != "" && !slices.Contains(wanted, m.name) {
			continue
		}
		if err := failed(func() { m.run(b) }); err != nil {
			must(fmt.Errorf("%s: %w", m.name, err))
		}
	}
}

// say prints one figure.
func say(name, format string, a ...any) { fmt.Printf("%s: %s\n", name, fmt.Sprintf(format, a...)) }

// sayRate prints a rate and its share of the ceiling, if that was measured.
func (b *bench) sayRate(name string, perSecond float64) {
	say(name+"_per_second", "%.0f", perSecond)
	if b.ceiling > 0 {
		say(name+"_share_of_ceiling", "%.2f", perSecond/b.ceiling)
	}
}
