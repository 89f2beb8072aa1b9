package delivery

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
)

// Metrics are the metrics of attempts and deliveries, of all readers.
type Metrics struct {
	attempts   map[sender.Outcome]prometheus.Counter
	deliveries map[relay.DeliveryStatus]prometheus.Counter
	took       prometheus.Histogram
	latency    prometheus.Histogram
	created    prometheus.Histogram
	received   prometheus.Histogram

	inTime, late prometheus.Counter
	unread       prometheus.Counter
	leftOut      [2]prometheus.Counter // byReceiver, byVendor
}

// Why events are left out where deliveries in time are counted.
const (
	byReceiver = iota
	byVendor
)

// NewMetrics registers the metrics, unless reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return f.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: buckets,
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
			NativeHistogramMinResetDuration: time.Hour,
		})
	}
	attempts := f.NewCounterVec(prometheus.CounterOpts{Name: "audatex_relay_attempts_total",
		Help: "Attempts of deliveries by outcome."}, []string{"outcome"})
	deliveries := f.NewCounterVec(prometheus.CounterOpts{Name: "audatex_relay_deliveries_total",
		Help: "Deliveries that ended, by how."}, []string{"status"})
	punctual := f.NewCounterVec(prometheus.CounterOpts{
		Name: "audatex_relay_slo_events_total",
		Help: "Events delivered to receivers that did not fail meanwhile, by whether that was within 60 seconds of " +
			"receipt. Late is what the relay itself has delayed by more.",
	}, []string{"in_time"})
	leftOut := f.NewCounterVec(prometheus.CounterOpts{
		Name: "audatex_relay_slo_left_out_events_total",
		Help: "Delivered events that audatex_relay_slo_events_total leaves out, by who held them back: the receiver " +
			"(or its callback's owner), or the vendor.",
	}, []string{"by"})
	m := &Metrics{
		unread: f.NewCounter(prometheus.CounterOpts{
			Name: "audatex_relay_expired_unread_total",
			Help: "Events that left the log before they were read for a callback, by estimate: at least one of each " +
				"stretch.",
		}),
		inTime: punctual.WithLabelValues("true"), late: punctual.WithLabelValues("false"),
		leftOut: [...]prometheus.Counter{byReceiver: leftOut.WithLabelValues("receiver"),
			byVendor: leftOut.WithLabelValues("vendor")},
		attempts: map[sender.Outcome]prometheus.Counter{}, deliveries: map[relay.DeliveryStatus]prometheus.Counter{},
		took: histogram("audatex_relay_attempt_duration_seconds",
			"Time from the beginning of an attempt until its answer was read or given up.",
			[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}),
		latency: histogram("audatex_relay_event_to_delivery_seconds",
			"Time from an event's arrival in the log until a receiver had taken it.",
			[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 5, 30, 300, 3600, 86400}),
		created: histogram("audatex_relay_created_to_delivery_seconds",
			"Time from the vendor's CreatedAt of a notification until a receiver had taken its event.",
			[]float64{.1, .5, 1, 5, 30, 60, 150, 300, 600, 1800, 3600, 21600, 86400, 259200}),
		received: histogram("audatex_relay_received_to_delivery_seconds",
			"Time from a notification's arrival at the relay until a receiver had taken its event.",
			[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 5, 30, 300, 3600, 86400}),
	}
	for _, o := range sender.Outcomes() {
		m.attempts[o] = attempts.WithLabelValues(o.String())
	}
	for _, s := range []relay.DeliveryStatus{relay.DeliveryDelivered, relay.DeliveryFailed,
		relay.DeliverySkipped, relay.DeliveryExpired} {
		m.deliveries[s] = deliveries.WithLabelValues(string(s))
	}
	return m
}

func (m *Metrics) attempt(a sender.Attempt) {
	if c := m.attempts[a.Outcome]; c != nil {
		c.Inc()
	}
	m.took.Observe(a.Duration.Seconds())
}

// Ended counts deliveries that have ended.
func (m *Metrics) Ended(s relay.DeliveryStatus, n int) { m.deliveries[s].Add(float64(n)) }

// ExpiredUnread counts events that left the log before they were read for a callback.
func (m *Metrics) ExpiredUnread(n int) { m.unread.Add(float64(n)) }

// Delivered counts the delivery of an event, and observes how long it took.
func (m *Metrics) Delivered(ev *Event, now time.Time) {
	m.Ended(relay.DeliveryDelivered, 1)
	m.latency.Observe(max(now.Sub(ev.Time), 0).Seconds())
	if !ev.CreatedAt.IsZero() {
		m.created.Observe(max(now.Sub(ev.CreatedAt), 0).Seconds())
		m.received.Observe(max(now.Sub(ev.ReceivedAt), 0).Seconds())
	}
}

// register registers the metrics of what is under way and in memory.
func (d *Deliverer) register(reg prometheus.Registerer, limit int) {
	f := promauto.With(reg)
	gauge := func(name, help string, value func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	gauge("audatex_relay_attempts_limit", "How many attempts may be under way at once.", func() float64 {
		return float64(limit)
	})
	gauge("audatex_relay_attempts_under_way", "Attempts of deliveries that are under way.",
		func() float64 { return float64(d.Slots.Taken()) })
	gauge("audatex_relay_callbacks_waiting_for_attempts",
		"Callbacks, and replays of them, that could send and wait until an attempt of others ends; "+
			"those at their own bounds do not count.",
		func() float64 { return float64(d.Slots.Starved()) })
	gauge("audatex_relay_held_event_bytes", "Bytes of events that callbacks keep in memory until they are sent.",
		func() float64 { return float64(d.Memory.Used()) })
}
