package access

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

var expiresDesc = prometheus.NewDesc("audatex_relay_api_key_expires_seconds",
	"Time until an API key expires, from 30 days or the last quarter of its life before; "+
		"negative for as long after that, at most a day; absent otherwise.", []string{"client", "key"}, nil)

// expiring shows the keys that expire soon.
type expiring struct {
	clients *store.Mirror[relay.Client]
	owns    func(client string) bool
}

// Expiring returns the metric of the keys that expire soon, of those clients that this replica owns.
func (k *Keys) Expiring(owns func(client string) bool) prometheus.Collector {
	return expiring{k.clients, owns}
}

// Describe implements prometheus.Collector.
func (expiring) Describe(ch chan<- *prometheus.Desc) { ch <- expiresDesc }

// Collect implements prometheus.Collector.
func (x expiring) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	x.clients.Each(func(e store.Entry[relay.Client]) {
		for _, key := range e.Value.Keys {
			if left, soon := key.EndsIn(now); soon && x.owns(e.Key) {
				ch <- prometheus.MustNewConstMetric(expiresDesc, prometheus.GaugeValue, left.Seconds(), e.Key, key.ID)
			}
		}
	})
}
