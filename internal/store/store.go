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
	"github.com/audatex-relay/relay/internal/signal"
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
	intact  intact
	handles sync.Map // stream name to jetstream.Stream

	Inbox    *Inbox
	Events   *Events
	Attempts *Attempts
	Audit    *Audit
	Buckets
}

// Buckets are the buckets as typed stores.
type Buckets struct {
	Views

	Connections     *Bucket[relay.Connection]
	Clients         *Bucket[relay.Client]
	Uses            *Bucket[relay.KeyUses] // of the clients' keys, under the clients' ids
	Callbacks       *Bucket[relay.Callback]
	Replays         *Bucket[relay.Replay] // under ReplayKey
	Tokens          *Tokens
	Polls           *Bucket[relay.Poll]
	Reconciliations *Bucket[relay.Reconciliation] // in relay_polls, too, under ReconcileKey
	Orders          *Bucket[relay.OrderState]
	Open            *Bucket[relay.OpenOrder]
	Cursors         *Bucket[cursor.Document]
	Watermarks      *Bucket[Watermark] // in relay_cursors, under WatermarkKey
	Lanes           *Bucket[cursor.Lane]
	Unresolved      *Bucket[relay.Unresolved]
	Requests        *Bucket[IdempotentRequest]
	References      *Bucket[relay.Referenced]
	Consents        *Bucket[relay.ConsentLink]
	Owners          *Bucket[Owner]
}

// Views are buckets of documents that are read without decrypting or decoding all of them.
type Views struct {
	Sealed       *Bucket[SealedCallback] // the callbacks, without decrypting anything
	Asides       *Bucket[Aside]          // the unresolved notifications, without their bytes
	RequestSizes *Bucket[RequestSize]    // the requests, without decrypting anything
}

// ReconcileKey is the key in relay_polls of how far a connection is reconciled.
func ReconcileKey(connection string) string {
	return ReconcileShard(relay.ShardOf(connection)) + "." + connection
}

// ReconcileShard is the part before the dot of all of a shard's.
func ReconcileShard(shard int) string { return fmt.Sprintf("%s.%d", ReconcileEverywhere, shard) }

// ReconcileEverywhere is ReconcileShard for all shards, as a listing takes it.
const ReconcileEverywhere = "reconcile"

// ReconciledConnection is the connection of such a key.
func ReconciledConnection(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// Open creates or updates the streams and buckets and returns the typed stores over them.
func Open(ctx context.Context, c Config) (*Store, error) {
	js, err := jetstream.New(c.Conn, jetstream.WithPublishAsyncMaxPending(maxPending),
		jetstream.WithPublishAsyncTimeout(2*writeTimeout)) // a response that is lost must not keep its place for ever
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	if err := c.Topology.Apply(ctx, js); err != nil {
		return nil, classify(err)
	}
	s := &Store{conn: c.Conn, js: js, topo: c.Topology, gate: c.Gate, room: c.Room,
		sealer: c.Sealer, health: newHealth(c.Log)}
	s.intact.inbox.stream, s.intact.events.stream = c.Topology.Inbox(), c.Topology.Events()
	s.intact.doubt = signal.New()
	s.Inbox, s.Events, s.Attempts, s.Audit = &Inbox{s}, &Events{s: s}, &Attempts{s}, &Audit{s}
	s.Tokens = &Tokens{}
	for _, open := range []func(context.Context) error{
		openInto(s, &s.Connections, topology.Connections, jsonCodec[relay.Connection]{}),
		openInto(s, &s.Clients, topology.Clients, jsonCodec[relay.Client]{}),
		openInto(s, &s.Uses, topology.Uses, jsonCodec[relay.KeyUses]{}),
		openInto(s, &s.Callbacks, topology.Callbacks, callbackCodec{c.Sealer}),
		openInto(s, &s.Sealed, topology.Callbacks, jsonCodec[SealedCallback]{}),
		openInto(s, &s.Tokens.Bucket, topology.Tokens, tokenCodec{c.Sealer}),
		openInto(s, &s.Replays, topology.Replays, jsonCodec[relay.Replay]{}),
		openInto(s, &s.Polls, topology.Polls, jsonCodec[relay.Poll]{}),
		openInto(s, &s.Reconciliations, topology.Polls, jsonCodec[relay.Reconciliation]{}),
		openInto(s, &s.Orders, topology.Orders, jsonCodec[relay.OrderState]{}),
		openInto(s, &s.Open, topology.Open, jsonCodec[relay.OpenOrder]{}),
		openInto(s, &s.Cursors, topology.Cursors, cursorCodec{}),
		openInto(s, &s.Watermarks, topology.Cursors, jsonCodec[Watermark]{}),
		openInto(s, &s.Lanes, topology.Lanes, laneCodec{}),
		openInto(s, &s.Unresolved, topology.Unresolved, jsonCodec[relay.Unresolved]{}),
		openInto(s, &s.Asides, topology.Unresolved, asideCodec{}),
		openInto(s, &s.Requests, topology.Requests, requestCodec{c.Sealer}),
		openInto(s, &s.RequestSizes, topology.Requests, requestSizeCodec{}),
		openInto(s, &s.References, topology.References, jsonCodec[relay.Referenced]{}),
		openInto(s, &s.Consents, topology.Consents, jsonCodec[relay.ConsentLink]{}),
		openInto(s, &s.Owners, topology.Owners, ownerCodec{}),
	} {
		if err := open(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.fullLogs(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// openInto returns what opens one bucket.
func openInto[T any](s *Store, b **Bucket[T], name topology.BucketName, c codec[T]) func(context.Context) error {
	return func(ctx context.Context) (err error) {
		*b, err = openBucket(ctx, s, name, c)
		return err
	}
}

// Health returns the health of the store: whether it takes writes and serves reads.
func (s *Store) Health() *Health { return s.health }

// Topology returns the names the store uses.
func (s *Store) Topology() topology.Topology { return s.topo }

// JetStream is the server's interface as it is, for what looks after the streams themselves.
func (s *Store) JetStream() jetstream.JetStream { return s.js }

// Mark returns which formats the documents may have, and from where the numbers of events go on.
func (s *Store) Mark(ctx context.Context) (topology.Mark, error) { return s.topo.ReadMark(ctx, s.js) }
