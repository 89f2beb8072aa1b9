package shard

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestMain(m *testing.M) {
	natstest.Waiting(6)
	goleak.VerifyTestMain(m, natstest.Leftovers()...)
}

// A lease of testTTL is renewed ten times before it ends: where none may be lost, none is, also
// beside a machine's other work. patience only decides how long a failing test takes.
const (
	testTTL   = 5 * time.Second
	testRenew = 500 * time.Millisecond
	patience  = 90 * time.Second
)

// world is what all replicas of a test have in common. It checks whether two of them ever believe
// at the same time that they own a shard.
type world struct {
	t        *testing.T
	connect  func() *nats.Conn
	replicas int // of the streams

	mu     sync.Mutex
	leases [relay.Shards][]*given
	alive  [relay.Shards][]*given // those that may still be valid, or become so again
	gaps   []time.Duration        // from the end of one's work on a shard to the begin of the next one's
}

// given is a lease as a replica's work got it.
type given struct {
	*Lease
	by         *replica
	began, end time.Time
	told       bool
}

// newWorld runs an embedded server that takes any number of connections.
func newWorld(t *testing.T) *world {
	t.Helper()
	server, err := natsd.Start(natsd.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	return watched(t, 1, func() *nats.Conn {
		nc, err := server.Connect()
		if err != nil {
			t.Fatal(err)
		}
		return nc
	})
}

// watched is a world that is looked at all the time, until the test ends.
func watched(t *testing.T, replicas int, connect func() *nats.Conn) *world {
	w := &world{t: t, connect: connect, replicas: replicas}
	ended, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			w.look()
			select {
			case <-ended:
				return
			case <-tick.C:
			}
		}
	}()
	t.Cleanup(func() { close(ended); <-stopped })
	return w
}

// over reports whether a lease is invalid for good.
func (g *given) over() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ended
}

// look fails the test if two leases of one shard are valid at one moment, or one whose epoch is not
// above the last one's.
func (w *world) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := range w.alive {
		w.alive[n] = slices.DeleteFunc(w.alive[n], func(g *given) bool { return g.over() })
		for i, a := range w.alive[n] {
			for _, b := range w.alive[n][i+1:] {
				if !b.told && a.Valid() && b.Valid() && a.Valid() {
					b.told = true
					w.t.Errorf("shard %d is %s's (epoch %d) and %s's (epoch %d) at one moment",
						n, a.by.name, a.Epoch(), b.by.name, b.Epoch())
				}
			}
		}
	}
}

// replica is one process, as far as shards go.
type replica struct {
	*Member
	w     *world
	name  string
	conn  *nats.Conn
	store *store.Store
	leave context.CancelFunc
	left  chan struct{}
	// busy, if set, is called when work must return.
	busy func(*Lease)
}

// open connects a replica that has yet to join.
func (w *world) open(name string, gate store.Gate) *replica {
	w.t.Helper()
	r := &replica{w: w, name: name, conn: w.connect()}
	w.t.Cleanup(r.conn.Close)
	if err := natstest.Patiently(func() (err error) {
		r.store, err = store.Open(w.t.Context(), store.Config{
			Conn: r.conn, Topology: topology.Topology{Prefix: "relay", Replicas: w.replicas, Retention: time.Hour},
			Log: slog.New(slog.DiscardHandler), Gate: gate,
		})
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return r
}

func testLog(name string) *slog.Logger {
	if os.Getenv("SHARD_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("by", name)
}

// join makes a replica join and run until the test ends or it leaves.
func (r *replica) join(change ...func(*Config)) *replica {
	r.w.t.Helper()
	c := Config{Store: r.store, Replica: r.name, Version: 2, ttl: testTTL, renew: testRenew, Log: testLog(r.name)}
	for _, f := range change {
		f(&c)
	}
	if err := natstest.Patiently(func() (err error) { // as the relay does at its start
		r.Member, err = Join(r.w.t.Context(), c)
		return err
	}); err != nil {
		r.w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan struct{})
	r.leave, r.left = cancel, left
	go func() {
		defer close(left)
		_ = r.Run(ctx, r.work)
	}()
	r.w.t.Cleanup(func() { cancel(); <-left })
	return r
}

// steady is for replicas that must lose no lease, however busy the machine is: leases are renewed
// very often for how long they live.
func steady(c *Config) { c.ttl, c.renew = time.Minute, 200*time.Millisecond }

// awaitRenewals waits until each lease of a replica was renewed so many times more, and looks at
// something all the while.
func (r *replica) awaitRenewals(times int, look func()) {
	r.w.t.Helper()
	var last [relay.Shards]time.Time
	var renewed [relay.Shards]int
	r.w.await("the leases to be renewed", func() string {
		look()
		missing := ""
		for n, l := range r.latest() {
			if l == nil {
				continue
			}
			l.mu.Lock()
			until, ended := l.until, l.ended
			l.mu.Unlock()
			if ended { // handed over
				continue
			}
			if !last[n].IsZero() && !until.Equal(last[n]) {
				renewed[n]++
			}
			last[n] = until
			if renewed[n] < times {
				missing = fmt.Sprintf("shard %d was, %d times", n, renewed[n])
			}
		}
		return missing
	})
}

// start opens and joins.
func (w *world) start(name string, change ...func(*Config)) *replica {
	w.t.Helper()
	return w.open(name, store.Gate{}).join(change...)
}

// work is what a stage does, less the work.
func (r *replica) work(ctx context.Context, l *Lease) {
	w, g := r.w, &given{Lease: l, by: r, began: time.Now()}
	w.mu.Lock()
	if all := w.leases[l.Shard()]; len(all) > 0 {
		for _, other := range w.alive[l.Shard()] { // the likeliest moment for two
			if other.Valid() && l.Valid() {
				w.t.Errorf("shard %d: %s begins (epoch %d) while it is %s's (epoch %d)",
					l.Shard(), r.name, l.Epoch(), other.by.name, other.Epoch())
			}
		}
		last := all[len(all)-1]
		if l.Epoch() <= last.Epoch() {
			w.t.Errorf("shard %d: epoch %d of %s comes after %d of %s",
				l.Shard(), l.Epoch(), r.name, last.Epoch(), last.by.name)
		}
		if !last.end.IsZero() {
			w.gaps = append(w.gaps, g.began.Sub(last.end))
		}
	}
	w.leases[l.Shard()] = append(w.leases[l.Shard()], g)
	w.alive[l.Shard()] = append(w.alive[l.Shard()], g)
	w.mu.Unlock()
	<-ctx.Done()
	if r.busy != nil {
		r.busy(l)
	}
	w.mu.Lock()
	g.end = time.Now()
	w.mu.Unlock()
}

// die ends a replica without a word: nothing it does from now on reaches the store.
func (r *replica) die() {
	r.conn.Close()
	r.leave()
}

// owned returns the shards on which a replica works under a valid lease.
func (r *replica) owned() (shards []int) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	for n, all := range r.w.alive {
		for _, g := range all {
			if g.by == r && g.end.IsZero() && g.Valid() {
				shards = append(shards, n)
			}
		}
	}
	return shards
}

// latest returns the latest leases a replica was given, by shard.
func (r *replica) latest() (leases [relay.Shards]*Lease) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	for n := range leases {
		for _, g := range slices.Backward(r.w.leases[n]) {
			if g.by == r {
				leases[n] = g.Lease
				break
			}
		}
	}
	return leases
}

func (r *replica) lease(n int) *Lease { return r.latest()[n] }

// gapsSoFar returns the hand-over gaps since the last call, shortest first.
func (w *world) gapsSoFar() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	gaps := w.gaps
	w.gaps = nil
	slices.Sort(gaps)
	return gaps
}

// tellGaps logs how long shards had no owner.
func (w *world) tellGaps(when string) []time.Duration {
	gaps := w.gapsSoFar()
	if len(gaps) > 0 {
		w.t.Logf("%s: %d shards moved, gaps %s (least) %s (half) %s (most)",
			when, len(gaps), gaps[0], gaps[len(gaps)/2], gaps[len(gaps)-1])
	}
	return gaps
}

// await polls a condition. Its text describes what is missing; "" means that it holds.
func (w *world) await(what string, missing func() string) time.Duration {
	w.t.Helper()
	began := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var last string
	for time.Since(began) < patience {
		if last = missing(); last == "" {
			return time.Since(began)
		}
		<-tick.C
	}
	w.t.Fatalf("waited %s for %s: %s", patience, what, last)
	return 0
}

// shared waits until each of the replicas, and no other, owns its share.
func (w *world) shared(replicas ...*replica) time.Duration {
	w.t.Helper()
	members := make([]identity, len(replicas))
	for i, r := range replicas {
		members[i] = r.me
	}
	owner := assign(members)
	return w.await("the shares", func() string {
		for i, r := range replicas {
			var want []int
			for n := range owner {
				if owner[n] == i {
					want = append(want, n)
				}
			}
			if got := r.owned(); !slices.Equal(got, want) {
				return fmt.Sprintf("%s owns %v, and its share is %v", r.name, got, want)
			}
			if peers, _ := r.Members(); len(peers) != len(replicas) {
				return fmt.Sprintf("%s sees %d members", r.name, len(peers))
			}
		}
		return ""
	})
}
