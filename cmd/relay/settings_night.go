package main

import (
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/reconciler"
)

// off turns something off that is on without it.
const off = "off"

// checkNight reads when open orders are read again each night: two times of day in the vendor's zone.
func (c *config) checkNight() error {
	text := c.NightlyReconcile
	if text == off || text == "" {
		return nil
	}
	from, to, isSpan := strings.Cut(text, "-")
	begin, errBegin := time.Parse("15:04", strings.TrimSpace(from))
	end, errEnd := time.Parse("15:04", strings.TrimSpace(to))
	if !isSpan || errBegin != nil || errEnd != nil {
		return wrong("RELAY_NIGHTLY_RECONCILE", "%s is neither two times of day such as 01:00-05:00 nor '%s'", shownWord(text), off)
	}
	midnight := time.Date(begin.Year(), begin.Month(), begin.Day(), 0, 0, 0, 0, begin.Location())
	c.night = reconciler.Night{From: begin.Sub(midnight), Length: end.Sub(begin), Location: c.location}
	if c.night.Length <= 0 { // past midnight
		c.night.Length += 24 * time.Hour
	}
	return nil
}
