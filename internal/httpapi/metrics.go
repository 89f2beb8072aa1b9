package httpapi

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/audatex-relay/relay/internal/store"
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
			Help: "Requests to the API by operation (operationId of the contract; none for a path that does not " +
				"exist) and status.",
		}, []string{"operation", "code"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "audatex_relay_http_request_duration_seconds",
			Help: "Time from a request's arrival until its answer was written, without requests that wait for " +
				"events.",
			Buckets: []float64{.01, .1, 1, 5},
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

var (
	unresolvedDesc = prometheus.NewDesc("audatex_relay_unresolved_entries",
		"Notifications that are set aside now, by reason; connection-gone of connections that have been deleted.",
		[]string{"reason"}, nil)
	unresolvedAgeDesc = prometheus.NewDesc("audatex_relay_unresolved_oldest_age_seconds",
		"For how long the oldest of them has been set aside, by reason; not of connections that have been deleted.",
		[]string{"reason"}, nil)
)

// reasonGone is the reason for which notifications of a connection that has been deleted are counted. Nothing reads
// them again, so how old they are is not shown: it would be an alert that ends only when somebody deletes them.
const reasonGone = "connection-gone"

// asides shows the notifications that are set aside, of those connections that this replica owns.
type asides struct {
	there *store.Mirror[store.Aside]
	owns  func(connection string) bool
	gone  func(connection string) bool
}

// gone reports whether a connection is not there any more. While that is not known it is.
func (a *API) gone(connection string) bool {
	select {
	case <-a.connections.Ready():
		_, there := a.connections.Get(connection)
		return !there
	default:
		return false
	}
}

// Describe implements prometheus.Collector.
func (asides) Describe(ch chan<- *prometheus.Desc) {
	ch <- unresolvedDesc
	ch <- unresolvedAgeDesc
}

// Collect implements prometheus.Collector.
func (s asides) Collect(ch chan<- prometheus.Metric) {
	type tally struct {
		entries int
		oldest  time.Time
	}
	type connection struct{ owned, gone bool }
	now, reasons, known := time.Now(), map[string]tally{}, map[string]connection{}
	s.there.Each(func(e store.Entry[store.Aside]) {
		c, asked := known[e.Value.Connection]
		if !asked {
			c = connection{s.owns(e.Value.Connection), s.gone(e.Value.Connection)}
			known[e.Value.Connection] = c
		}
		if !c.owned {
			return
		}
		reason := e.Value.Reason
		if c.gone {
			reason = reasonGone
		}
		t, at := reasons[reason], e.Value.UnresolvedAt
		if t.entries++; t.oldest.IsZero() || at.Before(t.oldest) {
			t.oldest = at
		}
		reasons[reason] = t
	})
	for reason, t := range reasons {
		ch <- prometheus.MustNewConstMetric(unresolvedDesc, prometheus.GaugeValue, float64(t.entries), reason)
		if reason == reasonGone {
			continue
		}
		ch <- prometheus.MustNewConstMetric(unresolvedAgeDesc, prometheus.GaugeValue,
			max(now.Sub(t.oldest).Seconds(), 0), reason)
	}
}
