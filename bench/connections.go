package main

import (
	"fmt"
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
	*fleet
	n int
}

// measureConnections measures ten thousand connections on one relay: what they cost while nothing
// comes, how even their polls are, and how long a burst over all of them takes.
func (b *bench) measureConnections() {
	c := &connections{b.newFleet("RELAY_POLL_SOONER_FOR=0", fmt.Sprint("RELAY_AUDATEX_RATE=", connectionsRate)),
		b.sizes.connections}
	defer end(c.close)
	c.restart(time.Minute)
	began := time.Now()
	c.connect(c.n)
	say("connections", "%d", c.n)
	say("connections_made_seconds", "%.1f", time.Since(began).Seconds())
	c.subscribed(c.n)
	say("connections_subscribed_seconds", "%.1f", time.Since(began).Seconds())
	c.idle()
	c.burst()
}

// restart runs the relay with an interval; one that runs is stopped first. The data stays.
func (c *connections) restart(interval time.Duration) *program {
	must(c.stop())
	return c.start("connections", "RELAY_POLL_INTERVAL="+interval.String())
}

// idle lets a relay with the ordinary interval run for some intervals of a minute.
func (c *connections) idle() {
	relay := c.restart(connectionsInterval)
	c.b.pass(90 * time.Second) // taking over is spread over a third of it
	before, _ := relay.usage()
	from, requests := time.Now(), c.requests()
	last, most := requests[sandbox.OpPoll], int64(0)
	for tick := range c.b.sizes.idleSeconds {
		c.b.pass(time.Until(from.Add(time.Duration(tick+1) * time.Second)))
		now := c.requests()[sandbox.OpPoll]
		last, most = now, max(most, now-last)
	}
	after, peak := relay.usage()
	took := time.Since(from).Seconds()
	polls, mean := float64(last-requests[sandbox.OpPoll]), float64(c.n)/connectionsInterval.Seconds()
	core, resident := (after-before)/took, memoryOf(relay.pid(), "VmRSS")
	say("idle_connections_polls_per_second", "%.1f (%.1f are due)", polls/took, mean)
	say("idle_connections_most_polls_in_a_second", "%d (at most %.0f: %s)", most, 2*mean,
		verdict(float64(most) <= 2*mean))
	say("idle_connections_refreshes", "%d", c.requests()[sandbox.OpToken]-requests[sandbox.OpToken])
	say("idle_connections_cpu_of_a_core", "%.4f (at most %.2f: %s)", core, mostIdleCPU, verdict(core < mostIdleCPU))
	say("idle_connections_cpu_ms_per_poll", "%.2f", (after-before)*1000/max(polls, 1))
	say("idle_connections_memory_mib", "%.0f (at most %d: %s)", resident, mostIdleMemory,
		verdict(resident < mostIdleMemory))
	say("idle_connections_peak_memory_mib", "%.0f", peak)
}

// burst has something happen at every site, with an order for each notification, and waits until
// all of it is delivered.
func (c *connections) burst() {
	relay, notifications := c.restart(burstInterval), c.n*burstPerConnection
	c.b.callback(relay, "all", "ok/connections", "now", concurrency)
	c.b.pass(2 * burstInterval)
	before, _ := relay.usage()
	began, requests := time.Now(), c.requests()
	for range burstPerConnection {
		for i := range c.n {
			get(c.sandbox.CreateOrder(fmt.Sprint(1000+i), sandbox.OrderOptions{}))
		}
	}
	queued := time.Since(began)
	all := c.b.receiver.wait(c.b.ctx, notifications, 10*time.Minute, "ok/connections")
	after, peak := relay.usage()
	took, now := all[0].Last.Sub(began).Seconds(), c.requests()
	// A poll for each connection and a reading for each order, at the part of the rate that flows
	// at all times.
	least := float64(c.n+notifications) / (0.95 * connectionsRate / 60)
	allowed := least + burstInterval.Seconds()
	say("burst_notifications", "%d", notifications)
	say("burst_queueing_seconds", "%.1f", queued.Seconds())
	say("burst_delivered_seconds", "%.1f (at most %.1f, of which the budget takes %.1f: %s)", took, allowed, least,
		verdict(took <= allowed))
	say("burst_requests", "%d polls, %d orders", now[sandbox.OpPoll]-requests[sandbox.OpPoll],
		now[sandbox.OpReadOrder]-requests[sandbox.OpReadOrder])
	say("burst_cpu_ms_per_notification", "%.2f", (after-before)*1000/float64(notifications))
	say("burst_peak_memory_mib", "%.0f", peak)
}

func (c *connections) requests() map[sandbox.Operation]int64 { return c.sandbox.Counters().Requests }
