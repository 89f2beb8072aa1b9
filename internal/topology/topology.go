// Package topology is the one table of everything the relay keeps in NATS: streams, buckets and subjects, how they are
// created and brought up to date, and which formats the documents in them may have (Formats). Nothing else in the
// program spells the name of a stream, a bucket or a subject; what is not ours is never touched, and a store of a newer
// release is refused. Begin with the tables here; apply.go brings a server to them, raise.go raises the formats during
// a rolling upgrade.
package topology

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/relay"
)

// PublicRoot starts every subject that subscribers see. It does not carry the prefix: it is the
// public contract.
const PublicRoot = "audatex"

// LeaseTTL is how long a lease of relay_owners lives without renewal. The store's own change of
// leader may take 9 s.
const LeaseTTL = 15 * time.Second

// Vanished is the time without a renewal after which a lease or member record with a TTL counts as gone,
// also while the store still has it. A server that was killed may bring back records that had expired
// before: the end of their life stood only in a marker that has gone as well. It never ends those.
func Vanished(ttl time.Duration) time.Duration { return ttl + ttl/3 }

// Lapsed reports whether a lease or member record that was stored at one time has vanished at another,
// both by the clock of its stream's leader. That a record is there does not show that somebody lives.
func Lapsed(stored, now time.Time, ttl time.Duration) bool { return now.Sub(stored) > Vanished(ttl) }

// MarkerTTL is how long a removed document leaves a marker: long enough for the server to have
// stored that what the key held before is gone. Those who follow a bucket list it again more often
// than that, so that they see a removal even if they missed its marker.
const MarkerTTL = time.Hour

// OpenAge is how long an entry of relay_open stays that is not written again. If the order has
// events meanwhile, the publisher writes it again before it is half as old (publisher.listPeriod).
// An order without events for 60 days is not looked for.
const OpenAge = 95 * 24 * time.Hour

// Topology names everything for one prefix.
type Topology struct {
	Prefix    string        // RELAY_NATS_PREFIX, default "relay"
	Replicas  int           // of every stream and bucket: 1 embedded, 3 on a cluster
	Retention time.Duration // of the four logs, default 30 days
	// Formats is the version of the formats that are read and written; 0 stands for the build's.
	// Tests of upgrades set it.
	Formats int
}

// Inbox is the name of the stream of vendor pages.
func (t Topology) Inbox() string { return t.Prefix + "_inbox" }

// Events is the name of the stream of the public log.
func (t Topology) Events() string { return t.Prefix + "_events" }

// Attempts is the name of the stream of attempts.
func (t Topology) Attempts() string { return t.Prefix + "_attempts" }

// Audit is the name of the stream of changes that were requested.
func (t Topology) Audit() string { return t.Prefix + "_audit" }

// Bucket returns the name of a bucket, for example Bucket(Orders) = "relay_orders".
func (t Topology) Bucket(name BucketName) string { return t.Prefix + "_" + string(name) }

// BucketName is a bucket's name without the prefix.
type BucketName string

// The buckets, in the order of the design's table.
const (
	Connections BucketName = "connections"
	Clients     BucketName = "clients"
	Uses        BucketName = "uses"
	Callbacks   BucketName = "callbacks"
	Replays     BucketName = "replays"
	Tokens      BucketName = "tokens"
	Polls       BucketName = "polls"
	Orders      BucketName = "orders"
	Open        BucketName = "open"
	References  BucketName = "references"
	Cursors     BucketName = "cursors"
	Lanes       BucketName = "lanes"
	Unresolved  BucketName = "unresolved"
	Requests    BucketName = "requests"
	Consents    BucketName = "consents"
	Owners      BucketName = "owners"
)

// Buckets lists every bucket.
var Buckets = []BucketName{
	Connections, Clients, Uses, Callbacks, Replays, Tokens, Polls, Orders, Open, References, Cursors, Lanes, Unresolved,
	Requests, Consents, Owners,
}

// Subjects.

// InboxSubject is where a connection's pages are stored. It begins with the shard, as keys of cursors do.
func (t Topology) InboxSubject(connection string) string {
	return t.inboxSubject(strconv.Itoa(relay.ShardOf(connection)), connection)
}

// ParseInboxSubject is the way back from InboxSubject; false for what is none, such as a connection in another shard
// than its own.
func (t Topology) ParseInboxSubject(subject string) (connection string, ok bool) {
	connection = subject[strings.LastIndexByte(subject, '.')+1:]
	if relay.CheckName(connection) != nil || subject != t.InboxSubject(connection) {
		return "", false
	}
	return connection, true
}

// ShardPages matches the pages of every connection of a shard.
func (t Topology) ShardPages(shard int) string { return t.inboxSubject(strconv.Itoa(shard), "*") }

// AllPages matches every page of the inbox.
func (t Topology) AllPages() string { return t.inboxSubject("*", "*") }

func (t Topology) inboxSubject(shard, connection string) string {
	return t.Prefix + ".inbox." + shard + "." + connection
}

// AttemptsSubject is where a callback's attempts are stored.
func (t Topology) AttemptsSubject(callback string) string {
	return t.Prefix + ".attempts." + callback
}

// AuditSubject is where the changes that a client's keys request are recorded; those of
// administrators if client is "".
func (t Topology) AuditSubject(client string) string {
	return t.Prefix + ".audit." + cmp.Or(client, NoClient)
}

// NoClient replaces the client in the subjects of what administrators request. No client has this
// name.
const NoClient = "_"

// ShardSubject is where the owner of a shard receives requests; it is not stored.
func (t Topology) ShardSubject(shard, operation string) string {
	return t.Prefix + ".shard." + shard + "." + operation
}

// WrittenSubject is where the watchers of a bucket are notified of a write; it is not stored.
func (t Topology) WrittenSubject(bucket string) string { return t.Prefix + ".written." + bucket }

// PublishSubject is where an event is published so that it is stored as stored (audatex.…): the
// stream transforms the subject and republishes the message only once it is stored, because a
// publish that the log refuses would still reach the plain subscribers of its subject.
func (t Topology) PublishSubject(stored string) string {
	return t.Prefix + ".publish" + stored[len(PublicRoot):]
}

// OrderSubject is the stored and live subject of an event of an order; action is "created" or
// "updated".
func OrderSubject(site, action, order string) string {
	return PublicRoot + "." + site + ".parts.order." + action + "." + order
}

// OrderFilter matches every event of an order: what expected sequences are checked against. The
// site stands literally in it: a look-up with a wildcard there costs fifty times as much.
func OrderFilter(site, order string) string {
	return PublicRoot + "." + site + ".parts.order.*." + order
}

// OperationalSubject is the stored and live subject of an operational event.
func OperationalSubject(site, kind, id string) string {
	return PublicRoot + "." + site + ".relay." + kind + "." + id
}

// SiteFilter matches everything that happens at a site.
func SiteFilter(site string) string { return PublicRoot + "." + site + ".>" }

// AllEvents matches every stored event.
const AllEvents = PublicRoot + ".>"

// Streams returns the configuration of the four logs.
func (t Topology) Streams() []jetstream.StreamConfig {
	log := func(name string, subject, description string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Description: description, Subjects: []string{subject},
			Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Replicas: t.Replicas,
			MaxAge: t.Retention,
			// A full log refuses: the poller then stops reading from the vendor. Nothing unread is
			// ever dropped early.
			Discard: jetstream.DiscardNew, MaxConsumers: 20_000, AllowDirect: true, DenyDelete: false,
			Compression: jetstream.NoCompression, MaxMsgs: -1, MaxBytes: -1, MaxMsgSize: -1, MaxMsgsPerSubject: -1,
			// The shortest window the server takes: only the inbox uses message ids, and a window
			// costs more than a write.
			Duplicates: time.Second,
		}
	}
	inbox := log(t.Inbox(), t.AllPages(), "One message per page of the vendor's queue that carried something")
	inbox.Duplicates = min(2*time.Minute, t.Retention)
	events := log(t.Events(), t.PublishSubject(AllEvents), "The public log of events")
	events.SubjectTransform = &jetstream.SubjectTransformConfig{Source: t.PublishSubject(AllEvents),
		Destination: AllEvents}
	events.RePublish = &jetstream.RePublish{Source: AllEvents, Destination: AllEvents}
	attempts := log(t.Attempts(), t.AttemptsSubject("*"), "Every attempt of every delivery, in batches")
	audit := log(t.Audit(), t.AuditSubject("*"), "Who requested which change by the API")
	audit.DenyDelete, audit.DenyPurge = true, true
	return []jetstream.StreamConfig{inbox, events, attempts, audit}
}

// KeyValues returns the configuration of the buckets.
func (t Topology) KeyValues() []jetstream.KeyValueConfig {
	configs := make([]jetstream.KeyValueConfig, 0, len(Buckets))
	for _, name := range Buckets {
		c := jetstream.KeyValueConfig{Bucket: t.Bucket(name), History: 1,
			Storage: jetstream.FileStorage, Replicas: t.Replicas}
		switch name { // without a limit the server refuses keys and markers that expire
		case Owners:
			c.LimitMarkerTTL = LeaseTTL
		case Orders, References: // nothing is removed from them
		case Open:
			c.TTL, c.LimitMarkerTTL = OpenAge, MarkerTTL
		default:
			c.LimitMarkerTTL = MarkerTTL
		}
		configs = append(configs, c)
	}
	return configs
}

// tables returns the configuration of every stream: the logs, and those that hold the buckets.
func (t Topology) tables() []jetstream.StreamConfig {
	all := t.Streams()
	for _, c := range t.KeyValues() {
		all = append(all, bucketStream(c))
	}
	return all
}

// StreamNames returns the names of all streams, the four logs first, and by each what it holds: the name of a log or of
// a bucket.
func (t Topology) StreamNames() (streams, holds []string) {
	for _, c := range t.Streams() {
		streams, holds = append(streams, c.Name), append(holds, c.Name)
	}
	for _, c := range t.KeyValues() {
		streams, holds = append(streams, bucketStream(c).Name), append(holds, c.Bucket)
	}
	return streams, holds
}

// bucketStream returns the stream that holds a bucket (NATS ADR-8), as nats.go would make it: a
// bucket is checked and changed through its stream, as the bucket's own view leaves out what an
// operator may have set.
func bucketStream(c jetstream.KeyValueConfig) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "KV_" + c.Bucket, Subjects: []string{"$KV." + c.Bucket + ".>"}, Storage: c.Storage, Replicas: c.Replicas,
		MaxMsgsPerSubject: int64(c.History), MaxBytes: -1, MaxMsgSize: -1, MaxMsgs: -1, MaxConsumers: -1,
		AllowRollup: true, DenyDelete: true, AllowDirect: true, Discard: jetstream.DiscardNew,
		Duplicates: 2 * time.Minute, MaxAge: c.TTL, AllowMsgTTL: c.LimitMarkerTTL != 0,
		SubjectDeleteMarkerTTL: c.LimitMarkerTTL,
	}
}
