package main

import (
	"errors"
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
func (b *bench) measureUnits() (err error) {
	f, err := b.newFleet("units", time.Second)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	events := int(unitWindow.Seconds() * steadyRate)
	happening := func() error { return b.steady(&pipeline{sandbox: f.sandbox}, events, unitSites, steadyRate) }
	var quiet, polls, notifications cost
	for _, replicas := range []int{1, maxReplicas} {
		if err := f.grow(replicas); err != nil {
			return err
		}
		name := fmt.Sprintf("r3_%d_replicas", replicas)
		if replicas == 1 {
			if quiet, err = f.window(name+"_without_connections", nil); err != nil {
				return err
			}
			if err := errors.Join(f.connect(unitSites), f.subscribed(unitSites)); err != nil {
				return err
			}
		}
		if polls, err = f.window("", nil); err != nil {
			return err
		}
		if replicas == 1 { // connections are there to stay: with more replicas the difference is not to be had
			polls.less(quiet).tell(name+"_poll", unitWindow.Seconds()*unitSites)
		}
		if notifications, err = f.window("", happening); err != nil {
			return err
		}
		notifications.less(polls).tell(name+"_notification", float64(events))
	}
	return f.unitDelivery(notifications, events, happening)
}

// unitDelivery adds callbacks to the notifications of a window.
func (f *fleet) unitDelivery(notifications cost, events int, happening func() error) error {
	const callbacks = 20
	var paths []string
	for i := range callbacks {
		paths = append(paths, fmt.Sprint("received/units-", i))
		body := map[string]any{"url": f.b.receiver.base + "/" + paths[i], "startFrom": "now", "concurrency": 8}
		if err := f.relays[0].put(f.b.ctx, fmt.Sprint("/v1/callbacks/unit-", i), body); err != nil {
			return err
		}
	}
	deliveries, err := f.window("", func() error {
		if err := happening(); err != nil {
			return err
		}
		_, err := f.b.receiver.wait(f.b.ctx, events, time.Minute, paths...)
		return err
	})
	if err != nil {
		return err
	}
	deliveries.less(notifications).tell(fmt.Sprintf("r3_%d_replicas_delivery", len(f.relays)), float64(events*callbacks))
	return nil
}

// cost is what a window has used.
type cost struct {
	traffic
	relays  float64 // CPU seconds
	seconds float64
}

// window measures what goes on while do runs, and for as long as a window lasts.
func (f *fleet) window(name string, do func() error) (c cost, err error) {
	if err := f.settle(); err != nil {
		return c, err
	}
	before, err := f.nats.traffic(f.b.ctx)
	if err != nil {
		return c, err
	}
	cpu, err := f.cpu()
	if err != nil {
		return c, err
	}
	began := time.Now()
	if do != nil {
		if err := do(); err != nil {
			return c, err
		}
	}
	select {
	case <-f.b.ctx.Done():
		return c, f.b.ctx.Err()
	case <-time.After(time.Until(began.Add(unitWindow))):
	}
	c.seconds = time.Since(began).Seconds()
	after, err := f.nats.traffic(f.b.ctx)
	if err != nil {
		return c, err
	}
	used, err := f.cpu()
	c.traffic, c.relays = after.since(before), used-cpu
	if name != "" {
		say(name+"_nats_messages_per_second", "%.1f", c.messages/c.seconds)
		say(name+"_relays_cpu_share_of_a_core", "%.3f", c.relays/c.seconds)
		say(name+"_nats_cpu_share_of_a_core", "%.3f", c.cpu/c.seconds)
	}
	return c, err
}

// less returns what is above another window's use, of the same length.
func (c cost) less(other cost) cost {
	scale := c.seconds / other.seconds
	return cost{
		traffic{
			c.messages - scale*other.messages, c.bytes - scale*other.bytes, c.between - scale*other.between, c.traffic.cpu - scale*other.traffic.cpu,
			c.stored - scale*other.stored,
		}, c.relays - scale*other.relays, c.seconds,
	}
}

func (c cost) tell(name string, n float64) {
	say(name+"_nats_messages", "%.2f", c.messages/n)
	say(name+"_nats_messages_between_servers", "%.2f", c.between/n)
	say(name+"_nats_bytes", "%.0f", c.bytes/n)
	say(name+"_stored_bytes_all_copies", "%.0f", c.stored/n)
	say(name+"_relays_cpu_milliseconds", "%.3f", c.relays*1000/n)
	say(name+"_nats_cpu_milliseconds", "%.3f", c.traffic.cpu*1000/n)
}
