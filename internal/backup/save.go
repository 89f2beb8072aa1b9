package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// Config is what Save and Restore need.
type Config struct {
	Conn     *nats.Conn
	Topology topology.Topology
	// Sealer holds the encryption keys, Fingerprint names them (store.Fingerprint). They are never
	// written.
	Sealer      *store.Sealer
	Fingerprint string
	Release     string
	// Exclusive: no other process can open the store: a live relay's record in it is a dead one's.
	Exclusive bool
	Log       *slog.Logger
	Now       func() time.Time // time.Now if nil
	// Ahead is how far numbers of events must run ahead of the clock after a restore, at least.
	Ahead time.Duration
}

func (c Config) now() time.Time {
	if c.Now != nil {
		return c.Now().UTC()
	}
	return time.Now().UTC()
}

// ErrKeys reports that the encryption keys are not those of what is stored.
var ErrKeys = errors.New("the encryption keys do not fit")

// order returns the names of all streams in the order that the package comment explains.
func order(t topology.Topology) []string {
	bucket := func(b topology.BucketName) string { return "KV_" + t.Bucket(b) }
	names := []string{
		bucket(topology.Cursors), bucket(topology.Lanes), bucket(topology.Replays), bucket(topology.Orders),
		bucket(topology.Open),
		bucket(topology.Unresolved),
		bucket(topology.Polls), t.Attempts(), t.Events(), t.Inbox(), t.Audit(),
		bucket(topology.Callbacks), bucket(topology.Uses), bucket(topology.Clients), bucket(topology.Consents),
		bucket(topology.Connections), bucket(topology.Tokens),
	}
	for _, b := range topology.Buckets { // what is added to the table is not left out
		if b != topology.Owners && !slices.Contains(names, bucket(b)) {
			names = append(names, bucket(b))
		}
	}
	return append(names, bucket(topology.Owners))
}

// Save writes everything into a directory that must not be there yet. It appears under its name
// only when it is complete.
func Save(ctx context.Context, c Config, dir string) (Manifest, error) {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return Manifest{}, fmt.Errorf("%s is there already: name a directory that is not, inside one that is", dir)
	}
	partial, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".partial-")
	if err != nil {
		return Manifest{}, fmt.Errorf("make the backup's directory: %w", err)
	}
	m, err := save(ctx, c, partial)
	if err == nil {
		if err = os.Rename(partial, dir); err == nil {
			err = syncDir(filepath.Dir(dir))
		}
	}
	if err != nil {
		_ = os.RemoveAll(partial)
		return Manifest{}, err
	}
	return m, nil
}

func save(ctx context.Context, c Config, dir string) (Manifest, error) {
	js, err := jetstream.New(c.Conn)
	if err != nil {
		return Manifest{}, fmt.Errorf("open JetStream: %w", err)
	}
	mark, err := c.Topology.ReadMark(ctx, js)
	if err != nil {
		return Manifest{}, err
	}
	if err := mark.Refuse(c.Topology.Version()); err != nil {
		return Manifest{}, err
	}
	m := Manifest{Version: manifestVersion, Release: c.Release, Prefix: c.Topology.Prefix,
		Began: c.now(), Keys: c.Fingerprint}

	aside, err := startScratch(filepath.Join(dir, "aside"), c.now)
	if err != nil {
		return Manifest{}, err
	}
	defer aside.stop()
	for _, name := range order(c.Topology) {
		take := take
		if strings.HasPrefix(name, "KV_") {
			take = aside.takeBucket
		}
		s, err := take(ctx, js, dir, name)
		if err != nil {
			return Manifest{}, err
		}
		m.Streams = append(m.Streams, s)
		c.Log.DebugContext(ctx, "taken", "stream", name, "messages", s.Messages, "bytes", s.Snapshot.Size)
	}
	if err := aside.describe(ctx, c, &m); err != nil {
		return Manifest{}, err
	}
	if err := aside.remove(); err != nil {
		return Manifest{}, err
	}
	m.Ended = c.now()
	return m, errors.Join(m.write(dir, c.Sealer), syncDir(dir))
}

// take writes one snapshot into the directory.
func take(ctx context.Context, js jetstream.JetStream, dir, name string) (s Stream, err error) {
	s.Name = name
	var state streamState
	s.Snapshot, err = writeFile(dir, name+".snapshot", func(w io.Writer) (err error) {
		s.Config, state, err = snapshot(ctx, js, name, w)
		return err
	})
	if err == nil {
		err = whole(filepath.Join(dir, s.Snapshot.Name))
	}
	s.Messages, s.Bytes, s.FirstSeq, s.LastSeq = state.Messages, state.Bytes, state.FirstSeq, state.LastSeq
	return s, err
}

type counter struct{ n int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return len(b), nil
}

// scratchServer is a server of our own, into which every bucket is restored as soon as it is taken: what
// cannot be restored is no backup.
type scratchServer struct {
	dir    string
	server *natsd.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	now    func() time.Time
}

func startScratch(dir string, now func() time.Time) (*scratchServer, error) {
	server, err := natsd.Start(natsd.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("start the server that checks the backup: %w", err)
	}
	a := &scratchServer{dir: dir, server: server, now: now}
	if a.nc, err = server.Connect(); err == nil {
		a.js, err = jetstream.New(a.nc)
	}
	if err != nil {
		a.stop()
		return nil, fmt.Errorf("start the server that checks the backup: %w", err)
	}
	return a, nil
}

func (a *scratchServer) stop() {
	if a.nc != nil {
		a.nc.Close()
	}
	if a.server != nil {
		a.server.Stop()
	}
	a.nc, a.server = nil, nil
}

func (a *scratchServer) remove() error {
	a.stop()
	if err := os.RemoveAll(a.dir); err != nil {
		return fmt.Errorf("remove what the backup was checked with: %w", err)
	}
	return nil
}

// takeBucket takes a bucket so that no key is missing: each as it was when the snapshot began, or
// later.
func (a *scratchServer) takeBucket(ctx context.Context, js jetstream.JetStream, dir, name string) (Stream, error) {
	s, err := take(ctx, js, dir, name)
	if err != nil {
		return Stream{}, err
	}
	missing, err := subjects(ctx, js, name) // not before: the server may check messages for long until it begins
	if err != nil {
		return Stream{}, err
	}
	// Once restored, it shows what the bucket holds. Keys that were overwritten while the snapshot
	// was read are missing, until the tail is written over it.
	state, err := put(ctx, a.js, dir, s, single(s.Config))
	if err != nil {
		return Stream{}, err
	}
	s.Messages, s.Bytes, s.FirstSeq = state.Messages, state.Bytes, state.FirstSeq
	taken, err := subjects(ctx, a.js, name)
	if err != nil {
		return Stream{}, err
	}
	for subject := range taken {
		delete(missing, subject)
	}
	if s.Tail, err = takeTail(ctx, js, dir, name, missing); err != nil {
		return Stream{}, err
	}
	return s, putTail(ctx, a.js, dir, s.Tail, a.now())
}

// single is a configuration as one server of our own takes it.
func single(c jetstream.StreamConfig) jetstream.StreamConfig {
	c.Replicas, c.Placement = 1, nil
	return c
}

func ignoreMissing(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return err
}

// put restores one file of a backup.
func put(
	ctx context.Context, js jetstream.JetStream, dir string, s Stream, config jetstream.StreamConfig,
) (streamState, error) {
	f, err := os.Open(filepath.Join(dir, s.Snapshot.Name))
	if err != nil {
		return streamState{}, fmt.Errorf("read the backup: %w", err)
	}
	defer func() { _ = f.Close() }()
	return restore(ctx, js, config, streamState{s.Messages, s.Bytes, s.FirstSeq, s.LastSeq}, f)
}
