package natstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	_ "unsafe" // for go:linkname

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/natsd"
)

// nodes is the size of a cluster: the smallest in which one node may be away.
const nodes = 3

// patience bounds every wait for the cluster to come to rest: other tests use the machine as well.
const patience = 2 * time.Minute

// Cluster is three NATS servers with JetStream in this process, on loopback. A node that is stopped
// keeps its directory and its address.
type Cluster struct {
	dir string

	mu      sync.Mutex
	servers [nodes]*server.Server
	client  [nodes]int // ports, once known
	route   [nodes]int
}

// NewCluster runs three servers until the test ends.
func NewCluster(t testing.TB) *Cluster {
	t.Helper()
	if err := ShortenElections(); err != nil {
		t.Fatal(err)
	}
	c := &Cluster{dir: t.TempDir()}
	t.Cleanup(func() {
		var ending sync.WaitGroup
		for i := range nodes {
			ending.Go(func() { c.end(i) })
		}
		ending.Wait()
	})
	c.route = freePorts(t)
	for i := range nodes {
		c.start(t, i)
	}
	c.ready(t)
	c.await(t, nodes)
	c.place(t)
	return c
}

// place waits until the cluster takes a stream of three copies. Servers that have just met may
// report that they are too few, and a request during a change of their leader gets no response.
func (c *Cluster) place(t testing.TB) {
	t.Helper()
	nc, err := nats.Connect(c.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	trial := jetstream.StreamConfig{Name: "trial", Subjects: []string{"trial"}, Replicas: nodes,
		Storage: jetstream.MemoryStorage}
	again := func(what string, try func() error) {
		t.Helper()
		if err := repeat(try, func(error) bool { return true }); err != nil {
			t.Fatalf("waited %s for the cluster to %s: %v", patience, what, err)
		}
	}
	again("take a stream", func() error { _, err := js.CreateOrUpdateStream(t.Context(), trial); return err })
	again("store a message", func() error { _, err := js.Publish(t.Context(), "trial", nil); return err })
	again("delete a stream", func() error {
		if err := js.DeleteStream(t.Context(), trial.Name); !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
		return nil
	})
}

// Patiently repeats a step that creates streams, as the relay does at its start. The copies of a
// new stream may take longer to elect a leader than the time-out of a request. While the servers
// elect one among themselves they report that JetStream is not available.
func Patiently(step func() error) error {
	return repeat(step, func(err error) bool {
		var refused *jetstream.APIError
		return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) ||
			errors.As(err, &refused) && refused.Code == 503
	})
}

// repeat tries again while the failure is one of those that pass.
func repeat(try func() error, passes func(error) bool) error {
	for deadline := time.Now().Add(patience); ; <-time.After(50 * time.Millisecond) {
		if err := try(); err == nil || !passes(err) || time.Now().After(deadline) {
			return err
		}
	}
}

// freePorts returns ports that are free now: the nodes must know one another's before the first of
// them starts.
func freePorts(t testing.TB) (ports [nodes]int) {
	t.Helper()
	for i := range nodes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports
}

// Start starts a node, the first time or again. It does not wait for the node to have caught up.
func (c *Cluster) Start(t testing.TB, i int) {
	t.Helper()
	c.start(t, i)
	c.ready(t)
}

func (c *Cluster) start(t testing.TB, i int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	opts := &server.Options{
		ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: port(c.client[i]), JetStream: true,
		StoreDir: filepath.Join(c.dir, fmt.Sprint(i)), MaxPayload: natsd.MaxPayload, MaxPending: 256 << 20,
		NoSigs: true, NoLog: true, SyncInterval: time.Minute, JetStreamMaxStore: 8 << 30, JetStreamMaxMemory: 1 << 30,
		Cluster: server.ClusterOpts{Name: "relay", Host: "127.0.0.1", Port: c.route[i]},
	}
	for _, p := range c.route {
		if p != c.route[i] {
			opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", p)})
		}
	}
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatalf("configure node %d: %v", i, err)
	}
	s.Start()
	c.servers[i] = s
}

// ready waits until every running node takes connections, and notes where.
func (c *Cluster) ready(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, s := range c.servers {
		if s == nil {
			continue
		}
		if !s.ReadyForConnections(patience) {
			t.Fatalf("node %d takes no connections", i)
		}
		c.client[i] = portOf(s.ClientURL())
	}
}

// Stop ends a node at once; its clients and peers see it go.
func (c *Cluster) Stop(i int) { c.end(i) }

func (c *Cluster) end(i int) {
	c.mu.Lock()
	s := c.servers[i]
	c.servers[i] = nil
	c.mu.Unlock()
	if s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// URL returns the addresses of all nodes, as RELAY_NATS_URL takes them.
func (c *Cluster) URL() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	urls := make([]string, nodes)
	for i, p := range c.client {
		urls[i] = fmt.Sprintf("nats://127.0.0.1:%d", p)
	}
	return strings.Join(urls, ",")
}

// Connect returns a connection that continues with another node when its own stops.
func (c *Cluster) Connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(c.URL(), append([]nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond), nats.ReconnectBufSize(-1),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Leader returns the node that leads a stream of the default account. It waits for one to be
// elected.
func (c *Cluster) Leader(t testing.TB, stream string) int {
	t.Helper()
	return c.wait(t, "a leader of stream "+stream, func(i int, s *server.Server) bool {
		return s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream)
	})
}

// Settle waits until every running node is a current member of the cluster's own group.
func (c *Cluster) Settle(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	up := 0
	for _, s := range c.servers {
		if s != nil {
			up++
		}
	}
	c.mu.Unlock()
	c.await(t, up)
}

func (c *Cluster) await(t testing.TB, up int) {
	t.Helper()
	c.wait(t, "the cluster to have a leader and all peers", func(_ int, s *server.Server) bool {
		return s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) >= up
	})
}

// wait tries a condition on every running node until one fulfils it.
func (c *Cluster) wait(t testing.TB, what string, ok func(int, *server.Server) bool) int {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		c.mu.Lock()
		servers := slices.Clone(c.servers[:])
		c.mu.Unlock()
		for i, s := range servers {
			if s != nil && ok(i, s) {
				return i
			}
		}
	}
	t.Fatalf("waited %s for %s", patience, what)
	return -1
}

func port(known int) int {
	if known == 0 {
		return server.RANDOM_PORT
	}
	return known
}

func portOf(client string) int {
	u, err := url.Parse(client)
	if err != nil {
		return 0
	}
	var p int
	_, _ = fmt.Sscan(u.Port(), &p)
	return p
}

// Elections is how many times faster than in production the servers of this process notice that a
// leader is gone and elect another. What lives for as long as an election takes in production (a
// lease) must be divided by it too, so that proportions stay the same. RELAY_ELECTIONS=production
// makes it 1: .ci/full runs every test of a cluster that way as well.
func Elections() time.Duration {
	if os.Getenv("RELAY_ELECTIONS") == "production" {
		return 1
	}
	return 3
}

// The server has no options for these; its own tests set them as well. See raft.go there.
var (
	//go:linkname minElectionTimeout github.com/nats-io/nats-server/v2/server.minElectionTimeout
	minElectionTimeout time.Duration
	//go:linkname maxElectionTimeout github.com/nats-io/nats-server/v2/server.maxElectionTimeout
	maxElectionTimeout time.Duration
	//go:linkname hbInterval github.com/nats-io/nats-server/v2/server.hbInterval
	hbInterval time.Duration
	//go:linkname lostQuorumInterval github.com/nats-io/nats-server/v2/server.lostQuorumInterval
	lostQuorumInterval time.Duration
	//go:linkname lostQuorumCheck github.com/nats-io/nats-server/v2/server.lostQuorumCheck
	lostQuorumCheck time.Duration
)

// ShortenElections must be called before the first server of a cluster is made; NewCluster does it.
var ShortenElections = sync.OnceValue(func() error {
	if minElectionTimeout == 0 {
		return errors.New("the server's election timeouts have other names now: see raft.go there")
	}
	for _, d := range []*time.Duration{&minElectionTimeout, &maxElectionTimeout, &hbInterval,
		&lostQuorumInterval, &lostQuorumCheck} {
		*d /= Elections()
	}
	return nil
})
