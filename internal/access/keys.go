// Package access knows who may do what: it keeps all clients and their API keys in memory, fresh by a watch on their bucket, and
// judges the keys that the HTTP API and the NATS listener are shown. Being in memory, a key is still judged while the store is
// in trouble.
package access

import (
	"context"
	"crypto/subtle"
	"log/slog"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Config is what New needs.
type Config struct {
	Clients *store.Bucket[relay.Client]
	Log     *slog.Logger
	// Changed is called with a client's id after it, or one of its keys, changed. It may be nil, and must not block.
	Changed func(client string)
}

// Keys judges API keys. Run must be running.
type Keys struct {
	c     Config
	ready chan struct{}

	mu      sync.RWMutex
	clients map[string]known  // by client id
	owners  map[string]string // key id → client id
}

// known is a client at a revision of its document; a removed one stays known, so that an older change does not bring it back.
type known struct {
	client   relay.Client
	revision uint64
	removed  bool
}

// New answers Keys that know nobody until Run has read the bucket.
func New(c Config) *Keys {
	return &Keys{c: c, ready: make(chan struct{}), clients: map[string]known{}, owners: map[string]string{}}
}

// Ready is closed once all clients are known.
func (k *Keys) Ready() <-chan struct{} { return k.ready }

// Run follows the bucket of clients until ctx ends, and through any trouble of the store.
func (k *Keys) Run(ctx context.Context) {
	var once sync.Once
	for ctx.Err() == nil {
		err := k.c.Clients.Watch(ctx,
			func(e store.Entry[relay.Client]) {
				if e.Deleted {
					k.Removed(e.Key, e.Revision)
				} else {
					k.Put(e.Value, e.Revision)
				}
			},
			func() { once.Do(func() { close(k.ready) }) },
			func(key string, err error) {
				k.c.Log.Error("a stored client cannot be read; its keys are refused", "client", key, "error", err)
			})
		if ctx.Err() != nil {
			return
		}
		k.c.Log.Log(ctx, store.Level(err, slog.LevelWarn), "the watch on clients ended; it is started again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// Put takes in a client as stored at a revision. Who has just written one calls it, so that its next request finds what it
// wrote; the watch calls it for all others. An older revision than the one known changes nothing.
func (k *Keys) Put(c relay.Client, revision uint64) {
	k.set(c.ID, known{client: c, revision: revision})
}

// Removed takes in that a client is gone. The revision is that of the removal, or of the document that was removed.
func (k *Keys) Removed(id string, revision uint64) {
	k.set(id, known{revision: revision, removed: true})
}

func (k *Keys) set(id string, now known) {
	k.mu.Lock()
	was, there := k.clients[id]
	stale := there && (now.revision < was.revision || now.revision == was.revision && (was.removed || !now.removed))
	if !stale {
		for _, key := range was.client.Keys {
			delete(k.owners, key.ID)
		}
		for _, key := range now.client.Keys {
			k.owners[key.ID] = id
		}
		k.clients[id] = now
	}
	k.mu.Unlock()
	if !stale && k.c.Changed != nil {
		k.c.Changed(id)
	}
}

// Lookup answers whose key it is, if the key with this id is the one whose text is given and has not expired.
func (k *Keys) Lookup(keyID, text string) (relay.Client, relay.Key, bool) {
	if len(text) > maxKeyLength {
		return relay.Client{}, relay.Key{}, false
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	owner, ok := k.owners[keyID]
	if !ok {
		return relay.Client{}, relay.Key{}, false
	}
	client := k.clients[owner].client
	for _, key := range client.Keys {
		if key.ID == keyID && !key.Expired(time.Now()) && subtle.ConstantTimeCompare(key.Hash, hash(text)) == 1 {
			return client, key, true
		}
	}
	return relay.Client{}, relay.Key{}, false
}

// Client answers a client as it is known now.
func (k *Keys) Client(id string) (relay.Client, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	c, ok := k.clients[id]
	return c.client, ok && !c.removed
}

// ReadsAll reports whether there is a key of this id, not expired, of a client that may see all sites. Until all clients are known
// every key counts as one.
func (k *Keys) ReadsAll(keyID string) bool {
	select {
	case <-k.ready:
	default:
		return true
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	client := k.clients[k.owners[keyID]].client
	for _, key := range client.Keys {
		if key.ID == keyID {
			return client.AllSites && !key.Expired(time.Now())
		}
	}
	return false
}
