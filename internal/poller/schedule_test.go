package poller

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// fleet is ten thousand connections in a time of their own: it makes what runner.Run and runner.poll make of schedules
// and paces, without a store and a vendor.
type fleet struct {
	now      time.Time
	replicas []*pace
	each     []*simulated
	queue    []*simulated // by the time of their next look
	vendor   bool         // responses
	store    bool         // takes writes
	short    bool         // the budget
	polls    []time.Time
	random   *rand.Rand
}

type simulated struct {
	schedule
	replica       *pace
	look          time.Time
	index         int
	polledAt      time.Time // as the store has it
	adopted       bool
	storeFailures int
	polls         int
}

const (
	fleetSize     = 10_000
	fleetInterval = 5 * time.Minute
)

func newFleet(replicas int) *fleet {
	f := &fleet{now: time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC), vendor: true, store: true,
		random: rand.New(rand.NewPCG(1, 2))}
	for range replicas {
		f.replicas = append(f.replicas, &pace{})
	}
	for i := range fleetSize {
		c := &simulated{schedule: schedule{phase: phaseOf(fmt.Sprint("site-", i)), interval: fleetInterval,
			sooner: time.Minute}, index: i}
		f.each = append(f.each, c)
		f.queue = append(f.queue, c)
		f.owned(c, i%replicas, 0)
	}
	return f
}

// owned has a replica work on a connection, within the time that taking over is spread over.
func (f *fleet) owned(c *simulated, replica int, within time.Duration) {
	if c.replica != nil {
		c.replica.add(-1 / fleetInterval.Seconds())
	}
	c.replica = f.replicas[replica]
	c.replica.add(1 / fleetInterval.Seconds())
	c.adopted, c.storeFailures = false, 0
	c.schedule = schedule{phase: c.phase, interval: c.interval, sooner: c.sooner}
	c.look = f.now.Add(time.Duration(f.random.Int64N(int64(within) + 1)))
}

func (f *fleet) Len() int           { return len(f.queue) }
func (f *fleet) Less(i, j int) bool { return f.queue[i].look.Before(f.queue[j].look) }
func (f *fleet) Push(any)           {}
func (f *fleet) Pop() any           { return nil }
func (f *fleet) Swap(i, j int) {
	f.queue[i], f.queue[j] = f.queue[j], f.queue[i]
	f.queue[i].index, f.queue[j].index = i, j
}

// run lets time pass.
func (f *fleet) run(d time.Duration) {
	end := f.now.Add(d)
	heap.Init(f)
	for f.queue[0].look.Before(end) {
		c := f.queue[0]
		f.now = c.look
		f.wake(c)
		heap.Fix(f, 0)
	}
	f.now = end
}

func (f *fleet) wake(c *simulated) {
	if !c.adopted {
		c.adopted = true
		if c.polledAt.IsZero() {
			c.hurry(f.now)
		} else {
			c.resume(f.now, c.polledAt)
		}
	}
	switch {
	case c.may(f.now, c.replica, func() bool { return f.short }):
		f.poll(c)
	case c.blockedByStore:
		c.storeFailures++
		c.tried(f.now, storeWait(c.storeFailures), pollBlocked)
	}
	c.look = c.next(f.now)
}

func (f *fleet) poll(c *simulated) {
	became := pollMissed
	switch {
	case !f.store:
		c.storeFailures++
		c.tried(f.now, storeWait(c.storeFailures), pollBlocked)
		return
	case f.vendor:
		f.polls = append(f.polls, f.now)
		c.polledAt = f.now
		c.polls++
		became = pollMade
	}
	c.storeFailures = 0
	c.tried(f.now, c.ordinary(f.now).Sub(f.now), became)
}

// spread fails if any second since a time has more than twice the mean of polls, or a connection has not been polled
// since.
func (f *fleet) spread(t *testing.T, since time.Time) {
	t.Helper()
	perSecond := map[int64]int{}
	for _, at := range f.polls {
		if !at.Before(since) {
			perSecond[at.Unix()]++
		}
	}
	most := 0
	for _, n := range perSecond {
		most = max(most, n)
	}
	mean := fleetSize / fleetInterval.Seconds()
	t.Logf("at most %d polls in a second, %.1f on average", most, mean)
	if float64(most) > 2*mean {
		t.Errorf("%d polls in a second, more than twice the mean of %.1f", most, mean)
	}
	left := 0
	for _, c := range f.each {
		if c.polledAt.Before(since) {
			left++
		}
	}
	if left > 0 {
		t.Errorf("%d connections have not been polled since %s", left, f.now.Sub(since))
	}
}

// TestPollsOfTenThousandConnectionsAreSpread: no second has more than twice the mean, whatever has just happened, and
// whoever missed a poll is polled within an interval and a quarter.
func TestPollsOfTenThousandConnectionsAreSpread(t *testing.T) {
	t.Parallel()
	const soon = fleetInterval * 5 / 4
	steady := func(replicas int) *fleet {
		f := newFleet(replicas)
		for _, c := range f.each {
			c.polledAt = c.ordinary(f.now.Add(-2 * fleetInterval))
		}
		f.run(2 * fleetInterval)
		return f
	}
	for name, happens := range map[string]func(t *testing.T){
		"nothing": func(t *testing.T) {
			f := steady(1)
			since := f.now
			f.run(2 * fleetInterval)
			f.spread(t, since)
			for _, c := range f.each {
				if c.polls < 3 || c.polls > 5 {
					t.Fatalf("%d polls in four intervals", c.polls)
				}
			}
		},
		"all are made at once": func(t *testing.T) {
			f := newFleet(1)
			since := f.now
			for _, c := range f.each {
				c.until = f.now.Add(10 * time.Minute)
			}
			f.run(soon)
			f.spread(t, since)
			f.run(2 * fleetInterval)
			f.spread(t, since)
		},
		"something comes for all": func(t *testing.T) {
			f := steady(1)
			since := f.now
			for _, c := range f.each {
				c.until = f.now.Add(10 * time.Minute)
				c.look = c.next(f.now)
			}
			f.run(10 * time.Minute)
			f.spread(t, since)
			if sooner := len(f.polls); float64(sooner) < 1.2*4*fleetSize {
				t.Errorf("%d polls in four intervals: hardly any came sooner", sooner)
			}
		},
		"a short restart": func(t *testing.T) {
			f := steady(1)
			f.now = f.now.Add(20 * time.Second)
			since := f.now
			for _, c := range f.each {
				f.owned(c, 0, maxJitter)
			}
			f.run(soon)
			f.spread(t, since)
		},
		"a long restart": func(t *testing.T) {
			f := steady(1)
			f.now = f.now.Add(time.Hour)
			since := f.now
			for _, c := range f.each {
				f.owned(c, 0, maxJitter)
			}
			f.run(soon + maxJitter)
			f.spread(t, since)
		},
		"shards are taken over": func(t *testing.T) {
			f := steady(3)
			f.now = f.now.Add(15 * time.Second)
			since := f.now
			for i, c := range f.each {
				if i%3 == 2 {
					f.owned(c, i%2, maxJitter)
				}
			}
			f.run(soon)
			f.spread(t, since)
		},
		"an outage of the vendor": func(t *testing.T) {
			f := steady(1)
			f.vendor = false
			f.run(23 * time.Minute)
			f.vendor = true
			since := f.now
			f.run(soon)
			f.spread(t, since)
		},
		"an outage of the store": func(t *testing.T) {
			f := steady(1)
			f.store = false
			f.run(3 * time.Minute)
			f.store = true
			since := f.now
			f.run(soon)
			f.spread(t, since)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			happens(t)
		})
	}
}

// TestPollsComeSoonerForAWhile: once a minute from the first on, wherever in the minute that was; no more often, not at
// all under a short budget, and never sooner than a shorter interval allows.
func TestPollsComeSoonerForAWhile(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		interval := time.Duration(rapid.Int64Range(int64(100*time.Millisecond), int64(time.Hour)).Draw(t, "interval"))
		sooner := min(interval,
			time.Duration(rapid.Int64Range(int64(100*time.Millisecond), int64(10*time.Minute)).Draw(t, "sooner")))
		short := rapid.Bool().Draw(t, "short")
		start := time.Unix(rapid.Int64Range(1_700_000_000, 1_800_000_000).Draw(t, "start"), 0)
		s := schedule{phase: phaseOf(rapid.String().Draw(t, "connection")), interval: interval, sooner: sooner}
		s.tried(start, s.ordinary(start).Sub(start), pollMade)
		s.until = start.Add(10 * sooner)
		var p pace
		early := 0
		for now, polled := start, start; now.Before(start.Add(10*sooner + 3*interval)); {
			at := s.next(now)
			if !at.After(now) {
				t.Fatalf("nothing is to be decided at %s, which is not after %s", at, now)
			}
			now = at
			if !s.may(now, &p, func() bool { return short }) {
				continue
			}
			gap := now.Sub(polled)
			if gap < sooner*9/10 && gap < interval/4 {
				t.Fatalf("two polls %s apart", gap)
			}
			if gap > interval*5/4 {
				t.Fatalf("no poll for %s", gap)
			}
			if !short && gap > sooner*11/10 && polled.Add(sooner*11/10).Before(s.until) {
				t.Fatalf("no poll for %s while they come every %s", gap, sooner)
			}
			if gap < interval/4 || now.Before(s.due) {
				early++
			}
			polled = now
			s.tried(now, s.ordinary(now).Sub(now), pollMade)
		}
		if short && early > 0 {
			t.Fatalf("%d polls came sooner under a short budget", early)
		}
		if !short && interval > 4*sooner && early == 0 {
			t.Fatal("none came sooner")
		}
	})
}

func TestConnectionsAreTakenOverLittleByLittle(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		interval    time.Duration
		connections int
		want        time.Duration
	}{
		{5 * time.Minute, 100, 30 * time.Second},
		{24 * time.Hour, 100, 30 * time.Second},
		{2 * time.Second, 10, 200 * time.Millisecond},
		{10 * time.Second, 10_000, 10 * time.Second},
	} {
		if got := takenOverWithin(c.interval, c.connections); got != c.want {
			t.Errorf("%d connections at an interval of %s within %s, want %s", c.connections, c.interval, got, c.want)
		}
	}
}
