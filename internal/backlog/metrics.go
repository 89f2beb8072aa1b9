package backlog

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Gauges are the two metrics of each callback, made when they are asked for.
type Gauges struct {
	// Each calls a function with how many events wait for each callback of this replica, and the age of the oldest.
	Each func(ctx context.Context, each func(callback string, events int, ageSeconds float64))
}

var (
	eventsDesc = prometheus.NewDesc("audatex_relay_callback_backlog",
		"Events that wait for a callback; estimated while it is behind the shared reader.", []string{"callback"}, nil)
	oldestDesc = prometheus.NewDesc("audatex_relay_callback_oldest_waiting_seconds",
		"Age of the oldest event that waits for a callback, 0 if none does.", []string{"callback"}, nil)
)

// Describe implements prometheus.Collector.
func (g Gauges) Describe(ch chan<- *prometheus.Desc) { ch <- eventsDesc; ch <- oldestDesc }

// Collect implements prometheus.Collector.
func (g Gauges) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // of reads of the log: most callbacks need none
	defer cancel()
	g.Each(ctx, func(callback string, events int, age float64) {
		ch <- prometheus.MustNewConstMetric(eventsDesc, prometheus.GaugeValue, float64(events), callback)
		ch <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, age, callback)
	})
}
