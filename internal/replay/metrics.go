package replay

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/audatex-relay/relay/internal/relay"
)

// metrics are of the replays of the shards that this replica owns.
type metrics struct {
	events map[relay.DeliveryStatus]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, r *Replayer) *metrics {
	f := promauto.With(reg)
	events := f.NewCounterVec(prometheus.CounterOpts{
		Name: "audatex_relay_replayed_events_total", Help: "Events that ended in a replay, by how.",
	}, []string{"status"})
	m := &metrics{events: map[relay.DeliveryStatus]prometheus.Counter{}}
	for _, s := range []relay.DeliveryStatus{relay.DeliveryDelivered, relay.DeliveryFailed, relay.DeliverySkipped} {
		m.events[s] = events.WithLabelValues(string(s))
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "audatex_relay_replays_running",
		Help: "Replays that run, of the callbacks that this replica delivers to.",
	}, func() float64 { return float64(r.running()) })
	return m
}

func (m *metrics) ended(how relay.DeliveryStatus) { m.events[how].Inc() }

// running counts the running replays of the shards that this replica owns.
func (r *Replayer) running() (n int) {
	for i := range r.owned {
		if r.owned[i].Load() == nil {
			continue
		}
		for _, key := range r.replays.Keys(strconv.Itoa(i)) {
			if e, there := r.replays.Get(key); there && e.Value.Running() {
				n++
			}
		}
	}
	return n
}
