package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/audatex-relay/relay/internal/settings"
)

type serveCommand struct {
	settings.Serve
	CPUProfile string `name:"cpuprofile" hidden:"" help:"Write a CPU profile here when the relay stops."`
}

// Help describes the settings that have no default.
func (serveCommand) Help() string {
	return "Needs RELAY_ADMIN_TOKEN, RELAY_AUDATEX_CLIENT_ID and RELAY_AUDATEX_CLIENT_SECRET, and with an external NATS RELAY_ENCRYPTION_KEYS. " +
		"Everything else has a default."
}

// Run serves until SIGTERM, then drains.
func (c *serveCommand) Run(p program) error {
	checked, err := c.Check()
	if err != nil {
		return err
	}
	log := newLogger(p, checked.StoreConfig)
	slog.SetDefault(log) // what libraries write by the log package goes the same way
	p.warn(checked.StoreConfig, log)
	if c.CPUProfile != "" {
		stop, err := profile(c.CPUProfile)
		if err != nil {
			return settings.Wrong("--cpuprofile", "%w", err)
		}
		defer stop()
	}
	err = serve(p.ctx, checked, log, func(addresses) {})
	if err != nil && p.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		log.Info("stopped before it served")
		return nil
	}
	return err
}
