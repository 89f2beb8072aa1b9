package main

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"syscall"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// pipeline is a relay that polls a sandbox for several sites.
type pipeline struct {
	*program
	sandbox *sandbox.Sandbox
	server  *httptest.Server
	orders  []string
}

func (b *bench) pipeline(name string, sites int) (*pipeline, error) {
	sb := sandbox.New(sandbox.Config{Seed: 1})
	server := httptest.NewServer(sb.Handler())
	p, err := b.start(filepath.Join(b.dir, name), "RELAY_POLL_INTERVAL=100ms", "RELAY_AUDATEX_BASE_URL="+server.URL+sandbox.APIPath,
		"RELAY_AUDATEX_AUTH_URL="+server.URL+sandbox.AuthorizePath, "RELAY_AUDATEX_TOKEN_URL="+server.URL+sandbox.TokenPath)
	if err != nil {
		server.Close()
		return nil, err
	}
	l := &pipeline{program: p, sandbox: sb, server: server}
	for i := range sites {
		vendorSite := fmt.Sprint(1000 + i)
		grant, err := sb.Grant(sandbox.Consent{Level: sandbox.Site, Sites: []string{vendorSite}})
		if err == nil {
			err = p.put(b.ctx, fmt.Sprintf("/v1/connections/site-%d", i), map[string]any{
				"level": "site", "site": fmt.Sprintf("site-%d", i), "refreshToken": grant.RefreshToken,
			})
		}
		if err != nil {
			return nil, errors.Join(err, l.close())
		}
	}
	deadline := time.Now().Add(30 * time.Second)
	for len(sb.Subscriptions()) < sites {
		if time.Now().After(deadline) {
			return nil, errors.Join(errors.New("the relay did not subscribe"), l.close())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return l, nil
}

func (l *pipeline) close() error {
	err := l.stop(syscall.SIGTERM)
	l.server.Close()
	return err
}

// happen makes the n-th thing happen at the vendor: a new order, or a change of an older one.
func (l *pipeline) happen(n, sites int) error {
	if n%4 == 0 || len(l.orders) < sites {
		o, err := l.sandbox.CreateOrder(fmt.Sprint(1000+n%sites), sandbox.OrderOptions{})
		if err != nil {
			return err
		}
		l.orders = append(l.orders, o.ID)
		return nil
	}
	_, err := l.sandbox.ChangeOrder(l.orders[n%len(l.orders)], sandbox.Change{})
	return err
}

// measureEndToEnd empties full queues of the vendor into a callback.
func (b *bench) measureEndToEnd() error {
	const sites = 20
	l, err := b.pipeline("endtoend", sites)
	if err != nil {
		return err
	}
	if err := b.callback(l.program, "all", "ok/endtoend", "now", concurrency); err != nil {
		return err
	}
	before, _, err := l.usage()
	if err != nil {
		return err
	}
	began := time.Now()
	for n := range b.sizes.endToEnd {
		if err := l.happen(n, sites); err != nil {
			return err
		}
	}
	queued := time.Since(began)
	all, err := b.receiver.wait(b.ctx, b.sizes.endToEnd, 5*time.Minute, "ok/endtoend")
	if err != nil {
		return err
	}
	cpu, peak, err := l.usage()
	if err != nil {
		return err
	}
	b.sayRate("end_to_end_events", float64(b.sizes.endToEnd)/all[0].Last.Sub(began).Seconds())
	say("end_to_end_queueing_seconds", "%.1f", queued.Seconds())
	say("end_to_end_cpu_seconds_per_1000_events", "%.3f", (cpu-before)*1000/float64(b.sizes.endToEnd))
	say("end_to_end_peak_memory_mib", "%.0f", peak)
	return l.close()
}

// steady makes n things happen at a rate.
func (b *bench) steady(l *pipeline, n, sites int, perSecond float64) error {
	tick := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
	defer tick.Stop()
	for i := range n {
		select {
		case <-b.ctx.Done():
			return b.ctx.Err()
		case <-tick.C:
		}
		if err := l.happen(i, sites); err != nil {
			return err
		}
	}
	return nil
}

const (
	steadyRate  = 50
	steadySites = 20
)

// measureLatency lets fifty events a second happen and looks how long each takes from the log to
// the callback.
func (b *bench) measureLatency() error {
	l, err := b.pipeline("latency", steadySites)
	if err != nil {
		return err
	}
	if err := b.callback(l.program, "all", "ok/latency", "now", 8); err != nil {
		return err
	}
	before, _, err := l.usage()
	if err != nil {
		return err
	}
	if err := b.steady(l, b.sizes.latency, steadySites, steadyRate); err != nil {
		return err
	}
	all, err := b.receiver.wait(b.ctx, b.sizes.latency, time.Minute, "ok/latency")
	if err != nil {
		return err
	}
	cpu, peak, err := l.usage()
	if err != nil {
		return err
	}
	sayLatency("event_to_callback_at_50_per_second", all[0])
	say("at_50_per_second_cpu_seconds_per_1000_deliveries", "%.3f", (cpu-before)*1000/float64(b.sizes.latency))
	say("at_50_per_second_peak_memory_mib", "%.0f", peak)
	return l.close()
}

// measureIsolation looks at two healthy callbacks, alone and then beside a dead, a failing and a
// slow one.
func (b *bench) measureIsolation() error {
	l, err := b.pipeline("isolation", steadySites)
	if err != nil {
		return err
	}
	phase := func(name string) (worst seen, err error) {
		var paths []string
		for i := range 2 {
			path := fmt.Sprintf("ok/%s-%d", name, i)
			paths = append(paths, path)
			if err := b.callback(l.program, fmt.Sprintf("%s-healthy-%d", name, i), path, "now", 8); err != nil {
				return seen{}, err
			}
		}
		if err := b.steady(l, b.sizes.latency, steadySites, steadyRate); err != nil {
			return seen{}, err
		}
		all, err := b.receiver.wait(b.ctx, b.sizes.latency, time.Minute, paths...)
		for _, s := range all {
			if s.P99 >= worst.P99 {
				worst = s
			}
		}
		return worst, err
	}
	alone, err := phase("alone")
	if err != nil {
		return err
	}
	for _, bad := range []string{"dead", "tenth", "slow"} {
		if err := b.callback(l.program, bad, bad+"/isolation", "now", 8); err != nil {
			return err
		}
	}
	beside, err := phase("beside")
	if err != nil {
		return err
	}
	sayLatency("healthy_alone", alone)
	sayLatency("healthy_beside_dead_failing_slow", beside)
	allowed := max(alone.P99*0.1, 5)
	say("isolation_p99_difference_ms", "%.2f (at most %.2f: %s)", beside.P99-alone.P99, allowed, verdict(beside.P99-alone.P99 <= allowed))
	return l.close()
}

func sayLatency(name string, s seen) {
	say(name+"_p50_ms", "%.2f", s.P50)
	say(name+"_p99_ms", "%.2f", s.P99)
	say(name+"_max_ms", "%.2f", s.Max)
}

func verdict(ok bool) string {
	if ok {
		return "held"
	}
	return "not held"
}
