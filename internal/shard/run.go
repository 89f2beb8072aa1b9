package shard

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Run takes this replica's share of the shards and calls work for each that it holds, in a
// goroutine of its own, until ctx ends.
//
// Work's context ends when the shard goes to another replica, its lease is lost or the relay stops.
// Work then starts nothing new and returns when what is under way has ended and is stored. Until it
// returns the lease is renewed, unless it is lost. Then the lease is released, and the next owner
// takes the shard at once. Work that returns by itself gives its shard back, too.
//
// When ctx ends, the member record is removed, every work's context ends, and Run returns when all
// work has returned. The caller decides how long that may take.
func (m *Member) Run(ctx context.Context, work func(context.Context, *Lease)) error {
	going, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	withdrawn := make(chan struct{})
	var background, working sync.WaitGroup
	background.Go(func() { m.follow(going) })
	background.Go(func() { m.stayAnnounced(ctx); close(withdrawn) })
	start := func(h *ownedShard) {
		ctx, cancel := context.WithCancel(going)
		h.cancel = cancel
		working.Go(func() {
			defer m.returned(h)
			work(ctx, h.lease)
		})
	}
	m.conf.Log.Info("joined the replicas", "replica", m.me.replica, "nonce", m.me.nonce, "exclusive", m.conf.Exclusive)
	m.keep(going, withdrawn, start)
	working.Wait()
	stop()
	background.Wait()
	return nil
}

// keep is the one goroutine that writes leases. Withdrawn is closed when nothing may be held any
// more.
func (m *Member) keep(ctx context.Context, withdrawn <-chan struct{}, start func(*ownedShard)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-withdrawn:
			withdrawn = nil
			m.stop()
		case <-m.wake:
		case <-timer.C:
		}
		next := &deadline{time.Now().Add(m.conf.renew)}
		m.lapse(next)
		m.renew(ctx, next)
		m.checkLaterEpochs(ctx, next)
		m.release(ctx, next)
		m.handOver(next)
		m.acquire(ctx, next, start)
		m.report()
		m.logTaken(next)
		if withdrawn == nil && m.Held() == 0 {
			return
		}
		timer.Reset(time.Until(next.at))
	}
}

// deadline is the moment of the next thing to do.
type deadline struct{ at time.Time }

func (d *deadline) by(t time.Time) {
	if t.Before(d.at) {
		d.at = t
	}
}

// stop ends all work.
func (m *Member) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopping = true
	for _, h := range m.held {
		h.drain()
	}
}

// Held returns how many shards this replica holds, those under hand-over included.
func (m *Member) Held() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.held)
}

// WithoutOwner returns how many shards nobody owns, as far as this replica sees: free ones, and those whose lease has
// not been renewed in time. It reports false until it has seen the leases: nothing is known before.
func (m *Member) WithoutOwner() (n int, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for i := range m.shards {
		if h := m.held[i]; h != nil && h.lease.Valid() {
			continue
		}
		if seen := &m.shards[i].seen; seen.gone || now.Sub(seen.at) > m.vanished() {
			n++ // also one that was lost and is still being worked on here, unless another has it
		}
	}
	return n, m.seeing
}

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
			Name: "audatex_relay_lease_takeovers_total",
			Help: "Shards taken whose owner vanished without releasing them.",
		}),
		unclear: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "audatex_relay_lease_renewals_unclear_total",
			Help: "Renewals of leases that the store did not answer clearly.",
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
			}, func() float64 { peers, _ := m.Members(); return float64(len(peers)) }),
			ownerless{m})
	}
}

// ownerless shows how many shards nobody owns. It shows nothing while that is not known: rules take the least of all
// replicas, and a 0 would hide what the others see.
type ownerless struct{ m *Member }

var ownerlessDesc = prometheus.NewDesc("audatex_relay_shards_without_owner",
	"Shards that nobody owns, as far as this replica sees, of 64 in all; absent until it has seen the leases.", nil,
	nil)

// Describe implements prometheus.Collector.
func (ownerless) Describe(ch chan<- *prometheus.Desc) { ch <- ownerlessDesc }

// Collect implements prometheus.Collector.
func (o ownerless) Collect(ch chan<- prometheus.Metric) {
	if n, known := o.m.WithoutOwner(); known {
		ch <- prometheus.MustNewConstMetric(ownerlessDesc, prometheus.GaugeValue, float64(n))
	}
}
