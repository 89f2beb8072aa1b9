package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The other client in measureDescriptors: its receivers take every connection and never respond.
const (
	hangingCallbacks   = 40
	hangingConcurrency = 32
	strangers          = 600 // idle connections of somebody who never sends a request
)

// measureDescriptors delivers a filled log to one client's callback under a low limit of file
// descriptors: first alone, then beside another client whose receivers hold every connection, and a
// stranger who holds idle connections to the API.
func (b *bench) measureDescriptors() {
	for _, limit := range []int{400, 1024} {
		if err := failed(func() { b.descriptors(limit) }); err != nil {
			must(fmt.Errorf("at %d descriptors: %w", limit, err))
		}
	}
}

func (b *bench) descriptors(limit int) {
	name := fmt.Sprintf("at_%d_descriptors", limit)
	dir := filepath.Join(b.dir, name)
	b.fill(dir, b.sizes.descriptors)
	p := b.startUnder(limit, dir)
	defer end(func() error { return p.stop(syscall.SIGTERM) })
	for _, client := range []string{"healthy", "hanging"} {
		must(p.put("/v1/clients/"+client, map[string]any{"allSites": true}))
	}
	alone := b.healthyRate(p, name+"-alone")
	for i := range hangingCallbacks {
		must(p.put(fmt.Sprintf("/v1/callbacks/hanging-%d?client=hanging", i), map[string]any{
			"url": b.receiver.base + "/dead/" + name, "startFrom": "earliest", "concurrency": hangingConcurrency,
			"timeoutSeconds": 60,
		}))
	}
	for _, c := range hold(b.ctx, strings.TrimPrefix(p.api.Base, "http://"), strangers) {
		defer func() { _ = c.Close() }()
	}
	b.pass(2 * time.Second) // the hanging attempts are under way
	beside := b.healthyRate(p, name+"-beside")
	_, peak := p.usage()
	say(name+"_alone_deliveries_per_second", "%.0f", alone)
	say(name+"_beside_deliveries_per_second", "%.0f", beside)
	say(name+"_beside_to_alone", "%.2f (at least 0.90: %s)", beside/alone, verdict(beside >= 0.9*alone))
	say(name+"_peak_memory_mib", "%.0f", peak)
}

// healthyRate delivers the whole log to a new callback of the client healthy and returns its rate.
// It fails if an event is missing.
func (b *bench) healthyRate(p *program, name string) float64 {
	path := "ok/" + name
	must(p.put("/v1/callbacks/"+strings.ReplaceAll(name, "_", "-")+"?client=healthy", map[string]any{
		"url": b.receiver.base + "/" + path, "startFrom": "earliest", "concurrency": concurrency,
	}))
	return span(b.receiver.wait(b.ctx, b.sizes.descriptors, 5*time.Minute, path))
}

// hold opens idle connections. The server may refuse or close them.
func hold(ctx context.Context, address string, n int) (held []net.Conn) {
	dialer := net.Dialer{Timeout: time.Second}
	for range n {
		if c, err := dialer.DialContext(ctx, "tcp", address); err == nil {
			held = append(held, c)
		}
	}
	return held
}
