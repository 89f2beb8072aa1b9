package consent

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/audatex-relay/relay/internal/relay"
)

// Metrics counts consents.
type Metrics struct{ consents *prometheus.CounterVec }

// NewMetrics registers the metrics of this package with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	return &Metrics{promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "audatex_relay_consents_total",
		Help: "Consents that users of the vendor have begun by a link, by how they ended.",
	}, []string{"outcome"})}
}

func (m *Metrics) ended(outcome relay.ConsentOutcome) {
	m.consents.WithLabelValues(string(outcome)).Inc()
}
