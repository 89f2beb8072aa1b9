package natsd_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

var update = flag.Bool("update", false, "write deploy/nats/relay-permissions.conf anew")

const deployed = "../../deploy/nats"

// nodes is how many servers deploy/nats is for.
const nodes = 3

// cluster is three servers that run the files of deploy/nats, with the relay's store on them.
type cluster struct {
	t       *testing.T
	servers [nodes]*server.Server
	options [nodes]*server.Options
	stores  [nodes]string
	routes  [nodes]int
	ca      *x509.CertPool
	conn    *nats.Conn // the relay's
	store   *store.Store
}

// secrets are the passwords that the configuration takes from the environment; one is given as its
// bcrypt hash, as people do.
var secrets = map[string]string{"relay": "relay-secret", "sys": "sys-secret", "bms-leeds": "leeds-secret",
	"bms-north": "north-secret", "erp": "erp-secret", "warehouse": "warehouse-secret"}

// warehouseHash is the bcrypt hash of that one's password.
const warehouseHash = "$2a$04$IoceJM2MC13CVR2A.CuO1eH/0bEaysRvUNGmj5GRgjpb9jaGPRacq"

// bare is a login that the tests add: it has the account of erp without its permissions.
const bare = "erp-bare"

// newCluster is for one test: the configuration reads the environment, which nothing else here
// looks at.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	if err := natstest.ShortenElections(); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t}
	for name, secret := range secrets {
		if name == "warehouse" {
			secret = warehouseHash
		}
		setenv(t, strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"_PASSWORD", secret)
	}
	certificates := t.TempDir()
	c.ca = issue(t, certificates)
	setenv(t, "NATS_CERT", filepath.Join(certificates, "cert.pem"))
	setenv(t, "NATS_KEY", filepath.Join(certificates, "key.pem"))
	setenv(t, "NATS_CA", filepath.Join(certificates, "ca.pem"))
	c.routes = freePorts(t)
	for i := range nodes {
		c.stores[i] = t.TempDir()
		c.options[i] = c.read(i)
	}
	t.Cleanup(func() {
		var ending sync.WaitGroup
		for i := range c.servers {
			ending.Go(func() { c.stop(i) })
		}
		ending.Wait()
	})
	for i := range c.servers {
		c.start(i)
	}
	until(t, "the cluster to have a leader and all peers", func() bool {
		return slices.ContainsFunc(c.servers[:],
			func(s *server.Server) bool { return s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == nodes })
	})
	c.conn = c.login("relay", secrets["relay"])
	log := slog.New(slog.DiscardHandler)
	if err := natstest.Patiently(func() (err error) {
		c.store, err = store.Open(t.Context(),
			store.Config{Conn: c.conn,
				Topology: topology.Topology{Prefix: "relay", Replicas: nodes, Retention: time.Hour},
				Log:      log})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return c
}

func setenv(t *testing.T, name, value string) {
	t.Helper()
	//nolint:usetesting // t.Setenv would keep the longest test from running in parallel
	if err := os.Setenv(name, value); err != nil {
		t.Fatal(err)
	}
}

// read reads the configuration for a node.
func (c *cluster) read(i int) *server.Options {
	t := c.t
	t.Helper()
	setenv(t, "NATS_NAME", fmt.Sprintf("nats-%d", i+1))
	setenv(t, "NATS_STORE", c.stores[i])
	opts, err := server.ProcessConfigFile(filepath.Join(deployed, "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if opts.ServerName != fmt.Sprintf("nats-%d", i+1) || opts.TLSConfig == nil || opts.Cluster.TLSConfig == nil ||
		opts.MaxPayload < natsd.MaxPayload {
		t.Fatalf("read %+v", opts)
	}
	noticed := func(every time.Duration, missed int) time.Duration { return every * time.Duration(missed+1) }
	if routes, clients := noticed(opts.Cluster.PingInterval, opts.Cluster.MaxPingsOut), noticed(opts.PingInterval,
		opts.MaxPingsOut); routes <= 0 || routes > 10*time.Second || clients <= 0 || clients > time.Minute {
		t.Fatalf("a server that stands still is noticed after %s, a client after %s", routes, clients)
	}
	// What a test must do otherwise: ports of its own, on loopback.
	opts.Host, opts.Port, opts.Cluster.Host, opts.Cluster.Port = "127.0.0.1",
		server.RANDOM_PORT, "127.0.0.1", c.routes[i]
	opts.Routes, opts.NoSigs, opts.NoLog = nil, true, true
	for _, port := range c.routes {
		opts.Routes = append(opts.Routes, &url.URL{Scheme: "tls", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	for _, u := range opts.Users {
		if u.Username == "erp" { // one more in the same account, who may do all that the account has to offer
			opts.Users = append(opts.Users, &server.User{Username: bare, Password: u.Password, Account: u.Account})
			break
		}
	}
	return opts
}

// freePorts returns ports that are free now. The nodes need one another's ports before the first of
// them starts.
func freePorts(t *testing.T) (ports [nodes]int) {
	t.Helper()
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports
}

// start starts a server, the first time or again on its address and directory.
func (c *cluster) start(i int) {
	c.t.Helper()
	s, err := server.NewServer(c.options[i].Clone())
	if err != nil {
		c.t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		c.t.Fatalf("node %d takes no connections", i)
	}
	c.options[i].Port = s.Addr().(*net.TCPAddr).Port
	c.servers[i] = s
}

func (c *cluster) stop(i int) {
	if s := c.servers[i]; s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

func (c *cluster) as(user, password string) []nats.Option {
	return []nats.Option{
		nats.UserInfo(user, password), nats.Secure(&tls.Config{RootCAs: c.ca, MinVersion: tls.VersionTLS12}),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(50 * time.Millisecond),
	}
}

// url returns the clients' addresses of all servers.
func (c *cluster) url() string {
	urls := make([]string, nodes)
	for i, s := range c.servers {
		urls[i] = "tls://" + s.Addr().String()
	}
	return strings.Join(urls, ",")
}

func (c *cluster) login(user, password string, more ...nats.Option) *nats.Conn {
	c.t.Helper()
	nc, err := nats.Connect(c.url(), append(c.as(user, password), more...)...)
	if err != nil {
		c.t.Fatalf("log in as %s: %v", user, err)
	}
	c.t.Cleanup(nc.Close)
	return nc
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// The relay's permissions in deploy/nats are those that its topology asks for.
func TestRelayPermissionsAreThoseOfTheTopology(t *testing.T) {
	t.Parallel()
	publish, subscribe := natsd.RelayPermissions(topology.Topology{Prefix: "relay", Replicas: 3, Retention: time.Hour})
	var want strings.Builder
	want.WriteString("# What the relay's own user may do in its account: JetStream on the streams and buckets of its " +
		"prefix, its own subjects, the copy of the\n" +
		"# log, and answers to requests. Made from the relay's table of streams: go test ./internal/natsd -run " +
		"TestRelayPermissions -update\n")
	list := func(name string, subjects []string) {
		fmt.Fprintf(&want, "%s: {\n  allow: [\n", name)
		for _, s := range subjects {
			fmt.Fprintf(&want, "    %q\n", s)
		}
		want.WriteString("  ]\n}\n")
	}
	list("publish", publish)
	list("subscribe", subscribe)
	want.WriteString("# A message that several subscriptions of a connection match counts once for each.\n" +
		"allow_responses: { max: 8, expires: \"5m\" }\n")
	file := filepath.Join(deployed, "relay-permissions.conf")
	if *update {
		if err := os.WriteFile(file, []byte(want.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil || string(have) != want.String() {
		t.Errorf("%s is not what the topology asks for: write it anew with -update (%v)", file, err)
	}
}

// All checks share one cluster, because its start takes long.
func TestTheDeployedConfiguration(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.events()
	c.hasALimit()
	g := &target{t: t, conn: c.conn, store: c.store, limited: "bms-leeds", reader: "erp", other: "warehouse",
		bare: bare,
		login: func(user string, more ...nats.Option) *nats.Conn {
			return c.login(user, secrets[strings.TrimSuffix(user, bare[len("erp"):])], more...)
		}}
	g.attack()
	c.works()
	c.keepsOff()
	c.catchesUp()
}

// hasALimit: the relay knows how much it may store, which is below what the three servers have.
func (c *cluster) hasALimit() {
	c.t.Helper()
	_, limit, err := c.store.AccountSize(c.t.Context())
	if most := uint64(nodes * c.options[0].JetStreamMaxStore); err != nil || limit == 0 || limit >= most {
		c.t.Errorf("the relay's account may store %d bytes of %d: %v", limit, most, err)
	}
}

// events keeps the copy, as the relay does.
func (c *cluster) events() {
	c.t.Helper()
	events, err := natsd.NewEvents(natsd.EventsConfig{Conn: c.conn, Topology: c.store.Topology(), MaxBytes: 16 << 20,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := events.Run(ctx); err != nil {
			c.t.Errorf("the copy of the log: %v", err)
		}
	})
	c.t.Cleanup(func() { cancel(); running.Wait() })
}
