package shard

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// valve lets a replica's writes to relay_owners through or not.
type valve struct {
	mu   sync.Mutex
	hung chan struct{} // until it is closed, writers block
	shut bool          // nothing is sent
	deaf bool          // what is sent is done, but gets no response
}

var errValve = errors.New("the test lets nothing through")

func (v *valve) set(shut, deaf bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shut, v.deaf = shut, deaf
}

func (v *valve) gate() store.Gate {
	stop := func(w store.Write, on *bool) error {
		v.mu.Lock()
		hung := v.hung
		v.mu.Unlock()
		if hung != nil {
			<-hung
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		if *on && strings.Contains(w.Subject, "_owners.") {
			return errValve
		}
		return nil
	}
	return store.Gate{
		Before: func(w store.Write) error { return stop(w, &v.shut) },
		After:  func(w store.Write) error { return stop(w, &v.deaf) },
	}
}

func counted(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// A replica whose writes do not arrive steps back before another one may begin, which the world
// checks, and comes back when they do arrive.
func TestAReplicaThatIsCutOffStepsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := &valve{}
	reg := prometheus.NewRegistry()
	a := w.open("a", v.gate()).join(func(c *Config) { c.Metrics = reg })
	var told lines
	b := w.start("a", func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&told, nil)) }) // on the same host
	w.shared(a, b)
	v.set(true, false)
	w.shared(b)
	w.tellGaps("one is cut off")
	w.await("the log to tell who took over from whom", func() string {
		if told.count(fmt.Sprintf("their owner vanished\" replica=a-%s taken=", b.me.nonce[:8])) > 0 &&
			told.count("from=[a-"+a.me.nonce[:8]+"]") > 0 {
			return ""
		}
		return "it does not"
	})
	if lost := counted(t, reg, "audatex_relay_lease_losses_total"); lost < 32 {
		t.Errorf("%v leases were lost", lost)
	}
	v.set(false, false)
	w.shared(a, b)
	w.tellGaps("it is back")
	if n := testutil.CollectAndCount(reg); n == 0 {
		t.Error("no metrics")
	}
	if held, members := counted(t, reg, "audatex_relay_shards_held"),
		counted(t, reg, "audatex_relay_members"); held != 32 || members != 2 {
		t.Errorf("%v shards held, %v members", held, members)
	}
}

// A replica that stands still, and that no message reaches, has only its clocks to find that its
// leases are over. The world checks that they end before another replica begins.
func TestTheLeasesOfAReplicaThatStandsStillEndByThemselves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := &valve{}
	a := w.open("a", v.gate()).join()
	b := w.start("b")
	w.shared(a, b)
	w.await("the first to know that what it gave back is released", func() string {
		if held := a.Held(); held != 32 {
			return strconv.Itoa(held)
		}
		return ""
	})
	still := make(chan struct{})
	t.Cleanup(func() { close(still) })
	v.mu.Lock()
	v.hung = still
	v.mu.Unlock()
	a.conn.Close()
	w.shared(b)
	if held := a.Held(); held != 32 {
		t.Errorf("it stood not still: it holds %d", held)
	}
	w.tellGaps("one stands still")
}

// Renewals that are done but get no response are read back, and no lease is lost by them.
func TestUnansweredRenewalsAreReadBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := &valve{}
	reg := prometheus.NewRegistry()
	a := w.open("a", v.gate()).join(steady, func(c *Config) { c.Metrics = reg })
	w.shared(a)
	before := a.lease(7)
	v.set(false, true)
	a.awaitRenewals(3, func() {
		if got := len(a.owned()); got != relay.Shards {
			t.Fatalf("it owns %d", got)
		}
	})
	if a.lease(7) != before || counted(t, reg, "audatex_relay_lease_losses_total") != 0 {
		t.Error("leases were lost")
	}
	v.set(false, false)
	w.shared(a)
}

// An acquisition that got no response is taken over by the same replica, under a higher epoch.
func TestAnUnansweredAcquisitionIsTakenAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := &valve{}
	a := w.open("a", v.gate()).join()
	v.set(false, true)
	w.await("its acquisitions to be in the store", func() string {
		leases, err := a.store.Owners.All(t.Context(), "shard", func(key string, err error) { t.Error(key, err) })
		if err != nil || len(leases) < relay.Shards {
			return "not all"
		}
		return ""
	})
	v.set(false, false)
	w.shared(a)
}

// When the store was away for longer than a lease lives, its former owner takes it again.
func TestAfterAnOutageTheShardsAreTakenAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := &valve{}
	var told lines
	a := w.open("a", v.gate()).join(func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&told, nil)) })
	w.shared(a)
	before := a.lease(7)
	v.set(true, false)
	w.await("the leases to be lost", func() string {
		if len(a.owned()) == 0 && a.Held() == 0 {
			return ""
		}
		return "they are not"
	})
	if before.Valid() {
		t.Error("a lease is valid that nobody has renewed")
	}
	v.set(false, false)
	w.shared(a)
	if now := a.lease(7); now == before || now.Epoch() <= before.Epoch() {
		t.Errorf("epoch %d after %d", now.Epoch(), before.Epoch())
	}
	w.await("the log to tell of it", func() string {
		if told.sum("taken=") >= 2*relay.Shards { // a busy machine may lose some once more
			return ""
		}
		return "it does not"
	})
	if n := told.count("msg=\"leases are lost\" replica=a-" + a.me.nonce[:8] + " "); n == 0 {
		t.Error("the log does not tell which replica has lost its leases")
	}
	// a busy machine takes longer, a line for each half second
	if n := told.count("shards are taken"); n > 2*relay.Shards/8 {
		t.Errorf("the log tells of %d shards in %d lines", 2*relay.Shards, n)
	}
}

// lines is a log.
type lines struct {
	mu  sync.Mutex
	log strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(b)
}

// count counts the lines that hold a text, sum adds up the numbers that follow one.
func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.log.String(), text)
}

func (l *lines) sum(before string) (sum int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, part := range strings.Split(l.log.String(), " "+before)[1:] {
		number, _, _ := strings.Cut(part, "\n")
		number, _, _ = strings.Cut(number, " ")
		n, _ := strconv.Atoi(number)
		sum += n
	}
	return sum
}

// Documents may carry an epoch that the store has forgotten.
func TestAShardIsTakenAnewAboveAnEpochThatTheStoreForgot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.start("a")
	w.shared(a)
	for _, found := range []uint64{1_000_000, 1_000_007} {
		l := a.lease(7)
		l.Superseded(found)
		l.Superseded(found - 3)
		w.await("the shard to be taken anew", func() string {
			if now := a.lease(7); now != l && now.Valid() && now.Epoch() == found+1 {
				return ""
			}
			return "it is not"
		})
		if l.Valid() {
			t.Error("the lease before is valid still")
		}
	}
	a.lease(7).Superseded(3) // not above ours: a straggler of our own
	w.shared(a)
	if e := a.lease(7).Epoch(); e != 1_000_008 {
		t.Errorf("epoch %d", e)
	}
	if e := a.lease(8).Epoch(); e > 1000 {
		t.Errorf("another shard's epoch is %d", e)
	}

	// It stays above for those who have seen it, and for those who come later.
	b := w.start("b")
	w.shared(a, b)
	a.leave()
	<-a.left
	w.shared(b)
	if e := b.lease(7).Epoch(); e <= 1_000_008 {
		t.Errorf("the next owner has epoch %d", e)
	}
}

// The only process there is takes everything at once, no matter what the last one left.
func TestAnExclusiveReplicaStartsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	exclusive := func(c *Config) { c.Exclusive, c.ttl = true, 10*time.Minute } // nobody waits for such a lease to end
	a := w.start("a", exclusive)
	w.shared(a)
	before := a.lease(7).Epoch()
	a.die()
	<-a.left
	b := w.open("a", store.Gate{}).join(exclusive)
	w.await("all shards, before the last one's leases have ended", func() string {
		if len(b.owned()) == relay.Shards {
			return ""
		}
		return "not all"
	})
	if peers, _ := b.Members(); len(peers) != 1 || b.lease(7).Epoch() <= before {
		t.Errorf("members %+v, epoch %d after %d", peers, b.lease(7).Epoch(), before)
	}
}

func TestWhoFailedToJoinMayTryAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := &valve{}
	a := w.open("a", v.gate())
	reg := prometheus.NewRegistry()
	v.set(true, false)
	c := Config{Store: a.store, Replica: "a", Metrics: reg, Log: testLog("a")}
	if _, err := Join(t.Context(), c); !errors.Is(err, errValve) {
		t.Fatalf("joined a store that takes nothing: %v", err)
	}
	v.set(false, false)
	w.shared(a.join(func(c *Config) { c.Metrics = reg }))
}

// A store that was killed may have the records of dead replicas again, and never ends them.
func TestWhoDiedLongAgoIsNoMember(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.open("a", store.Gate{})
	const ttl, renew = 3 * time.Second, 300 * time.Millisecond
	dead := store.MemberKey("dead", "x")
	for key, o := range map[string]store.Owner{
		dead:              {Member: &store.Member{Replica: "dead", Nonce: "x", Started: time.Now()}},
		store.LeaseKey(7): {Lease: &store.Lease{Replica: "dead", Nonce: "x", Epoch: 5_000}},
	} {
		if err := r.store.Owners.Set(t.Context(), key, o); err != nil {
			t.Fatal(err)
		}
	}
	w.await("the records to be old", func() string {
		now, err := r.store.Owners.Now(t.Context())
		for _, at := range r.store.Owners.Current(t.Context(), []string{dead, store.LeaseKey(7)}) {
			if err != nil || at.Err != nil || !topology.Lapsed(at.Written, now, ttl) {
				return fmt.Sprintf("%+v at %s: %v", at, now, err)
			}
		}
		return ""
	})
	r.join(func(c *Config) { c.ttl, c.renew = ttl, renew })
	if peers, _ := r.Members(); len(peers) != 1 {
		t.Errorf("members: %+v", peers)
	}
	w.shared(r)
	if e := r.lease(7).Epoch(); e != 5_001 {
		t.Errorf("epoch %d", e)
	}
	w.await("the record of the dead to be removed", func() string {
		if at := r.store.Owners.Current(t.Context(), []string{dead})[0]; at.Err != nil || !at.Deleted {
			return fmt.Sprintf("%+v", at)
		}
		return ""
	})
}

// Builds before this one wrote leases once, without a time.
func TestALeaseWithoutATimeIsTakenWhenItsOwnerShowsNoSign(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.open("a", store.Gate{})
	var old []store.Put[store.Owner]
	for n := range relay.Shards {
		old = append(old, store.Put[store.Owner]{
			Key: store.LeaseKey(n), Value: store.Owner{Lease: &store.Lease{Replica: "old", Nonce: "x", Epoch: 5_000}},
		})
	}
	for _, r := range a.store.Owners.PutAll(t.Context(), old) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	reg := prometheus.NewRegistry()
	began := time.Now()
	a.join(func(c *Config) { c.Metrics = reg })
	w.shared(a)
	if took := time.Since(began); took < testTTL {
		t.Errorf("taken after %s", took)
	}
	if e := a.lease(7).Epoch(); e != 5_001 {
		t.Errorf("epoch %d", e)
	}
	if n := counted(t, reg, "audatex_relay_lease_takeovers_total"); n != relay.Shards {
		t.Errorf("%v takeovers", n)
	}
}
