package resolver

import (
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
)

// collected returns what the metrics show of some runners, by what a gauge is and the connection.
func collected(t *testing.T, now time.Time, runners map[string]*runner) map[*prometheus.Desc]map[string]float64 {
	t.Helper()
	ch := make(chan prometheus.Metric, 2*len(runners))
	NewMetrics(nil).collect(ch, now, func(f func(string, *runner)) {
		for id, r := range runners {
			f(id, r)
		}
	})
	close(ch)
	got := map[*prometheus.Desc]map[string]float64{waitingDesc: {}, oldestWaitingDesc: {}}
	for m := range ch {
		var v dto.Metric
		if err := m.Write(&v); err != nil {
			t.Fatal(err)
		}
		got[m.Desc()][v.GetLabel()[0].GetValue()] = v.GetGauge().GetValue()
	}
	return got
}

// What a hanging runner has not even read shows as well, and what an ended lease leaves behind does not.
func TestWhatIsShownOfWhatWaits(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	type announcement struct {
		seq uint64
		at  time.Time
	}
	valid, ended := shardtest.Fixed(0, 1), shardtest.NewManual(0, 1)
	ended.Expire()
	for name, c := range map[string]struct {
		lease     *shard.Lease
		held      *heldItems
		read      uint64
		announced []announcement
		waiting   float64
		oldest    time.Duration
	}{
		"nothing waits": {lease: valid, read: 9},
		"for a moment": {lease: valid,
			held: &heldItems{n: 3, page: 9, since: ago(59 * time.Second)}, read: 9},
		"for two hours": {lease: valid, held: &heldItems{n: 3, page: 9, since: ago(2 * time.Hour)},
			read: 9, waiting: 3, oldest: 2 * time.Hour},
		"read meanwhile": {lease: valid, read: 9, announced: []announcement{{9, ago(time.Hour)}}},
		"not read by a turn that ends": {lease: valid, read: 9,
			announced: []announcement{{9, ago(time.Hour)}, {12, ago(time.Second)}}},
		"not read by a turn that hangs": {
			lease: valid, read: 9, announced: []announcement{{9, ago(2 * time.Hour)}, {12, ago(time.Hour)},
				{15, ago(time.Minute)}}, waiting: 2, oldest: time.Hour,
		},
		"held, and more not read": {
			lease: valid, held: &heldItems{n: 3, page: 9, since: ago(2 * time.Hour)}, read: 9,
			announced: []announcement{{12, ago(time.Hour)}}, waiting: 4, oldest: 2 * time.Hour,
		},
		"of another owner now": {lease: ended.Lease,
			held: &heldItems{n: 3, page: 9, since: ago(2 * time.Hour)}, read: 9},
	} {
		r := &runner{lease: c.lease}
		r.shown.held.Store(c.held)
		r.shown.read.Store(c.read)
		for _, a := range c.announced {
			r.announced.add(a.seq, a.at)
		}
		got := collected(t, now, map[string]*runner{"leeds": r})
		if n, oldest := got[waitingDesc]["leeds"],
			got[oldestWaitingDesc]["leeds"]; n != c.waiting || oldest != c.oldest.Seconds() {
			t.Errorf("%s: %v wait, the oldest for %v seconds; want %v and %s", name, n, oldest, c.waiting, c.oldest)
		}
	}
}

// Ten thousand connections have no series of this, and two each while all of them wait.
func TestSeriesOfManyConnectionsThatWait(t *testing.T) {
	t.Parallel()
	const many = 10_000
	now := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	lease := shardtest.Fixed(0, 1)
	for _, c := range []struct {
		held *heldItems
		want int
	}{{nil, 0}, {&heldItems{n: 1, page: 1, since: now.Add(-time.Second)}, 0},
		{&heldItems{n: 1, page: 1, since: now.Add(-time.Hour)}, many}} {
		runners := map[string]*runner{}
		for i := range many {
			r := &runner{lease: lease}
			r.shown.held.Store(c.held)
			runners[strconv.Itoa(i)] = r
		}
		got := collected(t, now, runners)
		if n, oldest := len(got[waitingDesc]), len(got[oldestWaitingDesc]); n != c.want || oldest != c.want {
			t.Errorf("%+v: %d and %d series, want %d of each", c.held, n, oldest, c.want)
		}
	}
}
