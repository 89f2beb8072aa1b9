package main

import (
	"fmt"
	"time"
)

const (
	unitSites  = 200
	unitWindow = 15 * time.Second
)

// measureUnits finds what one poll, one notification and one delivery cost the relays and three
// NATS servers, each as the difference of two windows, with one relay and with three: what grows
// between them grows with every further one.
func (b *bench) measureUnits() {
	f := b.newReplicas("units", time.Second)
	defer end(f.close)
	events := int(unitWindow.Seconds() * steadyRate)
	happening := func() {
		f.orders = nil
		f.steady(events, unitSites, steadyRate)
	}
	var notifications cost
	for _, replicas := range []int{1, maxReplicas} {
		f.grow(replicas)
		name := fmt.Sprintf("r3_%d_replicas", replicas)
		var quiet cost
		if replicas == 1 {
			quiet = f.window(name+"_without_connections", nil)
			f.connect(unitSites)
			f.subscribed(unitSites)
		}
		polls := f.window("", nil)
		if replicas == 1 { // connections are there to stay: with more replicas the difference is not to be had
			polls.less(quiet).say(name+"_poll", unitWindow.Seconds()*unitSites)
		}
		notifications = f.window("", happening)
		notifications.less(polls).say(name+"_notification", float64(events))
	}
	f.unitDelivery(notifications, events, happening)
}

// unitDelivery adds callbacks to the notifications of a window.
func (f *fleet) unitDelivery(notifications cost, events int, happening func()) {
	const callbacks = 20
	var paths []string
	for i := range callbacks {
		paths = append(paths, fmt.Sprint("received/units-", i))
		must(f.relays[0].put(fmt.Sprint("/v1/callbacks/unit-", i),
			map[string]any{"url": f.b.receiver.base + "/" + paths[i], "startFrom": "now", "concurrency": 8}))
	}
	deliveries := f.window("", func() {
		happening()
		f.b.receiver.wait(f.b.ctx, events, time.Minute, paths...)
	})
	deliveries.less(notifications).say(fmt.Sprintf("r3_%d_replicas_delivery", len(f.relays)), float64(events*callbacks))
}

// cost is what a window has used.
type cost struct {
	traffic
	relays  float64 // CPU seconds
	seconds float64
}

// window measures what goes on while do runs, and for as long as a window lasts.
func (f *fleet) window(name string, do func()) (c cost) {
	f.settle()
	before, cpu, began := f.nats.traffic(), f.cpu(), time.Now()
	if do != nil {
		do()
	}
	f.b.pass(time.Until(began.Add(unitWindow)))
	c.seconds = time.Since(began).Seconds()
	c.traffic, c.relays = f.nats.traffic().less(before, 1), f.cpu()-cpu
	if name != "" {
		say(name+"_nats_messages_per_second", "%.1f", c.traffic[messages]/c.seconds)
		say(name+"_relays_cpu_share_of_a_core", "%.3f", c.relays/c.seconds)
		say(name+"_nats_cpu_share_of_a_core", "%.3f", c.traffic[serversCPU]/c.seconds)
	}
	return c
}

// less returns what is above another window's use, of the same length.
func (c cost) less(other cost) cost {
	scale := c.seconds / other.seconds
	return cost{c.traffic.less(other.traffic, scale), c.relays - scale*other.relays, c.seconds}
}

// say prints the cost of each of n things.
func (c cost) say(name string, n float64) {
	say(name+"_nats_messages", "%.2f", c.traffic[messages]/n)
	say(name+"_nats_messages_between_servers", "%.2f", c.traffic[between]/n)
	say(name+"_nats_bytes", "%.0f", c.traffic[transferred]/n)
	say(name+"_stored_bytes_all_copies", "%.0f", c.traffic[stored]/n)
	say(name+"_relays_cpu_milliseconds", "%.3f", c.relays*1000/n)
	say(name+"_nats_cpu_milliseconds", "%.3f", c.traffic[serversCPU]*1000/n)
}
