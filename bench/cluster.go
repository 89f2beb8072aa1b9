package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// maxReplicas is how many relays share the work at most.
const maxReplicas = 3

// fleet is several relays on one NATS cluster, with the sandbox as their vendor.
type fleet struct {
	b        *bench
	nats     *cluster
	keys     []byte
	relays   []*program
	sandbox  *sandbox.Sandbox
	vendor   *httptest.Server
	interval time.Duration // between two polls of a connection
}

// newFleet starts the cluster and the vendor; relays come by grow.
func (b *bench) newFleet(name string, interval time.Duration) (*fleet, error) {
	keys, err := store.NewKeys()
	if err != nil {
		return nil, err
	}
	f := &fleet{b: b, keys: keys, sandbox: sandbox.New(sandbox.Config{Seed: 1}), interval: interval}
	f.vendor = httptest.NewServer(f.sandbox.Handler())
	if f.nats, err = b.startCluster(name); err != nil {
		f.vendor.Close()
		return nil, err
	}
	return f, nil
}

// grow starts relays until there are n.
func (f *fleet) grow(n int) error {
	for len(f.relays) < n {
		p, err := f.b.start(filepath.Join(f.b.dir, fmt.Sprint("relay-", len(f.relays))), "RELAY_NATS_URL="+f.nats.urls, "RELAY_ENCRYPTION_KEYS="+string(f.keys),
			"RELAY_POLL_INTERVAL="+f.interval.String(), "RELAY_AUDATEX_BASE_URL="+f.vendor.URL+sandbox.APIPath,
			"RELAY_AUDATEX_AUTH_URL="+f.vendor.URL+sandbox.AuthorizePath, "RELAY_AUDATEX_TOKEN_URL="+f.vendor.URL+sandbox.TokenPath)
		if err != nil {
			return err
		}
		f.relays = append(f.relays, p)
	}
	return nil
}

func (f *fleet) close() error {
	var errs []error
	for _, p := range f.relays {
		errs = append(errs, p.stop(syscall.SIGTERM))
	}
	errs = append(errs, f.nats.stop())
	f.vendor.Close()
	return errors.Join(errs...)
}

// settle waits until the shards have gone where they belong.
func (f *fleet) settle() error {
	select {
	case <-f.b.ctx.Done():
		return f.b.ctx.Err()
	case <-time.After(5 * time.Second):
		return nil
	}
}

// cpu answers the CPU seconds that all relays have used.
func (f *fleet) cpu() (all float64, err error) {
	for _, p := range f.relays {
		cpu, _, e := p.usage()
		all, err = all+cpu, errors.Join(err, e)
	}
	return all, err
}

// put makes many PUT requests, some at a time, spread over the relays.
func (f *fleet) put(n int, request func(i int) (path string, body any, err error)) error {
	const atOnce = 16
	next := make(chan int)
	errs := make(chan error, atOnce)
	var working sync.WaitGroup
	for range atOnce {
		working.Go(func() {
			for i := range next {
				path, body, err := request(i)
				for tries := 0; err == nil && tries < 3; tries++ { // a busy machine may answer 503; a PUT may be repeated
					if err = f.relays[(i+tries)%len(f.relays)].put(f.b.ctx, path, body); err == nil {
						break
					}
					if tries < 2 {
						err = nil
					}
				}
				if err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	working.Wait()
	close(errs)
	return <-errs
}

// connect makes connections, each of a site of its own.
func (f *fleet) connect(n int) error {
	return f.put(n, func(i int) (string, any, error) {
		grant, err := f.sandbox.Grant(sandbox.Consent{Level: sandbox.Site, Sites: []string{fmt.Sprint(1000 + i)}})
		return fmt.Sprintf("/v1/connections/site-%d", i), map[string]any{"level": "site", "site": fmt.Sprintf("site-%d", i), "refreshToken": grant.RefreshToken}, err
	})
}

// subscribed waits until every connection has been polled for the first time.
func (f *fleet) subscribed(n int) error {
	for deadline := time.Now().Add(5 * time.Minute); len(f.sandbox.Subscriptions()) < n; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d connections have subscribed", len(f.sandbox.Subscriptions()), n)
		}
	}
	return nil
}

// measureReplicas delivers a filled log of three copies with one, two and three relays. All of it shares this machine.
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

const (
	unitSites  = 200
	unitWindow = 15 * time.Second
)

// measureUnits finds what one poll, one notification and one delivery cost the relays and three NATS servers, each as the difference of
// two windows, with one relay and with three: what grows between them grows with every further one.
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

// measureClusterLatency lets few and many notifications a second come to three relays and looks how long each takes from the vendor's
// answer to the callback. Few sites are polled, so that it is not their load that is measured.
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

// less answers what is above another window's use, of the same length.
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

// measureIdle looks at three relays with many connections and callbacks while nothing happens: none is due for a poll.
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
