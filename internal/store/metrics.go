package store

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Collector returns the metrics of the store's health: whether writes and reads fail now, and how
// long something failed in all.
func (h *Health) Collector() prometheus.Collector { return healthCollector{h} }

type healthCollector struct{ health *Health }

var (
	descFailing = prometheus.NewDesc("audatex_relay_store_failing", "1 while the store does not take writes, or does not answer reads.", []string{"access"}, nil)
	descOutages = prometheus.NewDesc("audatex_relay_store_outages_total", "Times that the store began to fail.", nil, nil)
	descSeconds = prometheus.NewDesc("audatex_relay_store_outage_seconds_total", "Time during which the store failed, the present outage included.", nil, nil)
)

// Describe implements prometheus.Collector.
func (healthCollector) Describe(out chan<- *prometheus.Desc) {
	out <- descFailing
	out <- descOutages
	out <- descSeconds
}

// Collect implements prometheus.Collector.
func (c healthCollector) Collect(out chan<- prometheus.Metric) {
	trouble := c.health.Trouble()
	n, took := c.health.Outages()
	out <- prometheus.MustNewConstMetric(descFailing, prometheus.GaugeValue, oneIf(trouble.Writes), "write")
	out <- prometheus.MustNewConstMetric(descFailing, prometheus.GaugeValue, oneIf(trouble.Reads), "read")
	out <- prometheus.MustNewConstMetric(descOutages, prometheus.CounterValue, float64(n))
	out <- prometheus.MustNewConstMetric(descSeconds, prometheus.CounterValue, took.Seconds())
}

func oneIf(failing bool) float64 {
	if failing {
		return 1
	}
	return 0
}
