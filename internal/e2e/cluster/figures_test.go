package cluster

import (
	"fmt"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/relay"
)

// figures are durations under names, printed as "name: value".
type figures struct {
	names []string
	all   map[string][]time.Duration
}

func (g *figures) add(name string, d time.Duration) {
	if g.all == nil {
		g.all = map[string][]time.Duration{}
	}
	if _, known := g.all[name]; !known {
		g.names = append(g.names, name)
	}
	g.all[name] = append(g.all[name], d)
}

// lines returns p50, p99 and the number of each.
func (g *figures) lines() []string {
	var lines []string
	for _, name := range g.names {
		list := slices.Sorted(slices.Values(g.all[name]))
		lines = append(lines, fmt.Sprintf("%s: p50 %s, p99 %s (%d)",
			name, rounded(quantile(list, 50)), rounded(quantile(list, 99)), len(list)))
	}
	return lines
}

func quantile(sorted []time.Duration, percent int) time.Duration {
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}

func rounded(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// addFailovers adds, for every shard with a callback that a replica held when it was hurt, how long
// nobody delivered there: from the replica's last delivery before another's (or its own next run's)
// first.
func (g *figures) addFailovers(w *world, all map[int][]lease) {
	for _, h := range w.hurtsSoFar() {
		if h.replica < 0 {
			g.addPause(w, h)
			continue
		}
		for _, d := range takeovers(all, h) {
			if h.kind == killRelay || h.kind == stopRelay {
				g.add("shards taken by another after "+h.kind, d)
			}
		}
		held := holding(all, h.replica, h.began)
		for _, r := range w.receivers {
			if slices.Contains(held, relay.ShardOf(r.ID)) {
				if gap, ok := failover(r, h); ok {
					g.add("failover after "+h.kind, gap)
				}
			}
		}
	}
}

// failover returns the time between the last delivery of the replica that was hurt and the first
// that came after it: of another, or of itself once it was back.
func failover(r *harness.Receiver, h hurt) (time.Duration, bool) {
	var last time.Time
	for _, a := range r.Deliveries() {
		own := replicaOf(a.Sender) == h.replica && (h.ended.IsZero() || a.At.Before(h.ended))
		switch {
		case a.At.Before(h.began), own:
			last = a.At
		case last.IsZero():
			return 0, false // nobody had delivered there
		default:
			return a.At.Sub(last), true
		}
	}
	return 0, false
}

// addPause adds the longest time without any delivery while a NATS server was away and came back.
func (g *figures) addPause(w *world, h hurt) {
	var times []time.Time
	for _, r := range w.receivers {
		for _, a := range r.Deliveries() {
			if a.At.After(h.began.Add(-time.Second)) && a.At.Before(h.ended.Add(15*time.Second)) {
				times = append(times, a.At)
			}
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	longest := time.Duration(0)
	for i := 1; i < len(times); i++ {
		longest = max(longest, times[i].Sub(times[i-1]))
	}
	if len(times) > 0 {
		g.add("longest pause of all deliveries after "+h.kind, longest)
	}
}

// repeats returns how often an event came to a callback that had accepted it before.
func (w *world) repeats() (repeats, deliveries int) {
	for _, r := range w.receivers {
		accepted := map[string]bool{}
		for _, a := range r.Deliveries() {
			deliveries++
			if accepted[a.Event] {
				repeats++
			}
			accepted[a.Event] = accepted[a.Event] || a.Status/100 == 2
		}
	}
	return repeats, deliveries
}
