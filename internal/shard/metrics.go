package shard

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	losses    *prometheus.CounterVec
	takeovers prometheus.Counter
	unclear   prometheus.Counter
}

func newMetrics() *metrics {
	x := &metrics{
		losses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_lease_losses_total", Help: "Shards lost before they were handed over, by reason.",
		}, []string{"reason"}),
		takeovers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "audatex_relay_lease_takeovers_total", Help: "Shards taken whose owner vanished without releasing them.",
		}),
		unclear: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "audatex_relay_lease_renewals_unclear_total", Help: "Renewals of leases that the store did not answer clearly.",
		}),
	}
	for _, reason := range []lossReason{lossTaken, lossGone, lossSilence} {
		x.losses.WithLabelValues(string(reason))
	}
	return x
}

// show registers what is counted, and what is read from the member.
func (x *metrics) show(reg prometheus.Registerer, m *Member) {
	if reg != nil {
		reg.MustRegister(x.losses, x.takeovers, x.unclear,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "audatex_relay_shards_held", Help: "Shards that this replica owns, of 64 in all.",
			}, func() float64 { return float64(m.Held()) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "audatex_relay_members", Help: "Live replicas that this one sees, itself included.",
			}, func() float64 { peers, _ := m.Members(); return float64(len(peers)) }))
	}
}
