package main

import (
	"context"
	"errors"
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
func (b *bench) measureDescriptors() error {
	for _, limit := range []int{400, 1024} {
		if err := b.descriptors(limit); err != nil {
			return fmt.Errorf("at %d descriptors: %w", limit, err)
		}
	}
	return nil
}

func (b *bench) descriptors(limit int) error {
	name := fmt.Sprintf("at_%d_descriptors", limit)
	dir := filepath.Join(b.dir, name)
	if err := fill(b.ctx, dir, b.sizes.descriptors); err != nil {
		return fmt.Errorf("fill the log: %w", err)
	}
	p, err := b.startUnder(limit, dir)
	if err != nil {
		return err
	}
	for _, client := range []string{"healthy", "hanging"} {
		if err := p.put(b.ctx, "/v1/clients/"+client, map[string]any{"allSites": true}); err != nil {
			return errors.Join(err, p.stop(syscall.SIGKILL))
		}
	}
	alone, err := b.healthyRate(p, name+"-alone")
	if err != nil {
		return errors.Join(err, p.stop(syscall.SIGKILL))
	}
	for i := range hangingCallbacks {
		err := p.put(b.ctx, fmt.Sprintf("/v1/callbacks/hanging-%d?client=hanging", i), map[string]any{
			"url": b.receiver.base + "/dead/" + name, "startFrom": "earliest", "concurrency": hangingConcurrency, "timeoutSeconds": 60,
		})
		if err != nil {
			return errors.Join(err, p.stop(syscall.SIGKILL))
		}
	}
	held := hold(b.ctx, strings.TrimPrefix(p.api, "http://"), strangers)
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	time.Sleep(2 * time.Second) // the hanging attempts are under way
	beside, err := b.healthyRate(p, name+"-beside")
	if err != nil {
		return errors.Join(err, p.stop(syscall.SIGKILL))
	}
	_, peak, err := p.usage()
	if err != nil {
		return err
	}
	say(name+"_alone_deliveries_per_second", "%.0f", alone)
	say(name+"_beside_deliveries_per_second", "%.0f", beside)
	say(name+"_beside_to_alone", "%.2f (at least 0.90: %s)", beside/alone, verdict(beside >= 0.9*alone))
	say(name+"_peak_memory_mib", "%.0f", peak)
	return p.stop(syscall.SIGTERM)
}

// healthyRate delivers the whole log to a new callback of the client healthy and returns its rate.
// It fails if an event is missing.
func (b *bench) healthyRate(p *program, name string) (float64, error) {
	path := "ok/" + name
	err := p.put(b.ctx, "/v1/callbacks/"+strings.ReplaceAll(name, "_", "-")+"?client=healthy", map[string]any{
		"url": b.receiver.base + "/" + path, "startFrom": "earliest", "concurrency": concurrency,
	})
	if err != nil {
		return 0, err
	}
	all, err := b.receiver.wait(b.ctx, b.sizes.descriptors, 5*time.Minute, path)
	if err != nil {
		return 0, err
	}
	return span(all), nil
}

// hold opens idle connections. The server may refuse or close them.
func hold(ctx context.Context, address string, n int) []net.Conn {
	dialer := net.Dialer{Timeout: time.Second}
	var held []net.Conn
	for range n {
		c, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			continue
		}
		held = append(held, c)
	}
	return held
}
