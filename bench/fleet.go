package main

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"syscall"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
)

// maxReplicas is how many relays share the work at most.
const maxReplicas = 3

// fleet is relays with the sandbox as their vendor: one with a store of its own, or several on one NATS cluster.
type fleet struct {
	b       *bench
	nats    *cluster // nil: the store is the relay's own
	relays  []*program
	sandbox *sandbox.Sandbox
	vendor  *httptest.Server
	env     []string // of the relays
	orders  []string // made by happen
}

// newFleet starts the vendor. Relays are started by start or grow.
func (b *bench) newFleet(env ...string) *fleet {
	f := &fleet{b: b, sandbox: sandbox.New(sandbox.Config{Seed: 1}), env: env}
	f.vendor = httptest.NewServer(f.sandbox.Handler())
	f.env = append(f.env, "RELAY_AUDATEX_BASE_URL="+f.vendor.URL+sandbox.APIPath,
		"RELAY_AUDATEX_AUTH_URL="+f.vendor.URL+sandbox.AuthorizePath,
		"RELAY_AUDATEX_TOKEN_URL="+f.vendor.URL+sandbox.TokenPath)
	return f
}

// newReplicas starts the vendor and a NATS cluster. The relays poll at an interval.
func (b *bench) newReplicas(name string, interval time.Duration) *fleet {
	keys := get(store.NewKeys())
	nats := b.startCluster(name)
	f := b.newFleet("RELAY_NATS_URL="+nats.urls, "RELAY_ENCRYPTION_KEYS="+string(keys),
		"RELAY_POLL_INTERVAL="+interval.String(), "RELAY_POLL_SOONER_FOR=0")
	f.nats = nats
	return f
}

// start starts a relay on a directory of the run, with further settings.
func (f *fleet) start(name string, env ...string) *program {
	p := f.b.start(filepath.Join(f.b.dir, name), append(env, f.env...)...)
	f.relays = append(f.relays, p)
	return p
}

// grow starts relays until there are n.
func (f *fleet) grow(n int) {
	for len(f.relays) < n {
		f.start(fmt.Sprint("relay-", len(f.relays)))
	}
}

// stop stops the relays. What they have stored stays.
func (f *fleet) stop() error {
	var errs []error
	for _, p := range f.relays {
		errs = append(errs, p.stop(syscall.SIGTERM))
	}
	f.relays = nil
	return errors.Join(errs...)
}

func (f *fleet) close() error {
	err := f.stop()
	if f.nats != nil {
		err = errors.Join(err, f.nats.stop())
	}
	f.vendor.Close()
	return err
}

// settle waits until the shards have gone where they belong.
func (f *fleet) settle() { f.b.pass(5 * time.Second) }

// pass lets time pass.
func (b *bench) pass(d time.Duration) {
	select {
	case <-b.ctx.Done():
		must(b.ctx.Err())
	case <-time.After(d):
	}
}

// cpu returns the CPU seconds that all relays have used.
func (f *fleet) cpu() (all float64) {
	for _, p := range f.relays {
		cpu, _ := p.usage()
		all += cpu
	}
	return all
}

// put makes many PUT requests, some at a time, spread over the relays. A busy machine responds 503, so each is tried
// three times.
func (f *fleet) put(n int, request func(i int) (path string, body any, err error)) {
	must(spread(16, n, func(_, i int) error {
		path, body, err := request(i)
		if err != nil {
			return err
		}
		for tries := range 3 {
			if err = f.relays[(i+tries)%len(f.relays)].put(path, body); err == nil {
				break
			}
		}
		return err
	}))
}

// connect makes connections, each of a site of its own.
func (f *fleet) connect(n int) {
	f.put(n, func(i int) (string, any, error) {
		grant, err := f.sandbox.Grant(sandbox.Consent{Level: sandbox.Site, Sites: []string{fmt.Sprint(1000 + i)}})
		site := fmt.Sprintf("site-%d", i)
		return "/v1/connections/" + site,
			map[string]any{"level": "site", "site": site, "refreshToken": grant.RefreshToken}, err
	})
}

// subscribed waits until every connection has been polled for the first time.
func (f *fleet) subscribed(n int) {
	for deadline := time.Now().Add(5 * time.Minute); len(
		f.sandbox.Subscriptions()) < n; f.b.pass(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			must(fmt.Errorf("%d of %d connections have subscribed", len(f.sandbox.Subscriptions()), n))
		}
	}
}

// happen makes the n-th thing happen at the vendor: a new order, or a change of an older one.
func (f *fleet) happen(n, sites int) {
	if n%4 == 0 || len(f.orders) < sites {
		o := get(f.sandbox.CreateOrder(fmt.Sprint(1000+n%sites), sandbox.OrderOptions{}))
		f.orders = append(f.orders, o.ID)
		return
	}
	get(f.sandbox.ChangeOrder(f.orders[n%len(f.orders)], sandbox.Change{}))
}

// steady makes n things happen at a rate.
func (f *fleet) steady(n, sites int, perSecond float64) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
	defer tick.Stop()
	for i := range n {
		select {
		case <-f.b.ctx.Done():
			must(f.b.ctx.Err())
		case <-tick.C:
		}
		f.happen(i, sites)
	}
}
