package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
)

type demoCommand struct {
	For      duration `help:"End after this time (20s, 5m) with a summary; exit code 1 if anything was lost or misordered. Without it the demo runs until Ctrl-C."`
	Callback string   `placeholder:"URL" help:"Send to this receiver of yours instead of the demo's own."`
	Sites    []string `default:"leeds,york,hull" help:"Names of the sites, up to 20."`
	Rate     int      `default:"30" help:"New orders a minute, up to 600."`
	Faults   bool     `help:"Let the vendor fail now and then: 500, 503, 429, slow answers."`
	Seed     uint64   `default:"1" help:"Seed of the orders and of what becomes of them."`
	Verbose  bool     `short:"v" help:"Show all of the relay's log, not only warnings and errors."`

	DropDelivery bool `hidden:"" help:"The demo's receiver loses one delivery after answering 200 to it."`
}

// errDemo is a run in which the relay did not keep its promises. The summary has said which.
var errDemo = errors.New("the demo saw the relay break a promise; its last line says which")

const (
	demoSetup     = 30 * time.Second // for the relay to start and to subscribe everywhere
	demoFirstSite = 4711             // the vendor's id of the first site
)

// demoFaults are what --faults lets the vendor do: refuse and linger. Cut answers are left out, as what they cost is not the relay's to lose.
var demoFaults = sandbox.Faults{
	Share500: 0.05, Share503: 0.03, Share429: 0.01, RetryAfter: time.Second, ShareLatency: 0.2, Latency: 300 * time.Millisecond,
}

// demoSite is a site as the demo knows it: our name and the vendor's id.
type demoSite struct{ name, vendor string }

// Run shows the whole way once, with real parts: the vendor's double, the relay, and a receiver that verifies.
func (c *demoCommand) Run(p program) (failed error) {
	sites, err := c.check()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "relay-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo's data: %w", err)
	}
	defer func() { failed = errors.Join(failed, os.RemoveAll(dir)) }()

	// What is around the relay goes on until it has drained.
	around, stopAround := context.WithCancel(context.WithoutCancel(p.ctx))
	var surroundings group
	defer func() { failed = errors.Join(failed, surroundings.wait()) }()
	defer stopAround()
	vendor := sandbox.New(sandbox.Config{Seed: c.Seed})
	vendorURL, err := serveLoopback(around, &surroundings, "the vendor's double", vendor.Handler())
	if err != nil {
		return err
	}

	// The relay.
	running, stopRelay := context.WithCancel(around)
	var inside group
	defer func() { failed = errors.Join(failed, inside.wait()) }()
	defer stopRelay()
	config, err := demoSettings(dir, vendorURL, c.Verbose).check()
	if err != nil {
		return err
	}
	started := make(chan addresses, 1)
	inside.goUntil(running, "the relay", func(ctx context.Context) error {
		return serve(ctx, config, newLogger(p, config), func(at addresses) { started <- at })
	})
	var at addresses
	select {
	case at = <-started:
	case err := <-inside.failed():
		return err
	case <-p.ctx.Done():
		return nil
	}

	// The receiver, and everything registered as a user would.
	seen := newAudit()
	d := &demo{command: c, sites: sites, vendor: vendor, audit: seen, journey: newJourney(p.stdout, sites, seen),
		calls: &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}}
	defer d.calls.CloseIdleConnections()
	setup, cancel := context.WithTimeout(p.ctx, demoSetup)
	defer cancel()
	if err := d.prepare(setup, around, &surroundings, at, config.AdminToken); err != nil {
		if p.ctx.Err() != nil {
			return nil // told to stop before there was anything to see
		}
		return err
	}

	// Orders move until the time is over.
	err = d.walk(p.ctx, inside.failed())
	if err == nil {
		err = d.settle(running)
	}
	stopRelay()
	return errors.Join(err, inside.wait())
}

// check answers the sites, or the flag that is wrong.
func (c *demoCommand) check() ([]demoSite, error) {
	if len(c.Sites) == 0 || len(c.Sites) > 20 {
		return nil, wrong("--sites", "names %d sites; between 1 and 20 are needed", len(c.Sites))
	}
	var sites []demoSite
	for i, name := range c.Sites {
		if err := relay.CheckName(name); err != nil {
			return nil, wrong("--sites", "%w", err)
		}
		if slices.Contains(c.Sites[:i], name) {
			return nil, wrong("--sites", "%s is named twice", name)
		}
		sites = append(sites, demoSite{name: name, vendor: fmt.Sprint(demoFirstSite + i)})
	}
	if c.Rate < 1 || c.Rate > 600 {
		return nil, wrong("--rate", "%d is not between 1 and 600 orders a minute", c.Rate)
	}
	if c.For < 0 {
		return nil, wrong("--for", "%s is below zero", c.For)
	}
	if c.DropDelivery && c.Callback != "" {
		return nil, wrong("--drop-delivery", "is for the demo's own receiver, not for one of --callback")
	}
	return sites, nil
}

// demoSettings are those of a relay for one machine and a short life. They are written out rather than read from flags: RELAY_…
// variables of a real relay in the same shell must not reach the demo.
func demoSettings(dir, vendor string, verbose bool) settings {
	s := settings{
		storage: storage{
			DataDir: dir, StorageSync: "1s", Retention: duration(24 * time.Hour), NATSPrefix: "relay", NATSListen: "127.0.0.1:0",
			LogLevel: "warn", LogFormat: "text",
		},
		HTTPAddr: "127.0.0.1:0", MetricsAddr: "127.0.0.1:0", AdminToken: relay.NewID(),
		ShutdownGrace:  duration(5 * time.Second),
		AudatexBaseURL: vendor + sandbox.APIPath, AudatexAuthURL: vendor + sandbox.AuthorizePath, AudatexTokenURL: vendor + sandbox.TokenPath,
		AudatexClientID: "sandbox-client", AudatexClientSecret: "sandbox-secret", AudatexAuthStyle: "form", AudatexPKCE: "on",
		AudatexScopes: []string{sandbox.ScopeBasic, sandbox.ScopePartsOrders}, AudatexTopic: audatex.DefaultTopic, AudatexTimezone: "UTC",
		// The double has no budget, and seconds count here.
		AudatexRate: 60_000, AudatexTimeout: duration(30 * time.Second), PollInterval: duration(500 * time.Millisecond), PollSooner: duration(time.Minute),
		CallbackAllowCIDRs: []string{"127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"},
	}
	for _, seconds := range []int{1, 2, 5, 10, 30, 60, 300, 600, 1800} {
		s.RetrySchedule = append(s.RetrySchedule, duration(time.Duration(seconds)*time.Second))
	}
	if verbose {
		s.LogLevel = "debug"
	}
	return s
}

// serveLoopback serves on a free port of the loopback interface until ctx ends and answers the base address.
func serveLoopback(ctx context.Context, g *group, what string, handler http.Handler) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen for %s: %w", what, err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	g.goUntil(ctx, what, func(ctx context.Context) error { return serveHTTP(ctx, server, listener) })
	return "http://" + listener.Addr().String(), nil
}
