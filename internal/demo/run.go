package demo

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/group"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

const (
	quiet      = 5 * time.Second  // without anything arriving, nothing more is waited for …
	settleTime = 30 * time.Second // … nor longer than this
)

// demo is one run: what it is made of and what it has seen.
type demo struct {
	config  Config
	sites   []site
	vendor  *sandbox.Sandbox
	audit   *receivedEvents
	journey *printer

	calls         *http.Client
	admin, client api
	follower      *follower // with --callback: reads what the relay has recorded
}

func newDemo(c Config, vendor *sandbox.Sandbox) *demo {
	var sites []site
	for i, name := range c.Sites {
		sites = append(sites, site{name: name, vendor: fmt.Sprint(firstSite + i)})
	}
	seen := newReceivedEvents()
	return &demo{
		config: c, sites: sites, vendor: vendor, audit: seen, journey: newPrinter(c.Out, sites, seen),
		calls: &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second},
	}
}

// prepare starts the receiver, registers everything through the HTTP API and prints how to look for
// oneself.
func (d *demo) prepare(ctx, around context.Context, surroundings *group.Group, at Addresses, adminToken string) error {
	d.admin = api{base: "http://" + at.API, token: adminToken, calls: d.calls}
	key, err := d.registerClient(ctx)
	if err != nil {
		return err
	}
	d.client = api{base: d.admin.base, token: key.Key, calls: d.calls}
	target := d.config.Callback
	var own *relaytest.Receiver
	if target == "" {
		own = newReceiver(d.audit, d.journey, d.config.DropDelivery)
		if target, err = serveLoopback(around, surroundings, "the receiver",
			&breaking{Handler: own, journey: d.journey}); err != nil {
			return err
		}
	}
	secret, err := d.registerCallback(ctx, target)
	if err != nil {
		return err
	}
	if own != nil {
		if err := own.VerifyWith(secret); err != nil {
			return err
		}
	} else {
		d.follower = newFollower(d.admin, d.audit, d.journey)
	}
	d.journey.welcome(at, key, target, secret, own != nil)
	if err := d.registerConnections(ctx); err != nil {
		return err
	}
	if d.config.Faults {
		return d.vendor.SetFaults(faults)
	}
	return nil
}

// walk moves orders until ctx ends, the time is over, or the relay fails.
func (d *demo) walk(ctx context.Context, failed <-chan error) error {
	if d.config.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.config.For)
		defer cancel()
	}
	walking, stop := context.WithCancel(ctx)
	var parts group.Group
	parts.Go(walking, "walking the orders", newWalker(d.vendor, d.sites, d.config.Rate, d.config.Seed).run)
	if d.follower != nil {
		parts.Go(walking, "following the deliveries", d.follower.run)
	}
	d.journey.header()
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	case err = <-parts.Failed():
	}
	stop()
	if waited := parts.Wait(); err == nil {
		err = waited
	}
	return err
}

// settle waits for what is under way and judges the run.
func (d *demo) settle(ctx context.Context) error {
	d.journey.note("no more orders; waiting for what is still on its way")
	if err := d.vendor.SetFaults(); err != nil {
		return err
	}
	if err := d.await(ctx); err != nil {
		return err
	}
	v := d.audit.judge(d.vendor.Ledger())
	if d.follower != nil {
		if err := d.follower.explain(ctx, &v); err != nil {
			return err
		}
	}
	d.journey.summary(d.vendor.Counters(), v)
	switch {
	case v.broken():
		return ErrBroken
	case v.deliveries == 0:
		return ErrNothing
	}
	return nil
}

// await returns once all that the vendor handed out has arrived, or nothing has for a while.
func (d *demo) await(ctx context.Context) error {
	began := time.Now()
	for {
		if d.follower != nil {
			if err := d.follower.readWhole(ctx); err != nil {
				return err
			}
		}
		c := d.vendor.Counters()
		arrived, last := d.audit.progress()
		if c.NotificationsWaiting == 0 && arrived >= c.NotificationsHandedOut-c.NotificationsLost {
			return nil
		}
		if last.Before(began) {
			last = began
		}
		if time.Since(last) > quiet && (d.follower != nil || !d.journey.refusedLast()) ||
			time.Since(began) > settleTime {
			return nil
		}
		if !backoff.Sleep(ctx, 50*time.Millisecond) {
			return fmt.Errorf("wait for what is under way: %w", ctx.Err())
		}
	}
}
