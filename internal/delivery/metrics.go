package delivery

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/audatex-relay/relay/internal/sender"
)

type metrics struct {
	attempts map[sender.Outcome]prometheus.Counter
	took     prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, d *Deliverer, limit int) *metrics {
	f := promauto.With(reg)
	attempts := f.NewCounterVec(prometheus.CounterOpts{Name: "audatex_relay_attempts_total", Help: "Attempts of deliveries by outcome."}, []string{"outcome"})
	m := &metrics{
		attempts: map[sender.Outcome]prometheus.Counter{},
		took: f.NewHistogram(prometheus.HistogramOpts{
			Name: "audatex_relay_attempt_duration_seconds", Help: "Time from the beginning of an attempt until its answer was read or given up.",
			Buckets:                     []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}),
	}
	for _, o := range sender.Outcomes() {
		m.attempts[o] = attempts.WithLabelValues(o.String())
	}
	f.NewGauge(prometheus.GaugeOpts{
		Name: "audatex_relay_attempts_limit", Help: "How many attempts may be under way at once.",
	}).Set(float64(limit))
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "audatex_relay_attempts_under_way", Help: "Attempts of deliveries that are under way.",
	}, func() float64 { return float64(d.Places.Taken()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "audatex_relay_callbacks_waiting_for_attempts", Help: "Callbacks that could send and wait until another attempt ends.",
	}, func() float64 { return float64(d.Places.Waiting()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "audatex_relay_held_event_bytes", Help: "Bytes of events that callbacks keep in memory until they are sent.",
	}, func() float64 { return float64(d.Memory.Used()) })
	return m
}

func (m *metrics) attempt(a sender.Attempt) {
	if c := m.attempts[a.Outcome]; c != nil {
		c.Inc()
	}
	m.took.Observe(a.Duration.Seconds())
}
