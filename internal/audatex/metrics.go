package audatex

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics counts the calls of the vendor's API. A nil *Metrics counts nothing.
type Metrics struct {
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	refreshes *prometheus.CounterVec
	circuits  *prometheus.GaugeVec
	waiting   *prometheus.Desc
	rate      *prometheus.Desc

	mu     sync.Mutex
	budget *Budget
}

// NewMetrics registers the metrics of this package with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_vendor_requests_total",
			Help: "Requests to the vendor's API by operation and outcome.",
		}, []string{"operation", "outcome"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "audatex_relay_vendor_request_duration_seconds",
			Help:    "Time from sending a request to the vendor until its answer was read, without the wait for the request budget.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},

			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"operation"}),
		refreshes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_token_refreshes_total",
			Help: "Refreshes of access tokens by outcome; consent-required means that a refresh token was refused for good.",
		}, []string{"outcome"}),
		circuits: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "audatex_relay_vendor_circuit_open",
			Help: "1 while a host of the vendor does not answer anybody and is only probed.",
		}, []string{"host"}),
		waiting: prometheus.NewDesc("audatex_relay_vendor_requests_waiting",
			"Requests that wait for the vendor's budget, by priority.", []string{"priority"}, nil),
		rate: prometheus.NewDesc("audatex_relay_vendor_rate_ratio",
			"Part of the allowed rate of requests that is used: below 1 for some minutes after a 429.", nil, nil),
	}
	if reg != nil {
		reg.MustRegister(m)
	}
	return m
}

// observe makes the gauges show a budget.
func (m *Metrics) observe(b *Budget) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.budget = b
}

// Describe implements prometheus.Collector for the gauges that are read from the budget.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.waiting
	ch <- m.rate
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	b := m.budget
	m.mu.Unlock()
	if b == nil {
		return
	}
	waiting, part := b.figures()
	for p, n := range waiting {
		ch <- prometheus.MustNewConstMetric(m.waiting, prometheus.GaugeValue, float64(n), Priority(p).String())
	}
	ch <- prometheus.MustNewConstMetric(m.rate, prometheus.GaugeValue, part)
}

func (m *Metrics) circuit(host string, open bool) {
	if m == nil {
		return
	}
	value := 0.
	if open {
		value = 1
	}
	m.circuits.WithLabelValues(host).Set(value)
}

func (m *Metrics) request(op Operation, outcome Outcome, took time.Duration) {
	if m == nil {
		return
	}
	m.requests.WithLabelValues(string(op), outcome.String()).Inc()
	m.duration.WithLabelValues(string(op)).Observe(took.Seconds())
}

func (m *Metrics) refresh(outcome string) {
	if m == nil {
		return
	}
	m.refreshes.WithLabelValues(outcome).Inc()
}
