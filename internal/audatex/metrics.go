package audatex

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics counts the calls of the vendor's API.
type Metrics struct {
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	refreshes *prometheus.CounterVec
	circuits  sync.Map // of each *circuit: true
	throttled prometheus.Counter
	budget    atomic.Pointer[Budget]
	skew      atomic.Pointer[skew] // of the newest response; nil: none has come yet
}

// skew is by how much the vendor's clock was ahead of ours.
type skew struct {
	by time.Duration
	at time.Time
}

// shownFor is for how long after the last request what was known of the vendor is shown. A replica that asks no more,
// as its connections went elsewhere, does not find out when that changes.
const shownFor = 5 * time.Minute

var (
	skewDesc = prometheus.NewDesc("audatex_relay_vendor_clock_skew_seconds",
		"The vendor's clock, by the Date of an answer of the last five minutes, less the relay's own; it is exact to "+
			"about a second.", nil, nil)
	circuitDesc = prometheus.NewDesc("audatex_relay_vendor_circuit_open",
		"1 while a host of the vendor does not answer anybody and is only probed; absent where it was asked nothing "+
			"for five minutes.", []string{"host"}, nil)
)

// NewMetrics registers the metrics of this package with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_vendor_requests_total",
			Help: "Requests to the vendor's API by operation and outcome.",
		}, []string{"operation", "outcome"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "audatex_relay_vendor_request_duration_seconds",
			Help: "Time from sending a request to the vendor until its answer was read, without the wait for the " +
				"request budget.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},

			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"operation"}),
		refreshes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_token_refreshes_total",
			Help: "Refreshes of access tokens by outcome; consent-required means that a refresh token was refused " +
				"for good.",
		}, []string{"outcome"}),
		throttled: f.NewCounter(prometheus.CounterOpts{
			Name: "audatex_relay_vendor_throttled_total", Help: "Answers of the vendor with status 429.",
		}),
	}
	for p := range Priority(priorities) {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "audatex_relay_vendor_requests_waiting",
			Help:        "Requests that wait for the vendor's budget, by priority.",
			ConstLabels: prometheus.Labels{"priority": p.String()},
		}, func() float64 { return float64(m.budget.Load().waitingAt(p)) })
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "audatex_relay_vendor_rate_ratio",
		Help: "Part of the allowed rate of requests that is used: below 1 for some minutes after a 429.",
	}, func() float64 { return m.budget.Load().ratePart() })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "audatex_relay_vendor_budget_used_ratio",
		Help: "Part of the allowed requests to the vendor that was used in about the last minute; 0 without a limit.",
	}, func() float64 { return m.budget.Load().usedPart() })
	m.budget.Store(NewBudget(0)) // until there is one
	if reg != nil {
		reg.MustRegister(skewCollector{m}, circuitCollector{m})
	}
	return m
}

// skewCollector shows the vendor's clock while it is known.
type skewCollector struct{ m *Metrics }

// Describe implements prometheus.Collector.
func (skewCollector) Describe(ch chan<- *prometheus.Desc) { ch <- skewDesc }

// Collect implements prometheus.Collector.
func (c skewCollector) Collect(ch chan<- prometheus.Metric) {
	if skew := c.m.skew.Load(); skew != nil && time.Since(skew.at) < shownFor {
		ch <- prometheus.MustNewConstMetric(skewDesc, prometheus.GaugeValue, skew.by.Seconds())
	}
}

// circuitCollector shows which of the vendor's hosts do not respond.
type circuitCollector struct{ m *Metrics }

// Describe implements prometheus.Collector.
func (circuitCollector) Describe(ch chan<- *prometheus.Desc) { ch <- circuitDesc }

// Collect implements prometheus.Collector. A host may have several circuits, one of each budget.
func (c circuitCollector) Collect(ch chan<- prometheus.Metric) {
	hosts := map[string]float64{}
	for of := range c.m.circuits.Range {
		of := of.(*circuit)
		if open, known := of.shown(time.Now()); known && open {
			hosts[of.host] = 1
		} else if known {
			hosts[of.host] = max(hosts[of.host], 0)
		}
	}
	for host, open := range hosts {
		ch <- prometheus.MustNewConstMetric(circuitDesc, prometheus.GaugeValue, open, host)
	}
}

// answered notes what a response that came now shows of the vendor: its clock, and whether it asks for less.
func (m *Metrics) answered(res *http.Response, now time.Time) {
	if res.StatusCode == http.StatusTooManyRequests {
		m.throttled.Inc()
	}
	if date, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		m.skew.Store(&skew{date.Add(time.Second / 2).Sub(now), now}) // a Date has whole seconds
	}
}

// called counts and logs a call that began at start.
func (m *Metrics) called(
	ctx context.Context, log *slog.Logger, op Operation, outcome Outcome, status int, start time.Time,
	correlationID string,
) {
	took := time.Since(start)
	m.requests.WithLabelValues(string(op), outcome.String()).Inc()
	m.duration.WithLabelValues(string(op)).Observe(took.Seconds())
	log.LogAttrs(ctx, slog.LevelDebug, "vendor call",
		slog.String("operation", string(op)), slog.String("outcome", outcome.String()), slog.Int("status", status),
		slog.Duration("took", took), slog.String("correlation_id", correlationID))
}

func (m *Metrics) refresh(outcome string) {
	m.refreshes.WithLabelValues(outcome).Inc()
}
