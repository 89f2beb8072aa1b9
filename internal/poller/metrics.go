package poller

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/audatex-relay/relay/internal/audatex"
)

// State is how a connection is doing, as the API and the metrics name it.
type State string

// The states of a connection.
const (
	StateNew             State = "new"              // not polled yet, or without a token
	StateActive          State = "active"           // the last poll succeeded
	StateConsentRequired State = "consent-required" // a user must consent again
	StatePaused          State = "paused"           // by configuration
	StateFailing         State = "failing"          // the last poll failed; it is tried again
)

var states = []State{StateNew, StateActive, StateConsentRequired, StatePaused, StateFailing}

// Metrics of the poller.
type Metrics struct {
	polls         *prometheus.CounterVec
	notifications prometheus.Counter
	gaps          prometheus.Counter
	connections   *prometheus.Desc
	polledAge     *prometheus.Desc
	tokenAge      *prometheus.Desc
	consents      *prometheus.Desc
	consentAge    *prometheus.Desc
	poller        atomic.Pointer[Poller]
}

// NewMetrics registers the poller's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		polls: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_polls_total", Help: "Polls of the vendor's queues by outcome.",
		}, []string{"outcome"}),
		notifications: f.NewCounter(prometheus.CounterOpts{
			Name: "audatex_relay_notifications_received_total", Help: "Notifications stored in the inbox.",
		}),
		gaps: f.NewCounter(prometheus.CounterOpts{
			Name: "audatex_relay_gaps_suspected_total", Help: "Polls whose answer may have carried notifications that were not stored.",
		}),
		connections: prometheus.NewDesc("audatex_relay_connections", "Connections by state.", []string{"state"}, nil),
		polledAge: prometheus.NewDesc("audatex_relay_connection_last_poll_age_seconds",
			"Time since the connection's last successful poll.", []string{"connection"}, nil),
		tokenAge: prometheus.NewDesc("audatex_relay_connection_token_age_seconds",
			"Time since the connection's token was last refreshed.", []string{"connection"}, nil),
		consents: prometheus.NewDesc("audatex_relay_consents_required", "Connections, paused ones among them, whose user must consent again.", nil, nil),
		consentAge: prometheus.NewDesc("audatex_relay_consent_required_oldest_age_seconds",
			"For how long the longest waiting connection has had no consent; 0 if none waits for one.", nil, nil),
	}
	if reg != nil {
		reg.MustRegister(m)
	}
	return m
}

// Describe implements prometheus.Collector for the gauges that are read from the runners.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.connections
	ch <- m.polledAge
	ch <- m.tokenAge
	ch <- m.consents
	ch <- m.consentAge
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	p := m.poller.Load()
	if p == nil {
		return
	}
	counts := map[State]int{}
	now := time.Now()
	consents, oldest := 0, now
	p.roster.Each(func(id string, r *runner) {
		r.mu.Lock()
		s := r.seen
		r.mu.Unlock()
		counts[s.state]++
		if !s.polledAt.IsZero() {
			ch <- prometheus.MustNewConstMetric(m.polledAge, prometheus.GaugeValue, now.Sub(s.polledAt).Seconds(), id)
		}
		if !s.consentSince.IsZero() {
			consents++
			if s.consentSince.Before(oldest) {
				oldest = s.consentSince
			}
		}
		if !s.refreshedAt.IsZero() {
			ch <- prometheus.MustNewConstMetric(m.tokenAge, prometheus.GaugeValue, now.Sub(s.refreshedAt).Seconds(), id)
		}
	})
	ch <- prometheus.MustNewConstMetric(m.consents, prometheus.GaugeValue, float64(consents))
	ch <- prometheus.MustNewConstMetric(m.consentAge, prometheus.GaugeValue, now.Sub(oldest).Seconds())
	for _, state := range states {
		ch <- prometheus.MustNewConstMetric(m.connections, prometheus.GaugeValue, float64(counts[state]), string(state))
	}
}

func (m *Metrics) poll(outcome audatex.Outcome, notifications int) {
	m.polls.WithLabelValues(outcome.String()).Inc()
	m.notifications.Add(float64(notifications))
}
