package cluster

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// history is every revision of every document in the buckets that owners write, as far as a consumer that looks on gets to see them:
// the store keeps one revision a key, so what is written over at once may be missed. How many were is counted.
type history struct {
	mu     sync.Mutex
	keys   map[string][]revision // by bucket and key: "polls site-01"
	last   map[string]uint64     // sequence last seen, by bucket
	missed map[string]int        // revisions that nobody saw, by bucket
}

// revision is one document as it was stored.
type revision struct {
	seq     uint64
	at      time.Time // by the store
	removed bool      // the key is gone: deleted, purged or expired
	gap     bool      // revisions of the bucket before this one were missed
	epoch   uint64
	body    []byte
}

// watched are the buckets whose documents carry epochs, and the leases themselves.
var watched = []string{"owners", "cursors", "lanes", "polls", "tokens"}

// watch writes down what happens in the buckets until the test ends. They must be there.
func watch(t *testing.T, b *bus) *history {
	t.Helper()
	h := &history{keys: map[string][]revision{}, last: map[string]uint64{}, missed: map[string]int{}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, bucket := range watched {
		c, err := b.js.OrderedConsumer(ctx, "KV_relay_"+bucket, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
		if err != nil {
			t.Fatalf("watch bucket %s: %v", bucket, err)
		}
		consuming, err := c.Consume(func(m jetstream.Msg) { h.note(t, bucket, m) })
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
	last := h.last[bucket]
	if r.seq <= last {
		return // seen before the consumer had to be made anew
	}
	if last > 0 && r.seq > last+1 {
		r.gap = true
		h.missed[bucket] += int(r.seq - last - 1)
	}
	h.last[bucket] = r.seq
	h.keys[bucket+" "+key] = append(h.keys[bucket+" "+key], r)
}

// of answers the revisions of one key.
func (h *history) of(bucket, key string) []revision {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]revision(nil), h.keys[bucket+" "+key]...)
}

// bucket answers the revisions of all keys of a bucket.
func (h *history) bucket(name string) map[string][]revision {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := map[string][]revision{}
	for k, list := range h.keys {
		if key, ok := strings.CutPrefix(k, name+" "); ok {
			all[key] = append([]revision(nil), list...)
		}
	}
	return all
}
