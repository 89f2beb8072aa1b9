package store

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Collector returns the metrics of the store's health: whether writes and reads fail now, and how
// long something failed in all.
func (h *Health) Collector() prometheus.Collector { return healthCollector{h} }

type healthCollector struct{ health *Health }

var (
	descFailing = prometheus.NewDesc("audatex_relay_store_failing",
		"1 while the store does not take writes, or does not answer reads.", []string{"access"}, nil)
	descOutages = prometheus.NewDesc("audatex_relay_store_outages_total",
		"Times that the store began to fail.", nil, nil)
	descSeconds = prometheus.NewDesc("audatex_relay_store_outage_seconds_total",
		"Time during which the store failed, the present outage included.", nil, nil)
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

var (
	descBytes = prometheus.NewDesc("audatex_relay_store_bytes",
		"Bytes that a log or a bucket holds.", []string{"stream"}, nil)
	descMessages = prometheus.NewDesc("audatex_relay_store_messages",
		"Messages that a log or a bucket holds.", []string{"stream"}, nil)
	descLimit = prometheus.NewDesc("audatex_relay_store_limit_bytes",
		"Bytes that a log or a bucket may hold; 0: there is no limit.", []string{"stream"}, nil)
	descDisk = prometheus.NewDesc("audatex_relay_disk_bytes",
		"Size of the disk of the data directory; on a cluster what the account may store, absent if that has no limit.",
		nil, nil)
	descFree = prometheus.NewDesc("audatex_relay_disk_free_bytes",
		"What is free of the disk of the data directory; on a cluster of what the account may store, absent if that "+
			"has no limit.", nil, nil)
	descFullIn = prometheus.NewDesc("audatex_relay_store_full_in_seconds",
		"For how long the disk, and each log and bucket that has a limit, will do at the rate of the last hour: "+
			"the least of all; absent if nothing grows.", nil, nil)
)

// Describe implements prometheus.Collector.
func (z *Sizes) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descBytes, descMessages, descLimit, descDisk, descFree, descFullIn} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (z *Sizes) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, s := range z.last.streams {
		gauge(descBytes, float64(s.bytes), s.name)
		gauge(descMessages, float64(s.messages), s.name)
		gauge(descLimit, float64(s.limit), s.name)
	}
	if d := z.last.disk; d != nil {
		gauge(descDisk, float64(d.total))
		gauge(descFree, float64(d.free))
	}
	if in, grows := z.fullIn(); grows {
		gauge(descFullIn, in.Seconds())
	}
}
