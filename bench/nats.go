package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natsd"
)

// natsNodes is the size of the cluster that is measured: the smallest that outlives a node.
const natsNodes = 3

// cluster is three NATS servers, each a process of its own, with JetStream on this machine's disk.
type cluster struct {
	nodes []*exec.Cmd
	urls  string
	http  []string // of each node's monitoring
}

// startCluster builds the server that the relay embeds and starts three of them.
func (b *bench) startCluster(name string) *cluster {
	c := &cluster{}
	if err := failed(func() { b.runCluster(c, name) }); err != nil {
		must(errors.Join(err, c.stop()))
	}
	return c
}

func (b *bench) runCluster(c *cluster, name string) {
	binary := filepath.Join(b.dir, "nats-server")
	must(harness.Build(b.ctx, "", "github.com/nats-io/nats-server/v2", binary))
	ports := freePorts(3 * natsNodes)
	client, route, monitor := ports[:natsNodes], ports[natsNodes:2*natsNodes], ports[2*natsNodes:]
	var routes, urls []string
	for i := range natsNodes {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", route[i]))
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", client[i]))
	}
	c.urls = strings.Join(urls, ",")
	for i := range natsNodes {
		dir := filepath.Join(b.dir, name, fmt.Sprint("n", i))
		conf := fmt.Sprintf("server_name: n%d\nlisten: 127.0.0.1:%d\nhttp: 127.0.0.1:%d\nmax_payload: %d\n"+
			"log_file: %q\n"+
			"jetstream { store_dir: %q, max_file_store: 64GB, max_memory_store: 1GB }\n"+
			"cluster { name: bench, listen: 127.0.0.1:%d, routes: [%s] }\n",
			i, client[i], monitor[i], natsd.MaxPayload, filepath.Join(dir, "log"), dir, route[i],
			strings.Join(routes, ", "))
		must(os.MkdirAll(dir, 0o700))
		file := filepath.Join(dir, "conf")
		must(os.WriteFile(file, []byte(conf), 0o600))
		node := exec.CommandContext(b.ctx, binary, "-c", file)
		node.Stderr = os.Stderr
		must(node.Start())
		c.nodes = append(c.nodes, node)
		c.http = append(c.http, fmt.Sprintf("http://127.0.0.1:%d", monitor[i]))
	}
	b.await(c)
}

func freePorts(n int) (ports []int) {
	for range n {
		l := get(net.Listen("tcp", "127.0.0.1:0"))
		defer func() { _ = l.Close() }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// await waits until the cluster has a leader that creates streams.
func (b *bench) await(c *cluster) {
	unwell := func(url string) bool {
		var health struct{ Status string }
		return read(url+"/healthz", &health) != nil || health.Status != "ok"
	}
	for deadline := time.Now().Add(time.Minute); slices.ContainsFunc(c.http, unwell); b.pass(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			must(errors.New("the NATS cluster did not come up"))
		}
	}
}

func (c *cluster) connect() (*nats.Conn, error) { return nats.Connect(c.urls) }

func (c *cluster) stop() error {
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.Process.Signal(syscall.SIGKILL))
		_ = n.Wait() // by the signal
	}
	return errors.Join(errs...)
}

// traffic is what has gone through the cluster so far, one figure for each of the constants.
type traffic [5]float64

const (
	messages    = iota // between the servers and their clients, both ways
	transferred        // bytes of these
	between            // messages between the servers
	serversCPU         // seconds, of all servers
	stored             // bytes on disk, of all servers
)

// traffic reads the servers' own counts.
func (c *cluster) traffic() (t traffic) {
	for i, url := range c.http {
		var clients struct {
			Connections []struct {
				InMsgs   float64 `json:"in_msgs"`
				OutMsgs  float64 `json:"out_msgs"`
				InBytes  float64 `json:"in_bytes"`
				OutBytes float64 `json:"out_bytes"`
			} `json:"connections"`
		}
		var routes struct {
			Routes []struct {
				InMsgs float64 `json:"in_msgs"`
			} `json:"routes"`
		}
		var js struct {
			Storage float64 `json:"storage"`
		}
		must(errors.Join(read(url+"/connz?limit=1024", &clients), read(url+"/routez", &routes), read(url+"/jsz", &js)))
		for _, n := range clients.Connections {
			t[messages] += n.InMsgs + n.OutMsgs
			t[transferred] += n.InBytes + n.OutBytes
		}
		for _, r := range routes.Routes {
			t[between] += r.InMsgs
		}
		t[serversCPU] += cpuOf(c.nodes[i].Process.Pid)
		t[stored] += js.Storage
	}
	return t
}

// less returns what is above another traffic, scaled.
func (t traffic) less(other traffic, scale float64) traffic {
	for i := range t {
		t[i] -= scale * other[i]
	}
	return t
}
