package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// history is every revision of every document in the buckets that owners write, as far as an
// observer gets to see them. The store keeps one revision a key, so what is overwritten at once may
// be missed. There are two observers, usually at different servers, so that the end of one server
// hides little. What was missed all the same is known by its sequence.
type history struct {
	mu   sync.Mutex
	keys map[string]map[string][]revision // by bucket and key
	seen map[string]map[uint64]bool       // sequences, by bucket
}

// revision is one document as it was stored.
type revision struct {
	seq     uint64
	at      time.Time // by the store
	removed bool      // the key is gone: deleted, purged or expired
	gap     bool      // between it and the one of the same key before it, something of the bucket was missed
	epoch   uint64
	body    []byte
}

// watched are the buckets whose documents carry epochs, and the leases themselves.
var watched = []string{"owners", "cursors", "lanes", "polls", "tokens"}

// watch writes down what happens in the buckets until the test ends. They must be there.
func watch(t *testing.T, b *bus) *history {
	t.Helper()
	h := &history{keys: map[string]map[string][]revision{}, seen: map[string]map[uint64]bool{}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, bucket := range watched {
		h.keys[bucket], h.seen[bucket] = map[string][]revision{}, map[uint64]bool{}
	}
	for _, bucket := range slices.Concat(watched, watched) {
		c, err := b.js.OrderedConsumer(ctx, "KV_relay_"+bucket,
			jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
		if err != nil {
			t.Fatalf("watch bucket %s: %v", bucket, err)
		}
		consuming, err := c.Consume(func(m jetstream.Msg) { h.note(t, bucket, m) },
			jetstream.PullHeartbeat(500*time.Millisecond), jetstream.PullExpiry(5*time.Second))
		if err != nil {
			t.Fatalf("watch bucket %s: %v", bucket, err)
		}
		t.Cleanup(func() {
			consuming.Stop()
			<-consuming.Closed()
		})
	}
	return h
}

func (h *history) note(t testing.TB, bucket string, m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		t.Errorf("a revision in bucket %s: %v", bucket, err)
		return
	}
	key := strings.TrimPrefix(m.Subject(), "$KV.relay_"+bucket+".")
	r := revision{
		seq: meta.Sequence.Stream, at: meta.Timestamp, body: m.Data(),
		removed: m.Headers().Get("KV-Operation") != "" || m.Headers().Get("Nats-Marker-Reason") != "",
	}
	if !r.removed {
		var doc struct {
			Epoch uint64 `json:"epoch"`
		}
		if err := json.Unmarshal(r.body, &doc); err != nil {
			t.Errorf("bucket %s: %s at %d is not JSON: %v", bucket, key, r.seq, err)
			return
		}
		r.epoch = doc.Epoch
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.seen[bucket][r.seq] {
		h.seen[bucket][r.seq] = true
		h.keys[bucket][key] = append(h.keys[bucket][key], r)
	}
}

// of returns the revisions of one key.
func (h *history) of(bucket, key string) []revision {
	return h.bucket(bucket)[key]
}

// bucket returns the revisions of all keys of a bucket.
func (h *history) bucket(name string) map[string][]revision {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := slices.Sorted(maps.Keys(h.seen[name]))
	place := make(map[uint64]int, len(seen))
	for i, seq := range seen {
		place[seq] = i
	}
	all := make(map[string][]revision, len(h.keys[name]))
	for key, list := range h.keys[name] {
		list = slices.Clone(list)
		slices.SortFunc(list, func(a, b revision) int { return cmp.Compare(a.seq, b.seq) })
		for i := 1; i < len(list); i++ {
			before, r := list[i-1].seq, list[i].seq
			list[i].gap = r-before != uint64(place[r]-place[before])
		}
		all[key] = list
	}
	return all
}

// missed describes how many revisions of each bucket nobody saw.
func (h *history) missed() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	parts := make([]string, 0, len(watched))
	for _, bucket := range watched {
		seen := slices.Sorted(maps.Keys(h.seen[bucket]))
		if len(seen) > 0 {
			all := int(seen[len(seen)-1]-seen[0]) + 1
			parts = append(parts, fmt.Sprintf("%s %d of %d", bucket, all-len(seen), all))
		}
	}
	return strings.Join(parts, ", ")
}
