package dispatcher

import (
	"context"
	"errors"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/store"
)

// listFrom is how many single callbacks are read one by one; for more the buckets are listed.
const listFrom = 16

// stored is what the store has of one callback's cursor.
type stored struct {
	doc        *store.Entry[cursor.Document]
	lanes      []store.Entry[cursor.Lane]
	unreadable bool // the document cannot be decoded
}

// epoch is the highest that has written anything of it.
func (s *stored) epoch() (highest uint64) {
	if s.doc != nil {
		highest = s.doc.Value.Epoch
	}
	for _, l := range s.lanes {
		highest = max(highest, l.Value.Epoch)
	}
	return highest
}

// highest is the highest position of the log that it says anything of.
func (s *stored) highest() (at uint64) {
	if s.doc != nil {
		at = s.doc.Value.Position
		if n := len(s.doc.Value.Done); n > 0 {
			at = max(at, s.doc.Value.Done[n-1][1])
		}
		if n := len(s.doc.Value.Skipped); n > 0 {
			at = max(at, s.doc.Value.Skipped[n-1].Seq)
		}
	}
	for _, l := range s.lanes {
		at = max(at, l.Value.OpenFrom)
		if n := len(l.Value.Entries); n > 0 {
			at = max(at, l.Value.Entries[n-1])
		}
	}
	return at
}

// read answers what the store has of the callbacks: listing the buckets once for many.
func (d *Dispatcher) read(ctx context.Context, of func(string) *tenure, whole map[int]*tenure, single map[string]*tenure) (map[string]*stored, error) {
	found := map[string]*stored{}
	get := func(id string) *stored {
		if found[id] == nil {
			found[id] = &stored{}
		}
		return found[id]
	}
	unreadable := func(key string, err error) {
		if _, id, _, ok := store.ParseCursorKey(key); ok && of(id) != nil {
			get(id).unreadable = true
			d.conf.Log.Error("a cursor cannot be read; its callback starts anew from where it was registered", "key", key, "error", err)
		}
	}
	if len(whole) == 0 && len(single) <= listFrom {
		for id := range single {
			v, rev, err := d.conf.Store.Cursors.Get(ctx, store.CallbackCursor(id))
			switch {
			case err == nil:
				get(id).doc = &store.Entry[cursor.Document]{Value: v, Revision: rev}
			case errors.Is(err, store.ErrNotFound):
				continue
			case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrUnclear):
				return nil, err
			default:
				unreadable(store.CallbackCursor(id), err)
			}
			if get(id).lanes, err = d.conf.Store.Lanes.All(ctx, store.CallbackCursor(id), d.badLane); err != nil {
				return nil, err
			}
		}
		return found, nil
	}
	documents, err := d.conf.Store.Cursors.All(ctx, store.CallbackCursors.Everywhere(), unreadable)
	if err != nil {
		return nil, err
	}
	for i := range documents {
		if _, id, _, ok := store.ParseCursorKey(documents[i].Key); ok && of(id) != nil {
			get(id).doc = &documents[i]
		}
	}
	lanes, err := d.conf.Store.Lanes.All(ctx, store.CallbackCursors.Everywhere(), d.badLane)
	if err != nil {
		return nil, err
	}
	for _, l := range lanes {
		if _, id, _, ok := store.ParseCursorKey(l.Key); ok && of(id) != nil {
			get(id).lanes = append(get(id).lanes, l)
		}
	}
	return found, nil
}

func (d *Dispatcher) badLane(key string, err error) {
	d.conf.Log.Error("a lane cannot be read; what waits in it is not delivered (replay the order)", "key", key, "error", err)
}

// verify asks the store about callbacks whose document and settings do not belong together: what this replica has heard of the settings
// may be some milliseconds old, and a former owner may know more. Gone are those that are not registered any more.
func (d *Dispatcher) verify(ctx context.Context, of func(string) *tenure, found map[string]*stored) (gone map[string]bool, err error) {
	gone = map[string]bool{}
	var ask []string
	d.settings.mu.Lock()
	for id, s := range found {
		cb, known := d.settings.callbacks[id]
		if !known || s.doc == nil || s.doc.Value.Generation != cb.Generation {
			ask = append(ask, id)
		}
	}
	for id := range d.settings.callbacks {
		if found[id] == nil && of(id) != nil && d.find(id) == nil {
			ask = append(ask, id)
		}
	}
	d.settings.mu.Unlock()
	clients := map[string]bool{}
	for _, id := range ask {
		cb, rev, err := d.conf.Store.Callbacks.Get(ctx, id)
		switch {
		case errors.Is(err, store.ErrNotFound):
			gone[id] = true
			continue
		case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrUnclear):
			return nil, err
		case err != nil:
			continue // it cannot be read: the settings before stay in force
		}
		d.settings.mu.Lock()
		d.settings.knowCallback(id, rev, &cb)
		d.settings.mu.Unlock()
		if clients[cb.Client] {
			continue
		}
		// A callback may be heard of before the client it belongs to.
		clients[cb.Client] = true
		client, rev, err := d.conf.Store.Clients.Get(ctx, cb.Client)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !cb.BelongsTo(client) { // made again since, and read from a node that lags
			now := d.conf.Store.Clients.Current(ctx, []string{cb.Client})[0]
			if now.Err != nil {
				return nil, now.Err
			}
			if now.Deleted {
				continue
			}
			client, rev = now.Value, now.Revision
		}
		d.settings.mu.Lock()
		d.settings.knowClient(cb.Client, rev, &client)
		d.settings.mu.Unlock()
	}
	return gone, nil
}

// erase removes what is stored of a callback's cursor, unless it is of the generation to keep, or of a later owner. What cannot be removed
// now is of a generation that nobody loads, and is removed when the shard is next taken on.
func (d *Dispatcher) erase(ctx context.Context, t *tenure, id string, s *stored, keep string) {
	if s == nil || !t.mayStore() {
		return
	}
	var lanes, documents []store.Removal
	for _, l := range s.lanes {
		if l.Value.Epoch <= t.lease.Epoch() && (keep == "" || l.Value.Generation != keep) {
			lanes = append(lanes, store.Removal{Key: l.Key, Revision: l.Revision})
		}
	}
	switch {
	case s.unreadable:
		documents = append(documents, store.Removal{Key: store.CallbackCursor(id)})
	case s.doc != nil && s.doc.Value.Epoch <= t.lease.Epoch() && (keep == "" || s.doc.Value.Generation != keep):
		documents = append(documents, store.Removal{Key: store.CallbackCursor(id), Revision: s.doc.Revision})
	}
	var err error
	for _, r := range append(d.conf.Store.Lanes.Remove(ctx, lanes), d.conf.Store.Cursors.Remove(ctx, documents)...) {
		if !errors.Is(r.Err, store.ErrConflict) { // on a conflict it has changed since: it is looked at when the shard is next taken on
			err = errors.Join(err, r.Err)
		}
	}
	if err != nil {
		d.complain("cursor of "+id, err)
	}
}
