package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

const (
	connectionsRate     = 60_000 // requests a minute
	connectionsInterval = 5 * time.Minute
	burstInterval       = 10 * time.Second
	burstPerConnection  = 5

	mostIdleCPU    = 0.05 // of a core
	mostIdleMemory = 300  // MiB
)

// connections is one relay with an embedded store and the vendor's double. The relay is started
// again with other settings.
type connections struct {
	fleet
	n int
}

// measureConnections measures ten thousand connections on one relay: what they cost while nothing
// comes, how even their polls are, and how long a burst over all of them takes.
func (b *bench) measureConnections() (err error) {
	c := &connections{n: b.sizes.connections}
	c.b, c.sandbox = b, sandbox.New(sandbox.Config{Seed: 1})
	c.vendor = httptest.NewServer(c.sandbox.Handler())
	defer c.vendor.Close()
	if err := c.start(time.Minute); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	began := time.Now()
	if err := c.connect(c.n); err != nil {
		return err
	}
	say("connections", "%d", c.n)
	say("connections_made_seconds", "%.1f", time.Since(began).Seconds())
	if err := c.subscribed(c.n); err != nil {
		return err
	}
	say("connections_subscribed_seconds", "%.1f", time.Since(began).Seconds())
	if err := c.idle(); err != nil {
		return err
	}
	return c.burst()
}

// start runs the relay with an interval; one that runs is stopped first. The data stays.
func (c *connections) start(interval time.Duration) error {
	if err := c.stop(); err != nil {
		return err
	}
	p, err := c.b.start(filepath.Join(c.b.dir, "connections"), "RELAY_POLL_INTERVAL="+interval.String(), "RELAY_POLL_SOONER_FOR=0",
		fmt.Sprint("RELAY_AUDATEX_RATE=", connectionsRate), "RELAY_AUDATEX_BASE_URL="+c.vendor.URL+sandbox.APIPath,
		"RELAY_AUDATEX_AUTH_URL="+c.vendor.URL+sandbox.AuthorizePath, "RELAY_AUDATEX_TOKEN_URL="+c.vendor.URL+sandbox.TokenPath)
	if err != nil {
		return err
	}
	c.relays = []*program{p}
	return nil
}

func (c *connections) stop() error {
	relays := c.relays
	c.relays = nil
	var errs []error
	for _, p := range relays {
		errs = append(errs, p.stop(syscall.SIGTERM))
	}
	return errors.Join(errs...)
}

// idle lets a relay with the ordinary interval run for some intervals of a minute.
func (c *connections) idle() error {
	if err := c.start(connectionsInterval); err != nil {
		return err
	}
	pass(90 * time.Second) // taking over is spread over a third of it
	relay := c.relays[0]
	before, _, err := relay.usage()
	if err != nil {
		return err
	}
	from, requests := time.Now(), c.requests()
	last, most, seconds := requests[sandbox.OpPoll], int64(0), c.b.sizes.idleSeconds
	for tick := range seconds {
		pass(time.Until(from.Add(time.Duration(tick+1) * time.Second)))
		now := c.requests()[sandbox.OpPoll]
		last, most = now, max(most, now-last)
	}
	after, peak, err := relay.usage()
	if err != nil {
		return err
	}
	took := time.Since(from).Seconds()
	polls, mean := float64(last-requests[sandbox.OpPoll]), float64(c.n)/connectionsInterval.Seconds()
	core := (after - before) / took
	resident, err := relay.resident()
	if err != nil {
		return err
	}
	say("idle_connections_polls_per_second", "%.1f (%.1f are due)", polls/took, mean)
	say("idle_connections_most_polls_in_a_second", "%d (at most %.0f: %s)", most, 2*mean, verdict(float64(most) <= 2*mean))
	say("idle_connections_refreshes", "%d", c.requests()[sandbox.OpToken]-requests[sandbox.OpToken])
	say("idle_connections_cpu_of_a_core", "%.4f (at most %.2f: %s)", core, mostIdleCPU, verdict(core < mostIdleCPU))
	say("idle_connections_cpu_ms_per_poll", "%.2f", (after-before)*1000/max(polls, 1))
	say("idle_connections_memory_mib", "%.0f (at most %d: %s)", resident, mostIdleMemory, verdict(resident < mostIdleMemory))
	say("idle_connections_peak_memory_mib", "%.0f", peak)
	return nil
}

// burst has something happen at every site, with an order for each notification, and waits until
// all of it is delivered.
func (c *connections) burst() error {
	if err := c.start(burstInterval); err != nil {
		return err
	}
	relay, notifications := c.relays[0], c.n*burstPerConnection
	if err := c.b.callback(relay, "all", "ok/connections", "now", concurrency); err != nil {
		return err
	}
	pass(2 * burstInterval)
	before, _, err := relay.usage()
	if err != nil {
		return err
	}
	began, requests := time.Now(), c.requests()
	for range burstPerConnection {
		for i := range c.n {
			if _, err := c.sandbox.CreateOrder(fmt.Sprint(1000+i), sandbox.OrderOptions{}); err != nil {
				return err
			}
		}
	}
	queued := time.Since(began)
	all, err := c.b.receiver.wait(c.b.ctx, notifications, 10*time.Minute, "ok/connections")
	if err != nil {
		return err
	}
	after, peak, err := relay.usage()
	if err != nil {
		return err
	}
	took, now := all[0].Last.Sub(began).Seconds(), c.requests()
	// A poll for each connection and a reading for each order, at the part of the rate that flows
	// at all times.
	least := float64(c.n+notifications) / (0.95 * connectionsRate / 60)
	allowed := least + burstInterval.Seconds()
	say("burst_notifications", "%d", notifications)
	say("burst_queueing_seconds", "%.1f", queued.Seconds())
	say("burst_delivered_seconds", "%.1f (at most %.1f, of which the budget takes %.1f: %s)", took, allowed, least, verdict(took <= allowed))
	say("burst_requests", "%d polls, %d orders", now[sandbox.OpPoll]-requests[sandbox.OpPoll], now[sandbox.OpReadOrder]-requests[sandbox.OpReadOrder])
	say("burst_cpu_ms_per_notification", "%.2f", (after-before)*1000/float64(notifications))
	say("burst_peak_memory_mib", "%.0f", peak)
	return nil
}

func (c *connections) requests() map[sandbox.Operation]int64 { return c.sandbox.Counters().Requests }

// pass lets time pass.
func pass(d time.Duration) { <-time.After(d) }

// resident returns the memory that the relay has now, in MiB.
func (p *program) resident() (float64, error) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		if kib, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			mem, err := strconv.ParseFloat(string(bytes.Fields(kib)[0]), 64)
			return mem / 1024, err
		}
	}
	return 0, errors.New("the kernel tells no memory of the relay")
}
