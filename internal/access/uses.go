package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// usesEvery is how often what was noted is stored: a crash loses so much of it.
	usesEvery = time.Minute
	// usesAtOnce is how many documents are written in one go, and usesTries how often each is tried
	// before the next round.
	usesAtOnce = 256
	usesTries  = 3
	// warningsAtOnce is how many warnings one round publishes.
	warningsAtOnce = 100
	// lastUses is how long storing may take when the process stops.
	lastUses = 2 * time.Second
)

// Events publishes events that must be in the log once (publisher.Once).
type Events interface {
	Once(
		ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any, since time.Time,
		by ...string,
	) error
}

// UsesConfig is what NewUses needs.
type UsesConfig struct {
	Bucket *store.Bucket[relay.KeyUses]
	// Clients are read where the copy that Run gets may lag.
	Clients *store.Bucket[relay.Client]
	Every   time.Duration    // between two rounds; a minute if zero
	Now     func() time.Time // time.Now if nil
	Log     *slog.Logger
}

// Uses keeps when API keys were last used, to the hour, and warns of keys that expire soon. Every
// replica notes the uses that it sees and merges them into one document for each client.
type Uses struct {
	c    UsesConfig
	docs *store.Mirror[relay.KeyUses]

	mu    sync.RWMutex
	noted map[string]noted // by key id: the last use that this replica has seen
}

type noted struct {
	client, generation string
	hour               int64
	stored             bool
}

// NewUses returns Uses that know nothing until Run has read the bucket.
func NewUses(c UsesConfig) *Uses {
	c.Every = cmp.Or(c.Every, usesEvery)
	if c.Now == nil {
		c.Now = time.Now
	}
	u := &Uses{c: c, noted: map[string]noted{}}
	u.docs = store.NewMirror(store.MirrorConfig[relay.KeyUses]{Bucket: c.Bucket, Log: c.Log, What: "client"})
	return u
}

// note notes that a key was used.
func (u *Uses) note(client relay.Client, key string) {
	if u == nil {
		return
	}
	hour := relay.HourOf(u.c.Now())
	u.mu.RLock()
	last := u.noted[key]
	u.mu.RUnlock()
	if last.hour >= hour && last.hour <= hour+1 && last.generation == client.Generation {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.noted[key] = noted{client: client.ID, generation: client.Generation, hour: hour}
}

// of returns what is known of a client's key.
func (u *Uses) of(client relay.Client, key relay.Key) (use relay.KeyUse) {
	if u == nil {
		return use
	}
	now := u.c.Now()
	if e, there := u.docs.Get(client.ID); there && e.Value.Generation == client.Generation {
		use = e.Value.Keys[key.ID].At(now, key)
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	if n, there := u.noted[key.ID]; there && n.generation == client.Generation {
		use = use.Merge(relay.KeyUse{Hour: n.hour}.At(now, key))
	}
	return use
}

// Run stores what was noted, warns of keys that expire soon, and removes what clients that are gone
// have left, until ctx ends. What it cannot store now it stores with the next round.
func (u *Uses) Run(ctx context.Context, keys *Keys, events Events) {
	var following sync.WaitGroup
	defer following.Wait()
	following.Go(func() { u.docs.Run(ctx) })
	for _, ready := range []<-chan struct{}{u.docs.Ready(), keys.Ready()} {
		select {
		case <-ready:
		case <-ctx.Done():
			return
		}
	}
	for backoff.Sleep(ctx, u.c.Every); ctx.Err() == nil; backoff.Sleep(ctx, u.c.Every) {
		if err := errors.Join(u.keep(ctx, keys), u.warn(ctx, keys, events), u.sweep(ctx, keys)); err != nil &&
			ctx.Err() == nil {
			u.c.Log.Log(ctx, store.Level(err, slog.LevelWarn),
				"the uses of API keys could not be kept; it is tried again", "error", err)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastUses)
	defer cancel()
	if err := u.keep(last, keys); err != nil {
		u.c.Log.Log(last, store.Level(err, slog.LevelWarn), "the last uses of API keys were not stored", "error", err)
	}
}

// keep stores what was noted.
func (u *Uses) keep(ctx context.Context, keys *Keys) error {
	changes := map[string]map[string]relay.KeyUse{}
	u.mu.Lock()
	for key, n := range u.noted {
		client, known := keys.Client(n.client)
		switch {
		case !known || client.Generation != n.generation || !client.HasKey(key):
			delete(u.noted, key)
		case !n.stored:
			if changes[n.client] == nil {
				changes[n.client] = map[string]relay.KeyUse{}
			}
			changes[n.client][key] = relay.KeyUse{Hour: n.hour}
		}
	}
	u.mu.Unlock()
	stored, err := u.merge(ctx, keys, changes)
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, client := range stored {
		for key, use := range changes[client] {
			if n := u.noted[key]; n.hour == use.Hour {
				n.stored = true
				u.noted[key] = n
			}
		}
	}
	return err
}

// merge stores changes of clients' keys beside what others have stored, and returns the clients for
// which that succeeded.
func (u *Uses) merge(
	ctx context.Context, keys *Keys, changes map[string]map[string]relay.KeyUse,
) (stored []string, failed error) {
	left := slices.Sorted(maps.Keys(changes))
	for range usesTries {
		var again []string
		failed = nil
		for some := range slices.Chunk(left, usesAtOnce) {
			var puts []store.Put[relay.KeyUses]
			for _, id := range some {
				client, known := keys.Client(id)
				e, there := u.docs.Get(id)
				doc, changed := merged(client, e.Value, changes[id], u.c.Now())
				switch {
				case !known || there && !changed:
					stored = append(stored, id)
				default:
					puts = append(puts, store.Put[relay.KeyUses]{Key: id, Value: doc, Revision: e.Revision})
				}
			}
			for i, r := range u.c.Bucket.PutAll(ctx, puts) {
				id := puts[i].Key
				switch {
				case r.Err == nil:
					u.docs.Put(id, puts[i].Value, r.Seq)
					stored = append(stored, id)
				case errors.Is(r.Err, store.ErrConflict), errors.Is(r.Err, store.ErrUnclear):
					again, failed = append(again, id), r.Err
					_, _, _ = u.docs.Read(ctx, id) // on an error the next try is refused, too
				default:
					failed = r.Err
				}
			}
		}
		if left = again; len(left) == 0 || ctx.Err() != nil {
			break
		}
	}
	if failed != nil {
		failed = fmt.Errorf("store the uses of keys: %w", failed)
	}
	return stored, failed
}

// merged returns the document of a client with changes, and whether that is another one. Keys that
// the client does not have stay: this copy of it may lag behind the replica that has noted them.
func merged(
	client relay.Client, doc relay.KeyUses, changes map[string]relay.KeyUse, now time.Time,
) (next relay.KeyUses, changed bool) {
	next = relay.KeyUses{Generation: client.Generation, Keys: map[string]relay.KeyUse{}}
	if doc.Generation == client.Generation {
		maps.Copy(next.Keys, doc.Keys)
	}
	for _, key := range client.Keys {
		use := next.Keys[key.ID].At(now, key).Merge(changes[key.ID])
		if next.Keys[key.ID] = use; use == (relay.KeyUse{}) {
			delete(next.Keys, key.ID)
		}
	}
	return next, doc.Generation != next.Generation || !maps.Equal(doc.Keys, next.Keys)
}

// warn publishes which keys expire soon, if it is time for that by the clock of the store, too. An
// event is stored before it is noted that it was: a crash in between is found in the log. What a clock
// that was ahead has noted, and cannot be true yet, is removed: once it could be, it would be believed.
func (u *Uses) warn(ctx context.Context, keys *Keys, events Events) error {
	changes, published := map[string]map[string]relay.KeyUse{}, 0
	var failed error
	for _, id := range keys.Clients().Keys("") {
		client, known := keys.Client(id)
		if !known {
			continue
		}
		if e, there := u.docs.Get(id); there && e.Value.Generation == client.Generation {
			if _, untrue := merged(client, e.Value, nil, u.c.Now()); untrue {
				changes[id] = map[string]relay.KeyUse{}
			}
		}
		for _, key := range client.Keys {
			now := u.c.Now()
			days, since := key.Warning(now)
			if use := u.of(client, key); days == 0 || use.Warned > 0 && use.Warned <= days {
				continue
			}
			if published++; published > warningsAtOnce {
				break
			}
			due, err := u.reached(ctx, client, since)
			if err == nil && due {
				err = publish(ctx, events, client, key, days, since)
			}
			if err != nil {
				failed = err
			}
			if err != nil || !due {
				continue
			}
			if changes[id] == nil {
				changes[id] = map[string]relay.KeyUse{}
			}
			changes[id][key.ID] = relay.KeyUse{Warned: days}
		}
	}
	_, err := u.merge(ctx, keys, changes)
	return errors.Join(failed, err)
}

// reached reports whether the store's clock, too, has come to a time. This replica's may be ahead. The
// client's document is written again for that, as the store notes when it takes one.
func (u *Uses) reached(ctx context.Context, client relay.Client, at time.Time) (bool, error) {
	e, _ := u.docs.Get(client.ID)
	doc, _ := merged(client, e.Value, nil, u.c.Now())
	revision, err := u.c.Bucket.Save(ctx, client.ID, doc, e.Revision)
	if errors.Is(err, store.ErrConflict) { // another replica has written it; the next round sees that
		_, _, err = u.docs.Read(ctx, client.ID)
		return false, err
	}
	if err != nil {
		return false, fmt.Errorf("ask the store for the time: %w", err)
	}
	u.docs.Put(client.ID, doc, revision)
	first, err := u.c.Bucket.Since(ctx, at.Add(-relay.ClocksDiffer))
	return err == nil && first <= revision, err
}

func publish(ctx context.Context, events Events, client relay.Client, key relay.Key, days int, since time.Time) error {
	expires := key.ExpiresAt.UTC().Format(time.RFC3339)
	within := "a day"
	if days > 1 {
		within = fmt.Sprintf("%d days", days)
	}
	message := fmt.Sprintf("API key %s of client %s expires at %s, within %s. Make another one and replace it.",
		key.ID, client.ID, expires, within)
	details := map[string]any{
		"client": client.ID, "clientGeneration": client.Generation, "key": key.ID, "role": string(key.Role),
		"expiresAt": expires, "days": days,
	}
	err := events.Once(ctx, relay.NoSite, relay.KindKeyExpiring, client.ID, message, details,
		since.Add(-relay.ClocksDiffer), "clientGeneration", "key", "days")
	if err != nil {
		return fmt.Errorf("warn of key %s of client %s: %w", key.ID, client.ID, err)
	}
	return nil
}

// sweep removes the documents of clients that are gone, and what is noted of keys that are.
func (u *Uses) sweep(ctx context.Context, keys *Keys) error {
	for _, id := range u.docs.Keys("") {
		e, there := u.docs.Get(id)
		if client, known := keys.Client(id); !there || known && client.Generation == e.Value.Generation &&
			len(without(e.Value, client).Keys) == len(e.Value.Keys) {
			continue
		}
		client, _, err := u.c.Clients.GetAtLeader(ctx, id) // the copy may lag
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("look for client %s, whose keys were used: %w", id, err)
		}
		if err == nil && client.Generation == e.Value.Generation {
			left, revision := without(e.Value, client), e.Revision
			if len(left.Keys) < len(e.Value.Keys) {
				revision, err = u.c.Bucket.Update(ctx, id, left, e.Revision)
			}
			if err == nil {
				u.docs.Put(id, left, revision)
			}
		} else if err = u.c.Bucket.Delete(ctx, id, e.Revision); err == nil {
			u.docs.Removed(id, e.Revision)
		}
		if err != nil && !errors.Is(err, store.ErrConflict) { // another replica has removed or written it
			return fmt.Errorf("remove the uses of the keys of client %s: %w", id, err)
		}
	}
	return nil
}

// without returns a document without keys that a client does not have.
func without(doc relay.KeyUses, client relay.Client) relay.KeyUses {
	left := relay.KeyUses{Generation: client.Generation, Keys: map[string]relay.KeyUse{}}
	if doc.Generation == client.Generation {
		for id, use := range doc.Keys {
			if client.HasKey(id) {
				left.Keys[id] = use
			}
		}
	}
	return left
}
