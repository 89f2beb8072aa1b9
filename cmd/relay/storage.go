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
	"github.com/audatex-relay/relay/internal/pasted"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// toolPatience is how long a command waits for a NATS that does not answer, or elects a leader, before it gives up.
const toolPatience = 30 * time.Second

// tool is a store that a command works on while no relay of this process does.
type tool struct {
	config
	nc    *nats.Conn
	js    jetstream.JetStream
	topo  topology.Topology
	log   *slog.Logger
	close func()
}

// checkStore answers the settings that say where the store is; those of a relay that serves are not asked for.
func (s storage) checkStore() (config, error) {
	c := config{settings: settings{storage: s}}
	if err := c.clean(c.storage.texts()); err != nil {
		return config{}, err
	}
	if err := c.readSecret("RELAY_ENCRYPTION_KEYS", &c.EncryptionKeys, c.EncryptionKeysFile, pasted.Document); err != nil {
		return config{}, err
	}
	if err := c.readSecret("RELAY_NATS_PASSWORD", &c.NATSPassword, c.NATSPasswordFile, pasted.Password); err != nil {
		return config{}, err
	}
	if c.NATSUser != "" && c.NATSPassword == "" {
		return config{}, wrong("RELAY_NATS_PASSWORD", "is required: RELAY_NATS_USER logs in with it")
	}
	for _, check := range []func() error{c.checkNATS, c.checkStorage, c.checkLogging} {
		if err := check(); err != nil {
			return config{}, err
		}
	}
	return c, nil
}

// open connects to the store: the cluster of RELAY_NATS_URL, or the embedded server's files, which no relay may be using. Fresh allows
// for a directory in which nothing has been stored yet.
func (s storage) open(p program, fresh bool) (*tool, error) {
	c, err := s.checkStore()
	if err != nil {
		return nil, err
	}
	c.NATSListen, c.NATSListenCert, c.NATSListenKey = "", "", "" // a tool serves no subscribers
	if c.NATSURL == "" && !fresh {
		if _, err := os.Stat(filepath.Join(c.DataDir, "nats")); errors.Is(err, fs.ErrNotExist) {
			return nil, wrong("RELAY_DATA_DIR", "%s holds no store (set it, or RELAY_NATS_URL)", c.DataDir)
		}
	}
	t := &tool{
		config: c, log: newLogger(p, c),
		topo: topology.Topology{Prefix: c.NATSPrefix, Replicas: c.StreamReplicas, Retention: c.Retention.d()},
	}
	c.warn(p, t.log)
	waiting, cancel := context.WithTimeoutCause(p.ctx, toolPatience, fmt.Errorf("no answer within %s", toolPatience))
	defer cancel()
	bus, nc, err := connect(waiting, c, natsd.Limits{}, nil, t.log, func(string) {})
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

// patiently does what may have to wait for the cluster to elect a leader.
func (t *tool) patiently(ctx context.Context, what string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, toolPatience)
	defer cancel()
	var last error
	err := patiently(ctx, t.log, what, func(string) {}, func() error { last = do(ctx); return last }, store.Passing)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s within %s: %w", what, toolPatience, last)
	}
	return err
}
