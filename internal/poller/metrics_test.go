package poller

import (
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/audatex-relay/relay/internal/relay"
)

// What is shown of a connection names which one needs a consent and since when, and whether its polls are late for its
// own interval. While all is well it is its age alone.
func TestMetricsOfAConnection(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	site := connectionAt{id: "leeds", created: ago(48 * time.Hour), interval: 5 * time.Minute}
	daily, paused := site, site
	daily.interval, paused.paused = 24*time.Hour, true
	for name, c := range map[string]struct {
		of   connectionAt
		seen seen
		want map[*prometheus.Desc]float64
	}{
		"well": {site, seen{known: true, polledAt: ago(time.Minute)}, map[*prometheus.Desc]float64{polledAgeDesc: 60}},
		"late": {
			site, seen{known: true, polledAt: ago(10 * time.Minute)},
			map[*prometheus.Desc]float64{polledAgeDesc: 600, overdueDesc: 240},
		},
		"polled once a day": {daily, seen{known: true, polledAt: ago(20 * time.Hour)},
			map[*prometheus.Desc]float64{polledAgeDesc: 72_000}},
		"never polled": {site, seen{known: true},
			map[*prometheus.Desc]float64{polledAgeDesc: 172_800, overdueDesc: 172_800 - 360}},
		"not read yet": {site, seen{}, nil},
		"paused": {
			paused, seen{known: true, polledAt: ago(time.Hour)},
			map[*prometheus.Desc]float64{polledAgeDesc: 3600, pausedDesc: 1},
		},
		"without a token": {site, seen{known: true, noToken: true},
			map[*prometheus.Desc]float64{polledAgeDesc: 172_800, consentDesc: 172_800}},
		"its first token was bad": {
			site, seen{known: true, consentSince: ago(time.Hour)},
			map[*prometheus.Desc]float64{polledAgeDesc: 172_800, consentDesc: 3600},
		},
		"consent withdrawn while paused": {
			paused, seen{known: true, polledAt: ago(time.Hour), consentSince: ago(time.Minute)},
			map[*prometheus.Desc]float64{polledAgeDesc: 3600, pausedDesc: 1, consentDesc: 60},
		},
	} {
		ch := make(chan prometheus.Metric, 10)
		c.seen.collect(ch, c.of, now)
		close(ch)
		got := map[*prometheus.Desc]float64{}
		for m := range ch {
			var v dto.Metric
			if err := m.Write(&v); err != nil {
				t.Fatal(err)
			}
			got[m.Desc()] = v.GetGauge().GetValue()
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %d metrics, want %d: %v", name, len(got), len(c.want), got)
		}
		for desc, want := range c.want {
			if got[desc] != want {
				t.Errorf("%s: %v is %v, want %v", name, desc, got[desc], want)
			}
		}
	}
}

// Ten thousand connections have a series each, and about two where each is in trouble.
func TestSeriesOfManyConnections(t *testing.T) {
	t.Parallel()
	const many, ofAll = 10_000, 7 // those of all together: five states, and how many have no consent since when
	now := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	p := &Poller{Config: Config{Interval: 5 * time.Minute}}
	for what, c := range map[string]struct {
		seen seen
		most int
	}{
		"all are well": {seen{known: true, polledAt: now.Add(-time.Minute)}, many + ofAll},
		"all are late": {seen{known: true, polledAt: now.Add(-time.Hour)}, 2*many + ofAll},
		"none has consent": {seen{known: true, polledAt: now.Add(-time.Hour), consentSince: now.Add(-time.Hour)},
			2*many + ofAll},
	} {
		ch := make(chan prometheus.Metric, 3*many)
		NewMetrics(nil).collect(ch, now, func(f func(string, *runner)) {
			for i := range many {
				f(strconv.Itoa(i),
					&runner{p: p, seen: c.seen, connection: relay.Connection{CreatedAt: now.Add(-time.Hour)}})
			}
		})
		if n := len(ch); n > c.most {
			t.Errorf("%s: %d series, want at most %d", what, n, c.most)
		}
	}
}
