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
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// toolPatience is how long a command waits for a NATS that does not respond, or elects a leader, before it gives up.
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
		StoreConfig: c, log: newLogger(p, c).Logger,
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

// newSealer reads the keys that encrypt secrets at rest: those that are set, or those of the file beside the data.
func newSealer(keys []byte, dir string) (*store.Sealer, error) {
	if len(keys) == 0 {
		var err error
		if keys, err = store.KeysFromFile(dir); err != nil {
			return nil, err
		}
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		return nil, settings.Wrong("RELAY_ENCRYPTION_KEYS", "%w", err)
	}
	return sealer, nil
}

// checkKeys refuses keys that open none of the secrets that are stored. The relay would seem to work and do nothing: no
// vendor could be polled, no callback signed. Keys that open some are accepted; each secret that they do not open is
// reported when it is read. A key file that this start has made is removed again, as nothing is encrypted with it.
func checkKeys(ctx context.Context, s *store.Store, c settings.Config, made bool) error {
	opened, sealed, err := s.CanDecrypt(ctx)
	switch {
	case err != nil, opened, sealed == 0:
		return err
	case len(c.Keyset) > 0:
		return settings.Wrong("RELAY_ENCRYPTION_KEYS",
			"opens none of the %d secrets in the store: start with the keyset that they were encrypted with", sealed)
	}
	file := filepath.Join(c.DataDir, store.KeyFile)
	if made {
		_ = os.Remove(file)
	}
	return settings.Wrong("RELAY_ENCRYPTION_KEYS",
		"%s opens none of the %d secrets in the store: put the file back that was made on first start, "+
			"or set the keyset that they were encrypted with", file, sealed)
}
