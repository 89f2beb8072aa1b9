package backlog

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
)

// collectFor bounds the reads of the log for one scrape: most callbacks need none.
const collectFor = 2 * time.Second

// Condition is what the metrics show of one callback.
type Condition struct {
	Callback, Client string
	Events           int     // that wait
	OldestSeconds    float64 // age of the oldest of them
	Paused           bool
	Disabled         *relay.Disabled
	FailingSince     time.Time      // zero unless every attempt has failed since
	Failure          sender.Outcome // of the last attempt that failed; 0: another replica made it
	Open             bool           // its circuit is open
	Retrying         int            // orders in retry
	Congested        bool
	CertificateEnds  time.Time // of its receiver; zero unless that is soon, or over
}

// Gauges are the metrics of each callback, made when they are scraped. All metrics of single callbacks are made here.
type Gauges struct {
	// Each calls a function with the condition of each callback of this replica.
	Each func(ctx context.Context, each func(Condition))
}

var (
	eventsDesc = desc("audatex_relay_callback_backlog",
		"Events that wait for a callback; estimated while it is behind the shared reader.")
	oldestDesc = desc("audatex_relay_callback_oldest_waiting_seconds",
		"Age of the oldest event that waits for a callback, 0 if none does.")
	pausedDesc = desc("audatex_relay_callback_paused", "1 while a callback is paused; absent otherwise.")

	disabledDesc = desc("audatex_relay_callback_disabled_seconds",
		"For how long a callback has been disabled, because its receiver has failed for days (failing) or answered "+
			"410 (gone); absent otherwise.",
		"reason")
	failingDesc = desc("audatex_relay_callback_failing_seconds",
		"For how long every attempt at a callback has failed, and how the last one ended; absent otherwise.", "outcome")
	openDesc = desc("audatex_relay_callback_circuit_open",
		"1 while a callback's receiver fails for several orders and is only probed; absent otherwise.")
	retryingDesc = desc("audatex_relay_callback_retrying_orders",
		"Orders of a callback whose oldest event was refused and is tried again; absent while there is none.")
	congestedDesc = desc("audatex_relay_callback_congested",
		"1 while a callback is slowed down because its receiver asks for less, "+
			"or has as many orders in retry as it may; absent otherwise.")
	certificateDesc = desc("audatex_relay_callback_certificate_expires_seconds",
		"Time until the certificate of a callback's receiver ends, from 30 days or the last quarter of its life "+
			"before, "+
			"as its last connection showed; negative once it has ended; absent otherwise.")
)

func desc(name, help string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"callback", "client"}, more...), nil)
}

// Describe implements prometheus.Collector.
func (g Gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		eventsDesc, oldestDesc, pausedDesc, disabledDesc, failingDesc, openDesc, retryingDesc, congestedDesc,
		certificateDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g Gauges) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectFor)
	defer cancel()
	now := time.Now()
	g.Each(ctx, func(c Condition) { c.collect(ch, now) })
}

func (c *Condition) collect(ch chan<- prometheus.Metric, now time.Time) {
	gauge := func(d *prometheus.Desc, value float64, more ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value,
			append([]string{c.Callback, c.Client}, more...)...)
	}
	gauge(eventsDesc, float64(c.Events))
	gauge(oldestDesc, c.OldestSeconds)
	if c.Paused {
		gauge(pausedDesc, 1)
	}
	if d := c.Disabled; d != nil {
		gauge(disabledDesc, max(now.Sub(d.At).Seconds(), 0), d.Reason)
	}
	if since := c.FailingSince; !since.IsZero() {
		outcome := "unknown"
		if c.Failure != 0 {
			outcome = c.Failure.String()
		}
		gauge(failingDesc, max(now.Sub(since).Seconds(), 0), outcome)
	}
	if c.Open {
		gauge(openDesc, 1)
	}
	if c.Retrying > 0 {
		gauge(retryingDesc, float64(c.Retrying))
	}
	if c.Congested {
		gauge(congestedDesc, 1)
	}
	if !c.CertificateEnds.IsZero() {
		gauge(certificateDesc, c.CertificateEnds.Sub(now).Seconds())
	}
}
