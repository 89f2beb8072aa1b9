package main

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
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
			"RELAY_POLL_INTERVAL="+f.interval.String(), "RELAY_POLL_SOONER_FOR=0", "RELAY_AUDATEX_BASE_URL="+f.vendor.URL+sandbox.APIPath,
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

// cpu returns the CPU seconds that all relays have used.
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
				for tries := 0; err == nil && tries < 3; tries++ { // a busy machine responds 503; a PUT may be repeated
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
