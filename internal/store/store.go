package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// maxPending is how many writes may be under way at once; more wait for room.
const maxPending = 16_384

// Config is what Open needs.
type Config struct {
	Conn     *nats.Conn
	Topology topology.Topology
	Sealer   *Sealer
	Log      *slog.Logger
	Room     *Room // of the embedded server's disk; nil with an external cluster, which has its own
	Gate     Gate  // tests only
}

// Store is everything the relay keeps.
type Store struct {
	conn    *nats.Conn
	js      jetstream.JetStream
	topo    topology.Topology
	gate    Gate
	room    *Room
	sealer  *Sealer
	health  *Health
	handles sync.Map // stream name to jetstream.Stream

	Inbox    *Inbox
	Events   *Events
	Attempts *Attempts

	Connections *Bucket[relay.Connection]
	Clients     *Bucket[relay.Client]
	Callbacks   *Bucket[relay.Callback]
	Sealed      *Bucket[SealedCallback] // the same callbacks, without decrypting anything
	Tokens      *Tokens
	Polls       *Bucket[relay.Poll]
	Orders      *Bucket[relay.OrderState]
	Open        *Bucket[relay.OpenOrder]
	Cursors     *Bucket[cursor.Document]
	Watermarks  *Bucket[Watermark]
	Lanes       *Bucket[cursor.Lane]
	Unresolved  *Bucket[relay.Unresolved]
	Asides      *Bucket[Aside] // the same notifications, without their bytes
	Requests    *Requests
	Consents    *Bucket[relay.ConsentLink]
	Owners      *Bucket[Owner]

	// Reconciliations lie in relay_polls, too, under ReconcileKey.
	Reconciliations *Bucket[relay.Reconciliation]
}

// ReconcileKey is the key in relay_polls of how far a connection is reconciled.
func ReconcileKey(connection string) string {
	return ReconcileShard(relay.ShardOf(connection)) + "." + connection
}

// ReconcileShard is the part before the dot of all of a shard's.
func ReconcileShard(shard int) string { return fmt.Sprintf("reconcile.%d", shard) }

// ReconciledConnection is the connection of such a key.
func ReconciledConnection(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// Open creates or updates the streams and buckets and answers the typed stores over them.
func Open(ctx context.Context, c Config) (*Store, error) {
	js, err := jetstream.New(c.Conn, jetstream.WithPublishAsyncMaxPending(maxPending),
		jetstream.WithPublishAsyncTimeout(2*writeTimeout)) // an answer that a change of leader has lost must not keep its place for ever
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	if err := c.Topology.Apply(ctx, js); err != nil {
		return nil, classify(err)
	}
	s := &Store{conn: c.Conn, js: js, topo: c.Topology, gate: c.Gate, room: c.Room, sealer: c.Sealer, health: newHealth(c.Log)}
	s.Inbox, s.Events, s.Attempts = &Inbox{s}, &Events{s}, &Attempts{s}
	for _, open := range []func() error{
		func() (err error) {
			s.Connections, err = openBucket(ctx, s, topology.Connections, jsonCodec[relay.Connection]{})
			return
		},
		func() (err error) {
			s.Clients, err = openBucket(ctx, s, topology.Clients, jsonCodec[relay.Client]{})
			return
		},
		func() (err error) {
			s.Callbacks, err = openBucket(ctx, s, topology.Callbacks, callbackCodec{c.Sealer})
			return
		},
		func() (err error) {
			s.Sealed, err = openBucket(ctx, s, topology.Callbacks, sealedCodec{})
			return
		},
		func() (err error) { s.Tokens, err = openTokens(ctx, s, c.Sealer); return },
		func() (err error) { s.Polls, err = openBucket(ctx, s, topology.Polls, jsonCodec[relay.Poll]{}); return },
		func() (err error) {
			s.Reconciliations, err = openBucket(ctx, s, topology.Polls, jsonCodec[relay.Reconciliation]{})
			return
		},
		func() (err error) {
			s.Orders, err = openBucket(ctx, s, topology.Orders, jsonCodec[relay.OrderState]{})
			return
		},
		func() (err error) {
			s.Open, err = openBucket(ctx, s, topology.Open, jsonCodec[relay.OpenOrder]{})
			return
		},
		func() (err error) {
			s.Cursors, err = openBucket(ctx, s, topology.Cursors, cursorCodec{})
			return
		},
		func() (err error) {
			s.Watermarks, err = openBucket(ctx, s, topology.Cursors, jsonCodec[Watermark]{})
			return
		},
		func() (err error) {
			s.Lanes, err = openBucket(ctx, s, topology.Lanes, laneCodec{})
			return
		},
		func() (err error) {
			s.Unresolved, err = openBucket(ctx, s, topology.Unresolved, jsonCodec[relay.Unresolved]{})
			return
		},
		func() (err error) { s.Asides, err = openBucket(ctx, s, topology.Unresolved, asideCodec{}); return },
		func() (err error) { s.Requests, err = openRequests(ctx, s, c.Sealer); return },
		func() (err error) {
			s.Consents, err = openBucket(ctx, s, topology.Consents, jsonCodec[relay.ConsentLink]{})
			return
		},
		func() (err error) { s.Owners, err = openBucket(ctx, s, topology.Owners, ownerCodec{}); return },
	} {
		if err := open(); err != nil {
			return nil, err
		}
	}
	if err := s.fullLogs(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Health answers whether the store takes writes and answers reads.
func (s *Store) Health() *Health { return s.health }

// Topology answers the names the store stands on.
func (s *Store) Topology() topology.Topology { return s.topo }

// JetStream is the server's interface as it is, for what looks after the streams themselves.
func (s *Store) JetStream() jetstream.JetStream { return s.js }

// Mark answers which formats the documents may have, and from where the numbers of events go on.
func (s *Store) Mark(ctx context.Context) (topology.Mark, error) { return s.topo.ReadMark(ctx, s.js) }
