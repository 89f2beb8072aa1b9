package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/demo"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/settings"
)

type demoCommand struct {
	For      settings.Duration `help:"End after this time (20s, 5m) with a summary; exit code 1 if anything was lost or misordered, or nothing was delivered. Without it the demo runs until Ctrl-C."`
	Callback string            `placeholder:"URL" help:"Send to this receiver of yours instead of the demo's own."`
	Sites    []string          `default:"leeds,york,hull" help:"Names of the sites, up to 20."`
	Rate     int               `default:"30" help:"New orders a minute, up to 600."`
	Faults   bool              `help:"Let the vendor fail now and then: 500, 503, 429, slow answers."`
	Seed     uint64            `default:"1" help:"Seed of the orders and of what becomes of them."`
	Verbose  bool              `short:"v" help:"Show all of the relay's log, not only errors."`

	DropDelivery bool `hidden:"" help:"The demo's receiver loses one delivery after answering 200 to it."`
}

// Run shows the whole way of an order once.
func (c *demoCommand) Run(p program) error {
	if err := c.check(); err != nil {
		return err
	}
	err := demo.Run(p.ctx, demo.Config{
		For: c.For.D(), Callback: c.Callback, Sites: c.Sites, Rate: c.Rate, Faults: c.Faults, Seed: c.Seed,
		DropDelivery: c.DropDelivery, Out: p.stdout,
		Start: func(ctx context.Context, r demo.Relay, started func(demo.Addresses)) error {
			config, err := demoSettings(r, c.Verbose).Check()
			if err != nil {
				return err
			}
			log := newLogger(p, config.StoreConfig)
			defer log.Close()
			return serve(ctx, config, log.Logger, func(at addresses) {
				started(demo.Addresses{API: at.api, Metrics: at.metrics, NATS: at.nats})
			})
		},
	})
	if refused, ok := errors.AsType[*demo.CallbackError](err); ok {
		return settings.Wrong("--callback", "%w", refused)
	}
	return err
}

// check returns the error of the flag that is wrong.
func (c *demoCommand) check() error {
	if len(c.Sites) == 0 || len(c.Sites) > 20 {
		return settings.Wrong("--sites", "names %d sites; between 1 and 20 are needed", len(c.Sites))
	}
	for i, name := range c.Sites {
		if err := relay.CheckName(name); err != nil {
			return settings.Wrong("--sites", "%w", err)
		}
		if slices.Contains(c.Sites[:i], name) {
			return settings.Wrong("--sites", "%s is named twice", name)
		}
	}
	if c.Rate < 1 || c.Rate > 600 {
		return settings.Wrong("--rate", "%d is not between 1 and 600 orders a minute", c.Rate)
	}
	if c.For < 0 {
		return settings.Wrong("--for", "%s is below zero", c.For)
	}
	if c.DropDelivery && c.Callback != "" {
		return settings.Wrong("--drop-delivery", "is for the demo's own receiver, not for one of --callback")
	}
	return nil
}

// demoSettings are those of a relay for one machine and a short life. They are written out rather than read from flags:
// RELAY_… variables of a real relay in the same shell must not reach the demo.
func demoSettings(r demo.Relay, verbose bool) settings.Serve {
	s := settings.Serve{
		Serving: settings.Serving{
			HTTPAddr: "127.0.0.1:0", MetricsAddr: "127.0.0.1:0", AdminToken: r.AdminToken,
			ShutdownGrace: settings.Duration(5 * time.Second),
		},
		Log: settings.Log{LogLevel: "error", LogFormat: "text"}, // warnings are what the demo shows anyway
		Vendor: settings.Vendor{
			AudatexBaseURL: r.VendorURL + sandbox.APIPath, AudatexAuthURL: r.VendorURL + sandbox.AuthorizePath,
			AudatexTokenURL: r.VendorURL + sandbox.TokenPath,
			AudatexClientID: "sandbox-client", AudatexClientSecret: "sandbox-secret", AudatexAuthStyle: "form",
			AudatexPKCE:   "on",
			AudatexScopes: []string{sandbox.ScopeBasic, sandbox.ScopePartsOrders},
			AudatexTopic:  audatex.DefaultTopic, AudatexTimezone: "UTC",
			// The double has no budget, and seconds count here.
			AudatexRate: 60_000, AudatexTimeout: settings.Duration(30 * time.Second),
			PollInterval: settings.Duration(500 * time.Millisecond), PollSooner: settings.Duration(time.Minute),
		},
		Callbacks: settings.Callbacks{
			CallbackAllowCIDRs: []string{"127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12",
				"192.168.0.0/16", "fc00::/7"},
		},
		Store: settings.Store{DataDir: r.Dir, StorageSync: "1s",
			Retention: settings.Duration(24 * time.Hour), NATSPrefix: "relay"},
		Listen: settings.Listen{NATSListen: "127.0.0.1:0"},
	}
	for _, seconds := range []int{1, 2, 5, 10, 30, 60, 300, 600, 1800} {
		s.RetrySchedule = append(s.RetrySchedule, settings.Duration(time.Duration(seconds)*time.Second))
	}
	if verbose {
		s.LogLevel = "debug"
	}
	return s
}
