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

// The reasons why a connection needs a consent, used as the metric's label.
const (
	consentRefused = "refused" // the vendor refused its refresh token
	consentNone    = "none"    // it has no token yet
)

// lateAfter is how late a poll may be before the connection counts as overdue.
const lateAfter = time.Minute

// Metrics of the poller.
type Metrics struct {
	polls         *prometheus.CounterVec
	notifications prometheus.Counter
	gaps          prometheus.Counter
	poller        atomic.Pointer[Poller]
}

var (
	connectionsDesc = prometheus.NewDesc("audatex_relay_connections", "Connections by state.", []string{"state"}, nil)
	polledAgeDesc   = prometheus.NewDesc("audatex_relay_connection_last_poll_age_seconds",
		"Time since the connection's last successful poll, or since it was made if none has succeeded yet.",
		[]string{"connection"}, nil)
	overdueDesc = prometheus.NewDesc("audatex_relay_connection_poll_overdue_seconds",
		"By how long a poll is late, beyond the connection's interval and a minute; "+
			"absent while it is not, while the connection is paused, and while it needs a consent.",
		[]string{"connection"}, nil)
	pausedDesc = prometheus.NewDesc("audatex_relay_connection_paused",
		"1 while the connection is paused; absent otherwise.", []string{"connection"}, nil)
	consentDesc = prometheus.NewDesc("audatex_relay_connection_consent_required_seconds",
		"For how long the connection has needed a consent, because the vendor refused its refresh token (refused) "+
			"or because it has none yet (none); absent otherwise.",
		[]string{"connection", "reason"}, nil)
	consentsDesc = prometheus.NewDesc("audatex_relay_consents_required",
		"Connections, paused ones among them, whose user must consent again.", nil, nil)
	consentAgeDesc = prometheus.NewDesc("audatex_relay_consent_required_oldest_age_seconds",
		"For how long the longest waiting connection has had no consent; 0 if none waits for one.", nil, nil)
)

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
			Name: "audatex_relay_gaps_suspected_total",
			Help: "Polls whose answer may have carried notifications that were not stored.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m)
	}
	return m
}

// Describe implements prometheus.Collector for the gauges that are read from the runners.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		connectionsDesc, polledAgeDesc, overdueDesc, pausedDesc, consentDesc, consentsDesc, consentAgeDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	p := m.poller.Load()
	if p == nil {
		return
	}
	m.collect(ch, time.Now(), p.roster.Each)
}

// collect sends the metrics of all connections.
func (m *Metrics) collect(ch chan<- prometheus.Metric, now time.Time, each func(func(id string, r *runner))) {
	counts := map[State]int{}
	consents, oldest := 0, now
	each(func(id string, r *runner) {
		r.mu.Lock()
		s, c := r.seen, connectionAt{id, r.connection.CreatedAt, r.p.intervalOf(r.connection), r.connection.Paused}
		r.mu.Unlock()
		counts[s.state]++
		if !s.consentSince.IsZero() {
			consents++
			if s.consentSince.Before(oldest) {
				oldest = s.consentSince
			}
		}
		s.collect(ch, c, now)
	})
	gauge(ch, consentsDesc, float64(consents))
	gauge(ch, consentAgeDesc, now.Sub(oldest).Seconds())
	for _, state := range states {
		gauge(ch, connectionsDesc, float64(counts[state]), string(state))
	}
}

// connectionAt is what the metrics need of a connection's configuration.
type connectionAt struct {
	id       string
	created  time.Time
	interval time.Duration
	paused   bool
}

// collect sends the metrics of one connection.
func (s *seen) collect(ch chan<- prometheus.Metric, c connectionAt, now time.Time) {
	polled := c.created
	if !s.polledAt.IsZero() {
		polled = s.polledAt
	}
	needsConsent := s.noToken || !s.consentSince.IsZero()
	switch {
	case s.noToken:
		gauge(ch, consentDesc, now.Sub(c.created).Seconds(), c.id, consentNone)
	case needsConsent:
		gauge(ch, consentDesc, now.Sub(s.consentSince).Seconds(), c.id, consentRefused)
	}
	if c.paused {
		gauge(ch, pausedDesc, 1, c.id)
	}
	if !s.known { // its document is being read, after a start or a takeover
		return
	}
	gauge(ch, polledAgeDesc, now.Sub(polled).Seconds(), c.id)
	if late := now.Sub(polled) - c.interval - lateAfter; late > 0 && !c.paused && !needsConsent {
		gauge(ch, overdueDesc, late.Seconds(), c.id)
	}
}

func gauge(ch chan<- prometheus.Metric, desc *prometheus.Desc, value float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func (m *Metrics) poll(outcome audatex.Outcome, notifications int) {
	m.polls.WithLabelValues(outcome.String()).Inc()
	m.notifications.Add(float64(notifications))
}
