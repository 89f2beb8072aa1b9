package shard

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/signal"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// renewEvery is how often a lease is renewed: three times within its life. A fourth try is still in
// time when the store's own change of leader (up to 9 s) has swallowed the two between.
const renewEvery = 4 * time.Second

// Config is what Join needs.
type Config struct {
	Store   *store.Store
	Replica string // a name for people and for the share: a replica that restarts under its name gets its shards again
	Version int    // of the formats this build reads and writes; stands in the member record
	// Exclusive: no other process works on the store (the embedded mode holds a lock on its data
	// directory). Every lease that is found is a dead process's and is taken at once, and no other
	// member counts.
	Exclusive bool
	Metrics   prometheus.Registerer // nil: metrics are kept and shown to nobody
	Log       *slog.Logger

	// Set by tests alone.
	ttl   time.Duration // of leases and member records, whole seconds; 0: topology.LeaseTTL
	renew time.Duration // how often they are renewed; 0: renewEvery. At most a third of ttl
}

// Member is this replica among those that share the work.
type Member struct {
	conf        Config
	me          identity
	key         string
	metrics     *metrics
	wake        signal.Signal // the keeper has something to do
	announceNow signal.Signal // the member record must be written now
	marked      signal.Signal // the mark of the stored formats has changed

	mu           sync.Mutex
	record       store.Member // ours, as it should be in the store
	written      uint64       // its revision
	seenRevision uint64       // its revision as the watch has shown it
	peers        map[string]peer
	changed      chan struct{} // closed when what Members returned has changed
	seeing       bool          // the watch has shown everything there is
	rewatch      context.CancelFunc
	shards       [relay.Shards]shardState
	held         map[int]*ownedShard
	losses       []loss // not logged yet
	pendingLog   pendingLog
	stopping     bool
	nextRound    time.Time // hand-over goes in rounds
}

// shardState is what is known of one shard.
type shardState struct {
	seen      leaseState
	owner     identity  // who should own it
	since     time.Time // since when owner is that
	notBefore time.Time // it is not tried before
	minEpoch  uint64    // the highest epoch that was seen: a new one must be above it
}

// peer is a member's record as seen last.
type peer struct {
	store.Member
	at time.Time
}

// Join makes this replica known to the others. It takes no shards before Run, and its record
// expires if Run does not follow within a lease's time. Ctx is for the joining alone.
func Join(ctx context.Context, c Config) (*Member, error) {
	c.ttl = cmp.Or(c.ttl, topology.LeaseTTL)
	c.renew = cmp.Or(c.renew, renewEvery)
	if c.ttl%time.Second != 0 || c.renew <= 0 || c.ttl < 3*c.renew {
		return nil, fmt.Errorf("join the replicas: leases of %s renewed every %s cannot be kept", c.ttl, c.renew)
	}
	m := &Member{
		conf: c, me: identity{keyPart(c.Replica), relay.NewID()},
		wake: signal.New(), announceNow: signal.New(), marked: signal.New(), changed: make(chan struct{}),
		peers: map[string]peer{}, held: map[int]*ownedShard{}, rewatch: func() {},
	}
	m.key = store.MemberKey(m.me.replica, m.me.nonce)
	m.record = store.Member{Replica: m.me.replica, Nonce: m.me.nonce, Version: c.Version}
	m.metrics = newMetrics()
	there, err := c.Store.Owners.All(ctx, "member", m.unreadable)
	if err != nil {
		return nil, fmt.Errorf("join the replicas: %w", err)
	}
	now, err := c.Store.Owners.Now(ctx)
	if err != nil {
		return nil, fmt.Errorf("join the replicas: %w", err)
	}
	if err := m.announce(ctx); err != nil {
		return nil, fmt.Errorf("join the replicas: %w", err)
	}
	m.metrics.show(c.Metrics, m) // only now: after a failure the caller may try again
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range there {
		if !topology.Lapsed(e.Written, now, c.ttl) {
			m.memberChanged(e)
		}
	}
	return m, nil
}

// keyPart makes a name fit for a key of the store.
func keyPart(name string) string {
	fit := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, name)
	return cmp.Or(fit, "replica")
}

// Members returns the live members, this replica among them, and a channel that is closed once that
// has changed: a member came or went, or its record changed.
func (m *Member) Members() ([]store.Member, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	peers := []store.Member{m.record}
	for _, p := range m.peers {
		peers = append(peers, p.Member)
	}
	slices.SortFunc(peers, func(a, b store.Member) int {
		return cmp.Or(strings.Compare(a.Replica, b.Replica), strings.Compare(a.Nonce, b.Nonce))
	})
	return peers, m.changed
}

// Marked is set when the mark of the stored formats, which lies beside the leases, may have changed.
func (m *Member) Marked() <-chan struct{} { return m.marked }

// SetThrottle announces to all members what the vendor has asked of this one. It returns at once;
// the record is written as soon as the store takes it.
func (m *Member) SetThrottle(t relay.Throttle) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.record.Throttle.Equal(t) {
		return
	}
	m.record.Throttle = t
	m.membersChanged()
	m.announceNow.Set()
}

// callTimeout bounds one call to the store. It is short: a call without a response is read back and
// tried again, and the lease lives on meanwhile.
func (m *Member) callTimeout() time.Duration { return max(m.conf.renew/4, 500*time.Millisecond) }

// retry is how long to wait before calling the store again after a call that failed.
func (m *Member) retry() time.Duration {
	return time.Duration((0.75 + rand.Float64()/2) * float64(m.conf.renew) / 8)
}

// validFor is how long a lease counts from when its renewal was sent. It is less than the lease
// lives in the store, by as much as the clocks of the store's nodes may differ: the node that lets
// it expire need not be the one that recorded its time.
func (m *Member) validFor() time.Duration { return m.conf.ttl - m.conf.ttl/15 }

// vanished is the time without a sign after which a lease or member counts as gone although the
// store has not let it expire.
func (m *Member) vanished() time.Duration { return topology.Vanished(m.conf.ttl) }

func (m *Member) unreadable(key string, err error) {
	m.conf.Log.Error("a document of the owners cannot be read; it is left alone", "key", key, "error", err)
}
