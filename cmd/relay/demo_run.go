package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

const (
	demoQuiet  = 5 * time.Second  // without anything arriving, nothing more is waited for …
	demoSettle = 30 * time.Second // … nor longer than this
)

// demo is one run: what it is made of and what it has seen.
type demo struct {
	command *demoCommand
	sites   []demoSite
	vendor  *sandbox.Sandbox
	audit   *audit
	journey *journey

	calls         *http.Client
	admin, client api
	follower      *follower // with --callback: reads what the relay has recorded
}

// prepare starts the receiver, registers everything through the HTTP API and says how to look for oneself.
func (d *demo) prepare(ctx, around context.Context, surroundings *group, at addresses, adminToken string) error {
	d.admin = api{base: "http://" + at.api, token: adminToken, calls: d.calls}
	key, err := d.registerClient(ctx)
	if err != nil {
		return err
	}
	d.client = api{base: d.admin.base, token: key.Key, calls: d.calls}
	target := d.command.Callback
	var own *receiver
	if target == "" {
		own = newReceiver(d.audit, d.journey, d.command.DropDelivery)
		if target, err = serveLoopback(around, surroundings, "the receiver", own); err != nil {
			return err
		}
	}
	secret, err := d.registerCallback(ctx, target)
	if err != nil {
		return err
	}
	if own != nil {
		if err := own.verifyWith(secret); err != nil {
			return err
		}
	} else {
		d.follower = newFollower(d.admin, d.audit, d.journey)
	}
	d.journey.welcome(at, key, target, secret, own != nil)
	if err := d.registerConnections(ctx); err != nil {
		return err
	}
	if d.command.Faults {
		return d.vendor.SetFaults(demoFaults)
	}
	return nil
}

// walk moves orders until ctx ends, the time is over, or the relay fails.
func (d *demo) walk(ctx context.Context, failed <-chan error) error {
	if d.command.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.command.For.d())
		defer cancel()
	}
	walking, stop := context.WithCancel(ctx)
	var parts group
	parts.goUntil(walking, "walking the orders", newWalker(d.vendor, d.sites, d.command.Rate, d.command.Seed).run)
	if d.follower != nil {
		parts.goUntil(walking, "following the deliveries", d.follower.run)
	}
	d.journey.header()
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	case err = <-parts.failed():
	}
	stop()
	if waited := parts.wait(); err == nil {
		err = waited
	}
	return err
}

// settle waits for what is under way and judges the run.
func (d *demo) settle(ctx context.Context) error {
	d.journey.note("no more orders; waiting for what is under way")
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
	if v.broken() {
		return errDemo
	}
	return nil
}

// await returns once all that the vendor handed out has arrived, or nothing has for a while.
func (d *demo) await(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
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
		if time.Since(last) > demoQuiet || time.Since(began) > demoSettle {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for what is under way: %w", ctx.Err())
		case <-tick.C:
		}
	}
}
