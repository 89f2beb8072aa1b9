package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// bus is a cluster of three NATS servers, each a process of its own on a directory and ports that
// it keeps.
type bus struct {
	t     *testing.T
	nodes [nodes]*node

	// Observers connect to the servers directly, not by the links that are hurt.
	conn *nats.Conn
	js   jetstream.JetStream
}

type node struct {
	name                   string
	client, route, monitor int // ports
	config                 string
	book                   harness.Logbook
	process                *harness.Process
}

// startTries is how often a node is started whose ports somebody else took between their choice and
// its start.
const startTries = 5

// newBus runs the cluster until the test ends.
func newBus(t *testing.T) *bus {
	t.Helper()
	b := &bus{t: t}
	program := natsServer(t)
	dir := t.TempDir()
	for try := 1; ; try++ {
		b.configure(dir)
		for _, n := range b.nodes {
			n.process = harness.StartProcess(t, program, []string{"-c", n.config}, serverEnv(), &n.book)
		}
		if b.up() {
			break
		}
		if try == startTries {
			t.Fatalf("the NATS servers do not start:\n%s", b.nodes[0].book.Tail(20))
		}
		for _, n := range b.nodes {
			_ = n.process.Cmd.Process.Kill() // it may have ended by itself
			<-n.process.Exited
		}
	}
	var err error
	if b.conn, err = nats.Connect(b.urls(), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.Name("onlooker")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.conn.Close)
	if b.js, err = jetstream.New(b.conn); err != nil {
		t.Fatal(err)
	}
	return b
}

// configure chooses ports that are free now and writes the servers' files. Clients do not learn of
// the other servers: they would go there past their links.
func (b *bus) configure(dir string) {
	b.t.Helper()
	ports := freePorts(b.t, 3*nodes)
	routes := make([]string, 0, nodes)
	for i := range b.nodes {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[3*i+1]))
	}
	for i := range b.nodes {
		n := &node{name: fmt.Sprintf("n%d", i), client: ports[3*i], route: ports[3*i+1], monitor: ports[3*i+2],
			config: filepath.Join(dir, fmt.Sprintf("n%d.conf", i))}
		others := append(append([]string{}, routes[:i]...), routes[i+1:]...)
		text := fmt.Sprintf(`server_name: %s
listen: "127.0.0.1:%d"
http: "127.0.0.1:%d"
max_payload: 8MB
max_pending: 256MB
jetstream { store_dir: %q, max_file_store: 8GB, max_memory_store: 256MB }
cluster { name: relay, listen: "127.0.0.1:%d", no_advertise: true, routes: [%s] }
`, n.name, n.client, n.monitor, filepath.Join(dir, n.name), n.route, strings.Join(others, ", "))
		if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
			b.t.Fatal(err)
		}
		b.nodes[i] = n
	}
}

func freePorts(t testing.TB, count int) []int {
	t.Helper()
	ports := make([]int, 0, count)
	for range count {
		l := harness.Listen(t)
		defer func() { _ = l.Close() }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// up waits until all servers are well, or one has ended.
func (b *bus) up() bool {
	for _, n := range b.nodes {
		if !n.awaitHealthy() {
			return false
		}
	}
	return true
}

// awaitHealthy waits until a server has everything that the cluster has. It returns false if the
// server ended instead, or never got there.
func (n *node) awaitHealthy() bool {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(harness.Patience); time.Now().Before(deadline); <-tick.C {
		select {
		case <-n.process.Exited:
			return false
		default:
		}
		if n.healthy() == "" {
			return true
		}
	}
	return false
}

// healthy describes what a server lacks; it returns "" if nothing.
func (n *node) healthy() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		fmt.Sprintf("http://127.0.0.1:%d/healthz", n.monitor), nil)
	if err != nil {
		return err.Error()
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode == http.StatusOK {
		return ""
	}
	said, _ := io.ReadAll(res.Body) // only for the message
	return string(said)
}

// serverEnv has the servers elect at the pace of this run.
func serverEnv() []string {
	if pace() > 1 {
		return os.Environ()
	}
	return append(os.Environ(), "RELAY_ELECTIONS=production")
}

// kill ends a server with SIGKILL.
func (b *bus) kill(n int) {
	b.t.Helper()
	b.end(n, syscall.SIGKILL)
}

func (b *bus) end(n int, signal syscall.Signal) {
	b.t.Helper()
	p := b.nodes[n].process
	if err := p.Cmd.Process.Signal(signal); err != nil {
		b.t.Fatalf("NATS server %d was gone before it was to end: %v\n%s", n, err, b.nodes[n].book.Tail(20))
	}
	<-p.Exited
}

// start starts a server again, without waiting for it.
func (b *bus) start(n int) {
	b.t.Helper()
	it := b.nodes[n]
	it.process = harness.StartProcess(b.t, natsServer(b.t), []string{"-c", it.config}, serverEnv(), &it.book)
}

// awaitCurrent waits until a server that was started again has caught up with the others, in every
// stream.
func (b *bus) awaitCurrent(n int) {
	b.t.Helper()
	if !b.nodes[n].awaitHealthy() {
		b.t.Fatalf("NATS server %d does not get well: %s\n%s", n, b.nodes[n].healthy(), b.nodes[n].book.Tail(20))
	}
}

// urls are the servers' own addresses.
func (b *bus) urls() string {
	list := make([]string, 0, nodes)
	for _, n := range b.nodes {
		list = append(list, fmt.Sprintf("nats://127.0.0.1:%d", n.client))
	}
	return strings.Join(list, ",")
}

// leader returns which server leads a stream.
func (b *bus) leader(stream string) int {
	b.t.Helper()
	leads := -1
	harness.Eventually(b.t, "stream "+stream+" has a leader", func() string {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s, err := b.js.Stream(ctx, stream)
		if err != nil {
			return err.Error()
		}
		if c := s.CachedInfo().Cluster; c != nil {
			for i, n := range b.nodes {
				if n.name == c.Leader {
					leads = i
					return ""
				}
			}
		}
		return "none yet"
	})
	return leads
}
