package httpapi

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics counts the requests.
type metrics struct {
	requests *prometheus.CounterVec
	refusals *prometheus.CounterVec
	duration *prometheus.HistogramVec
	polls    atomic.Int64 // long polls under way
}

// noOperation is the operation of a request for a path that does not exist.
const noOperation = "none"

// newMetrics registers the metrics of this package with reg; if that is nil, they are counted but not exposed.
func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_http_requests_total",
			Help: "Requests to the API by operation (operationId of the contract; none for a path that does not exist) and status.",
		}, []string{"operation", "code"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "audatex_relay_http_request_duration_seconds",
			Help: "Time from a request's arrival until its answer was written, without requests that wait for events.", Buckets: []float64{.01, .1, 1, 5},
		}, []string{"operation"}),
		refusals: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_http_refusals_total",
			Help: "Requests to the API that ended with a problem, by the last part of its type.",
		}, []string{"reason"}),
	}
	for _, k := range kinds { // each from the start, so that its first is an increase
		m.refusals.WithLabelValues(k.slug)
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "audatex_relay_long_polls", Help: "Requests for events that wait for one.",
	}, func() float64 { return float64(m.polls.Load()) })
	return m
}

// served counts a request that has been answered, or whose caller has gone.
func (m *metrics) served(x *exchange, status int, took time.Duration) {
	operation := x.op.id
	if operation == "" {
		operation = noOperation
	}
	m.requests.WithLabelValues(operation, strconv.Itoa(status)).Inc()
	if x.problem != nil {
		m.refusals.WithLabelValues(x.problem.kind.slug).Inc()
	}
	if !x.waited {
		m.duration.WithLabelValues(operation).Observe(took.Seconds())
	}
}

// waits counts a request that waits for an event, until done is called.
func (m *metrics) waits(ctx context.Context) (done func()) {
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		x.waited = true
	}
	m.polls.Add(1)
	return func() { m.polls.Add(-1) }
}
