package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

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
func (b *bench) startCluster(name string) (*cluster, error) {
	binary := filepath.Join(b.dir, "nats-server")
	if err := command(b.ctx, "go", "build", "-o", binary, "github.com/nats-io/nats-server/v2"); err != nil {
		return nil, fmt.Errorf("build the NATS server: %w", err)
	}
	ports, err := freePorts(3 * natsNodes)
	if err != nil {
		return nil, err
	}
	client, route, monitor := ports[:natsNodes], ports[natsNodes:2*natsNodes], ports[2*natsNodes:]
	var routes, urls []string
	for i := range natsNodes {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", route[i]))
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", client[i]))
	}
	c := &cluster{urls: strings.Join(urls, ",")}
	for i := range natsNodes {
		dir := filepath.Join(b.dir, name, fmt.Sprint("n", i))
		conf := fmt.Sprintf("server_name: n%d\nlisten: 127.0.0.1:%d\nhttp: 127.0.0.1:%d\nmax_payload: %d\nlog_file: %q\njetstream { store_dir: %q, max_file_store: 64GB, max_memory_store: 1GB }\n"+
			"cluster { name: bench, listen: 127.0.0.1:%d, routes: [%s] }\n",
			i, client[i], monitor[i], natsd.MaxPayload, filepath.Join(dir, "log"), dir, route[i], strings.Join(routes, ", "))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, errors.Join(err, c.stop())
		}
		file := filepath.Join(dir, "conf")
		if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
			return nil, errors.Join(err, c.stop())
		}
		node := exec.CommandContext(b.ctx, binary, "-c", file)
		node.Stderr = os.Stderr
		if err := node.Start(); err != nil {
			return nil, errors.Join(err, c.stop())
		}
		c.nodes = append(c.nodes, node)
		c.http = append(c.http, fmt.Sprintf("http://127.0.0.1:%d", monitor[i]))
	}
	if err := c.wait(b.ctx); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// wait waits until the cluster has a leader that creates streams.
func (c *cluster) wait(ctx context.Context) error {
	deadline := time.Now().Add(time.Minute)
	for {
		ready := 0
		for _, url := range c.http {
			var health struct {
				Status string `json:"status"`
			}
			if get(ctx, url+"/healthz", &health) == nil && health.Status == "ok" {
				ready++
			}
		}
		if ready == natsNodes {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("the NATS cluster did not come up")
		}
		time.Sleep(100 * time.Millisecond)
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

// traffic is what has gone through the cluster so far.
type traffic struct {
	messages, bytes float64 // between the servers and their clients, both ways
	between         float64 // messages between the servers
	cpu             float64 // seconds, of all servers
	stored          float64 // bytes on disk, of all servers
}

// traffic reads the servers' own counts.
func (c *cluster) traffic(ctx context.Context) (t traffic, err error) {
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
		err = errors.Join(err, get(ctx, url+"/connz?limit=1024", &clients), get(ctx, url+"/routez", &routes), get(ctx, url+"/jsz", &js))
		for _, n := range clients.Connections {
			t.messages += n.InMsgs + n.OutMsgs
			t.bytes += n.InBytes + n.OutBytes
		}
		for _, r := range routes.Routes {
			t.between += r.InMsgs
		}
		cpu, _, e := usageOf(c.nodes[i].Process.Pid)
		err = errors.Join(err, e)
		t.cpu += cpu
		t.stored += js.Storage
	}
	return t, err
}

func (t traffic) since(before traffic) traffic {
	return traffic{t.messages - before.messages, t.bytes - before.bytes, t.between - before.between, t.cpu - before.cpu, t.stored - before.stored}
}

func get(ctx context.Context, url string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	var body bytes.Buffer
	if _, err := body.ReadFrom(answer.Body); err != nil {
		return err
	}
	return json.Unmarshal(body.Bytes(), v)
}
