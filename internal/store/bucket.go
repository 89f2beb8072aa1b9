package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/jsapi"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// Bucket is a key-value bucket of documents of one type. Every change is compare-and-set on the
// revision that was read.
type Bucket[T any] struct {
	s     *Store
	kv    jetstream.KeyValue
	name  string
	codec codec[T]
	said  bool // watchers are notified of every write
	// markers is how long the marker of a removed document stays, 0: for good. relist is the time
	// after which a watch lists everything again.
	markers, relist time.Duration
	ttl             time.Duration // of every document; 0: it stays
}

// Entry is a stored document.
type Entry[T any] struct {
	Key      string
	Value    T
	Revision uint64
	Deleted  bool // only from Watch and Current
	Expired  bool // the same: its time was over, or its marker expires
	// Written is when the bucket's leader stored it, by that server's clock; not set from Watch.
	Written time.Time

	early bool // from Watch: read at the leader before the watch showed it; lower revisions may follow
}

// AnyRevision is the revision of a Put that overwrites any document. It is for documents whose
// content does not depend on who writes them.
const AnyRevision = math.MaxUint64

// Put is one write of PutAll: Revision 0 creates.
type Put[T any] struct {
	Key      string
	Value    T
	Revision uint64
	TTL      time.Duration // whole seconds; the document expires after it without another write. 0: as in its bucket
}

// Removal is one removal of Remove. Revision 0 removes the document at any revision.
type Removal struct {
	Key      string
	Revision uint64
}

type codec[T any] interface {
	encode(key string, v T) ([]byte, error)
	decode(key string, b []byte) (T, error)
}

type jsonCodec[T any] struct{}

func (jsonCodec[T]) encode(_ string, v T) ([]byte, error) { return relay.Encode(v) }

func (jsonCodec[T]) decode(_ string, b []byte) (v T, err error) {
	err = json.Unmarshal(b, &v)
	return v, err
}

func openBucket[T any](ctx context.Context, s *Store, name topology.BucketName, c codec[T]) (*Bucket[T], error) {
	bucket := s.topo.Bucket(name)
	kv, err := s.js.KeyValue(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", bucket, classify(err))
	}
	b := &Bucket[T]{s: s, kv: kv, name: bucket, codec: c, said: announced(name)}
	switch name {
	case topology.Owners, topology.Orders, topology.References: // leases are few, and the others' documents stay
	default:
		b.markers, b.relist = topology.MarkerTTL, topology.MarkerTTL/2
	}
	if name == topology.Requests {
		b.ttl = RequestTTL
	}
	return b, nil
}

// announced reports whether watchers of a bucket are notified of every write: they must act on it soon.
func announced(name topology.BucketName) bool {
	switch name {
	case topology.Connections, topology.Clients, topology.Callbacks, topology.Replays:
		return true
	default:
		return false
	}
}

// Get returns a document and its revision; ErrNotFound if there is none. Any node of a cluster may
// serve the read, so the document may be one that was overwritten a moment ago. Only the leader can
// report that there is none, and it is asked where another node does not respond.
func (b *Bucket[T]) Get(ctx context.Context, key string) (T, uint64, error) {
	var zero T
	e, there, err := b.anyCopy(ctx, key)
	if err == nil && !there {
		return b.GetAtLeader(ctx, key)
	}
	if err != nil {
		return zero, 0, fmt.Errorf("read %s of bucket %s: %w", key, b.name, err)
	}
	v, err := b.codec.decode(key, e.Value())
	if err != nil {
		return zero, 0, fmt.Errorf("decode %s of bucket %s, revision %d: %w", key, b.name, e.Revision(), err)
	}
	return v, e.Revision(), nil
}

// GetAtLeader returns a document and its revision as the bucket's leader has them; ErrNotFound if
// there is none.
func (b *Bucket[T]) GetAtLeader(ctx context.Context, key string) (T, uint64, error) {
	there := b.Current(ctx, []string{key})[0]
	if there.Err == nil && there.Deleted {
		there.Err = fmt.Errorf("read %s of bucket %s: %w", key, b.name, ErrNotFound)
	}
	return there.Value, there.Revision, there.Err
}

// anyCopy reads a document from any copy of the bucket. If it returns neither an error nor a
// document, the leader must be asked: this copy did not respond, or may lag behind. ErrNotFound
// means that there is only one copy, and the document is not in it.
func (b *Bucket[T]) anyCopy(ctx context.Context, key string) (e jetstream.KeyValueEntry, there bool, err error) {
	if err := b.s.health.reachable(); err != nil {
		return nil, false, err
	}
	silent, err := b.s.direct(ctx, "KV_"+b.name, func(ctx context.Context) (err error) {
		e, err = b.kv.Get(ctx, key)
		return err
	})
	if err = classify(err); silent || errors.Is(err, ErrNotFound) && b.s.topo.Replicas > 1 {
		return nil, false, nil
	}
	return e, err == nil, err
}

// Create stores a document that is not there yet; ErrConflict if it is.
func (b *Bucket[T]) Create(ctx context.Context, key string, v T) (uint64, error) {
	p := Put[T]{Key: key, Value: v}
	rev, err := b.put(ctx, p)
	if !errors.Is(err, ErrConflict) {
		return rev, err
	}
	return b.overMarker(ctx, p, err)
}

// overMarker creates a document whose key was refused: a removed key may have left a marker, whose
// revision must be expected then.
func (b *Bucket[T]) overMarker(ctx context.Context, p Put[T], refused error) (uint64, error) {
	marker, ok := b.marker(ctx, p.Key)
	if !ok {
		return 0, refused
	}
	p.Revision = marker
	return b.put(ctx, p)
}

// Update stores a document over the revision given; ErrConflict if it is at another one.
func (b *Bucket[T]) Update(ctx context.Context, key string, v T, revision uint64) (uint64, error) {
	return b.put(ctx, Put[T]{Key: key, Value: v, Revision: revision})
}

// Save stores a document over the revision given, or as Create does if that is 0.
func (b *Bucket[T]) Save(ctx context.Context, key string, v T, revision uint64) (uint64, error) {
	if revision == 0 {
		return b.Create(ctx, key, v)
	}
	return b.Update(ctx, key, v, revision)
}

// UpdateFor is Update of a document that expires, after whole seconds without another write.
func (b *Bucket[T]) UpdateFor(
	ctx context.Context, key string, v T, revision uint64, ttl time.Duration,
) (uint64, error) {
	return b.put(ctx, Put[T]{Key: key, Value: v, Revision: revision, TTL: ttl})
}

// Set stores a document over any revision.
func (b *Bucket[T]) Set(ctx context.Context, key string, v T) error {
	_, err := b.put(ctx, Put[T]{Key: key, Value: v, Revision: AnyRevision})
	return err
}

func (b *Bucket[T]) put(ctx context.Context, p Put[T]) (uint64, error) {
	r, err := b.request(p)
	if err != nil {
		return 0, err
	}
	revision, err := b.s.write(ctx, r)
	if err == nil {
		b.announce(p.Key, revision)
	}
	return revision, err
}

// PutAll stores many documents in one go; each ends for itself.
func (b *Bucket[T]) PutAll(ctx context.Context, puts []Put[T]) []Result {
	requests := make([]request, 0, len(puts))
	for _, p := range puts {
		r, err := b.request(p)
		if err != nil { // a value of ours that cannot be encoded: a bug, reported for all
			return slices.Repeat([]Result{{Err: err}}, len(puts))
		}
		requests = append(requests, r)
	}
	results := b.s.writeAll(ctx, requests)
	for i, r := range results {
		if puts[i].Revision == 0 && errors.Is(r.Err, ErrConflict) {
			results[i].Seq, results[i].Err = b.overMarker(ctx, puts[i], r.Err)
		}
	}
	return results
}

// Delete removes a document at the given revision (0: at any) and notifies watchers. The marker
// expires where the bucket's markers do, and a document can be created over it at any time.
func (b *Bucket[T]) Delete(ctx context.Context, key string, revision uint64) error {
	r := b.removal(Removal{key, revision}, b.markers)
	marker, err := b.s.write(ctx, r)
	if err == nil {
		b.announce(key, marker)
	}
	return err
}

// Withdraw makes every write fail that was prepared while a key's document was not there, by a
// marker in its place. The revision is that of the marker that is there, 0 if there is nothing.
// ErrConflict if a document, or another marker, is there by now.
func (b *Bucket[T]) Withdraw(ctx context.Context, key string, revision uint64) error {
	r := b.removal(Removal{Key: key}, topology.MarkerTTL)
	r.opts = append(r.opts, jetstream.WithExpectLastSequencePerSubject(revision))
	_, err := b.s.write(ctx, r)
	return err
}

// Remove removes documents that come and go by the thousand, in one go; each removal ends for
// itself, with ErrConflict where the document is at another revision than the one given, or has
// gone already. Each leaves a marker for topology.MarkerTTL. Purging the key instead leaves none,
// but does not last: when the server is killed, what a purged key held before its last change may
// come back.
func (b *Bucket[T]) Remove(ctx context.Context, removals []Removal) []Result {
	return b.s.writeAll(ctx, each.Of(removals, func(r Removal) request { return b.removal(r, topology.MarkerTTL) }))
}

// removal is a removal whose marker goes after a time, or stays if that is 0.
func (b *Bucket[T]) removal(r Removal, marker time.Duration) request {
	m := nats.NewMsg(b.subject(r.Key))
	req := request{msg: m}
	if marker > 0 {
		m.Header.Set(headerOperation, "PURGE") // the server leaves no marker of its own when this one ends
		req.opts = append(req.opts, jetstream.WithMsgTTL(marker))
	} else {
		m.Header.Set(headerOperation, "DEL")
	}
	if r.Revision > 0 {
		req.opts = append(req.opts, jetstream.WithExpectLastSequencePerSubject(r.Revision))
	}
	return req
}

func (b *Bucket[T]) subject(key string) string { return "$KV." + b.name + "." + key }

func (b *Bucket[T]) request(p Put[T]) (request, error) {
	data, err := b.codec.encode(p.Key, p.Value)
	if err != nil {
		return request{}, fmt.Errorf("encode %s of bucket %s: %w", p.Key, b.name, err)
	}
	r := request{
		msg: &nats.Msg{Subject: b.subject(p.Key), Data: data}, precious: precious(p.Value),
	}
	if p.Revision != AnyRevision {
		r.opts = append(r.opts, jetstream.WithExpectLastSequencePerSubject(p.Revision))
	}
	if ttl := cmp.Or(p.TTL, b.ttl); ttl > 0 {
		r.opts = append(r.opts, jetstream.WithMsgTTL(ttl))
	}
	return r, nil
}

// precious reports whether a document holds what exists nowhere else: a token record with what came
// of a refresh, a link with the tokens of a consent.
func precious(v any) bool {
	switch v := v.(type) {
	case relay.TokenRecord:
		return v.Intent == nil
	case relay.ConsentLink:
		return v.Pending()
	}
	return false
}

// marker returns the revision of a removed key's marker.
func (b *Bucket[T]) marker(ctx context.Context, key string) (uint64, bool) {
	m, err := b.s.atLeader(ctx, "KV_"+b.name, jsapi.Selection{Last: b.subject(key)})
	return m.Seq, err == nil && isMarker(m.Header)
}

// headerOperation marks a removal (NATS ADR-8), headerMarkerReason one that the server made when a
// key's time was over (ADR-43).
const (
	headerOperation    = "KV-Operation"
	headerMarkerReason = "Nats-Marker-Reason"
)

func isMarker(h nats.Header) bool {
	return h.Get(headerOperation) != "" || h.Get(headerMarkerReason) != ""
}

// isExpired reports whether a marker is that of a key whose time was over, or that goes without a
// trace; as the client library's watches do.
func isExpired(h nats.Header) bool {
	switch h.Get(headerOperation) {
	case "PURGE":
		return true
	case "":
		reason := h.Get(headerMarkerReason)
		return reason == "MaxAge" || reason == "Purge"
	}
	return false
}
