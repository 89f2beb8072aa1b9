// Package access decides who may do what: it checks the API keys that the HTTP API and the NATS listener are shown. It
// keeps all clients and their keys in memory, up to date by a watch on their bucket, so that a key can be checked even
// while the store is in trouble. Begin with Keys.Lookup for the keys of clients, and with Admins for administrators.
package access

import (
	"bytes"
	"cmp"
	"context"
	"crypto/subtle"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Config is what New needs.
type Config struct {
	Clients *store.Bucket[relay.Client]
	// Uses notes when keys are used; nil means that nobody does.
	Uses *Uses
	Log  *slog.Logger
	// Changed is called with a client's id after the rights of its keys have changed. It may be
	// nil, and must not block.
	Changed func(client string)
}

// Keys checks API keys. Run must be running.
type Keys struct {
	c       Config
	clients *store.Mirror[relay.Client]

	mu     sync.RWMutex
	owners map[string]string // key id → client id
}

// New returns Keys that know no client until Run has read the bucket.
func New(c Config) *Keys {
	k := &Keys{c: c, owners: map[string]string{}}
	k.clients = store.NewMirror(store.MirrorConfig[relay.Client]{Bucket: c.Clients, Log: c.Log,
		What: "client", OnChange: k.changed})
	return k
}

// Clients returns the copy of all clients that the keys are checked against.
func (k *Keys) Clients() *store.Mirror[relay.Client] { return k.clients }

// Ready is closed once all clients are known.
func (k *Keys) Ready() <-chan struct{} { return k.clients.Ready() }

// Run follows the bucket of clients until ctx ends, and through any trouble of the store.
func (k *Keys) Run(ctx context.Context) { k.clients.Run(ctx) }

// Put takes in a client as stored at a revision. Call it after writing one, so that the client's
// next request finds what was written. An older revision than the one known changes nothing.
func (k *Keys) Put(c relay.Client, revision uint64) { k.clients.Put(c.ID, c, revision) }

// Removed takes in that a client is gone. The revision is that of the removal, or of the document
// that was removed.
func (k *Keys) Removed(id string, revision uint64) { k.clients.Removed(id, revision) }

// changed records which client owns which key. It calls Config.Changed unless only the number of
// the client's callbacks has changed.
func (k *Keys) changed(before, now *store.Entry[relay.Client]) {
	var old, next relay.Client
	if before != nil {
		old = before.Value
	}
	if now != nil {
		next = now.Value
	}
	if before != nil && now != nil && sameAccess(old, next) {
		return
	}
	k.mu.Lock()
	for _, key := range old.Keys {
		delete(k.owners, key.ID)
	}
	for _, key := range next.Keys {
		k.owners[key.ID] = next.ID
	}
	k.mu.Unlock()
	if k.c.Changed != nil {
		k.c.Changed(cmp.Or(old.ID, next.ID))
	}
}

func sameAccess(a, b relay.Client) bool {
	return a.Generation == b.Generation && a.AllSites == b.AllSites && slices.Equal(a.Sites, b.Sites) &&
		slices.EqualFunc(a.Keys, b.Keys, func(a, b relay.Key) bool {
			return a.ID == b.ID && a.Role == b.Role && bytes.Equal(a.Hash, b.Hash) &&
				(a.ExpiresAt == nil) == (b.ExpiresAt == nil) &&
				(a.ExpiresAt == nil || a.ExpiresAt.Equal(*b.ExpiresAt))
		})
}

// Lookup returns whose key it is, if the key with this id is the one whose text is given and has
// not expired. That is a use of the key.
func (k *Keys) Lookup(keyID, text string) (relay.Client, relay.Key, bool) {
	client, key, ok := k.Recheck(keyID, text)
	if ok {
		k.c.Uses.note(client, keyID)
	}
	return client, key, ok
}

// Recheck is Lookup for a key that was looked up before, and is not used again.
func (k *Keys) Recheck(keyID, text string) (relay.Client, relay.Key, bool) {
	if len(text) > maxKeyLength {
		return relay.Client{}, relay.Key{}, false
	}
	client, ok := k.owner(keyID)
	if !ok {
		return relay.Client{}, relay.Key{}, false
	}
	for _, key := range client.Keys {
		if key.ID == keyID && !key.Expired(time.Now()) && subtle.ConstantTimeCompare(key.Hash, hash(text)) == 1 {
			return client, key, true
		}
	}
	return relay.Client{}, relay.Key{}, false
}

// owner returns the client that has a key of this id.
func (k *Keys) owner(keyID string) (relay.Client, bool) {
	k.mu.RLock()
	id, ok := k.owners[keyID]
	k.mu.RUnlock()
	if !ok {
		return relay.Client{}, false
	}
	return k.Client(id)
}

// LastUsed returns when a key of a client was last used, to the hour; false if that is not known.
func (k *Keys) LastUsed(client relay.Client, keyID string) (time.Time, bool) {
	for _, key := range client.Keys {
		if key.ID == keyID {
			return k.c.Uses.of(client, key).Last()
		}
	}
	return time.Time{}, false
}

// Client returns a client as it is known now.
func (k *Keys) Client(id string) (relay.Client, bool) {
	e, ok := k.clients.Get(id)
	return e.Value, ok
}

// ReadsAll reports whether there is a key of this id, not expired, of a client that may see all
// sites. Until all clients are known every key counts as one.
func (k *Keys) ReadsAll(keyID string) bool {
	select {
	case <-k.Ready():
	default:
		return true
	}
	client, _ := k.owner(keyID)
	for _, key := range client.Keys {
		if key.ID == keyID {
			return client.AllSites && !key.Expired(time.Now())
		}
	}
	return false
}
