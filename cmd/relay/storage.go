package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/settings"
	"github.com/audatex-relay/relay/internal/topology"
)

// toolPatience is how long a command waits for a NATS that does not respond, or elects a leader,
// before it gives up.
const toolPatience = 30 * time.Second

// tool is a store that a command works on while no relay of this process does.
type tool struct {
	settings.StoreConfig
	nc    *nats.Conn
	js    jetstream.JetStream
	topo  topology.Topology
	log   *slog.Logger
	close func()
}

// openTool connects to the store: the cluster of RELAY_NATS_URL, or the embedded server's files,
// which no relay may be using. Fresh allows for a directory in which nothing has been stored yet.
func openTool(p program, given settings.Tool, fresh bool) (*tool, error) {
	c, err := given.Check()
	if err != nil {
		return nil, err
	}
	if c.NATSURL == "" && !fresh {
		if _, err := os.Stat(filepath.Join(c.DataDir, "nats")); errors.Is(err, fs.ErrNotExist) {
			return nil, settings.Wrong("RELAY_DATA_DIR", "%s holds no store (set it, or RELAY_NATS_URL)", c.DataDir)
		}
	}
	t := &tool{
		StoreConfig: c, log: newLogger(p, c),
		topo: topology.Topology{Prefix: c.NATSPrefix, Replicas: c.StreamReplicas, Retention: c.Retention.D()},
	}
	p.warn(c, t.log)
	waiting, cancel := context.WithTimeoutCause(p.ctx, toolPatience, fmt.Errorf("no answer within %s", toolPatience))
	defer cancel()
	bus, nc, err := t.start().connect(waiting, c, settings.Listen{}, natsd.Limits{}, nil)
	if err != nil {
		return nil, err
	}
	t.nc, t.close = nc, func() { nc.Close(); bus.Stop() }
	if t.js, err = jetstream.New(nc); err != nil {
		t.close()
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return t, nil
}

func (t *tool) start() start { return start{log: t.log, waiting: func(string) {}} }

// patiently does what may have to wait for the cluster to elect a leader.
func (t *tool) patiently(ctx context.Context, trouble string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, toolPatience)
	defer cancel()
	var last error
	err := t.start().step(ctx, trouble, func() error { last = do(ctx); return last })
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s within %s: %w", trouble, toolPatience, last)
	}
	return err
}
