package dispatcher

import (
	"context"
	"slices"
	"strconv"
	"sync"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// settings is the configuration as watched, of every callback whoever delivers to it. A change wakes the loops that
// it concerns; they read what holds then.
type settings struct {
	clients   *store.Mirror[relay.Client]
	callbacks *store.Mirror[relay.Callback] // in groups by shard
}

func newSettings(d *Dispatcher) settings {
	return settings{
		clients: store.NewMirror(store.MirrorConfig[relay.Client]{
			Bucket: d.conf.Store.Clients, Log: d.conf.Log, What: "client", OnChange: d.clientChanged,
		}),
		callbacks: store.NewMirror(store.MirrorConfig[relay.Callback]{
			Bucket: d.conf.Store.Callbacks, Log: d.conf.Log, What: "callback", OnChange: d.callbackChanged,
			Group: func(cb relay.Callback) string { return shardGroup(relay.ShardOf(cb.ID)) },
		}),
	}
}

func shardGroup(shard int) string { return strconv.Itoa(shard) }

// run follows the settings until ctx ends.
func (s *settings) run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { s.clients.Run(ctx) })
	both.Go(func() { s.callbacks.Run(ctx) })
	both.Wait()
}

// ofShard returns the ids of a shard's registered callbacks.
func (s *settings) ofShard(shard int) []string { return s.callbacks.Keys(shardGroup(shard)) }

// clientChanged has the callbacks of a changed client take what it means for them.
func (d *Dispatcher) clientChanged(before, now *store.Entry[relay.Client]) {
	changed := before
	if now != nil {
		changed = now
		if b := before; b != nil && b.Value.Generation == now.Value.Generation && b.Value.AllSites == now.Value.AllSites && slices.Equal(b.Value.Sites, now.Value.Sites) {
			return // its keys have changed, or how many callbacks it has
		}
	}
	for i := range d.loops {
		if l := d.loops[i].Load(); l != nil {
			l.send(clientChanged{changed.Key})
		}
	}
}

// callbackChanged has a changed callback's loop look at it.
func (d *Dispatcher) callbackChanged(before, now *store.Entry[relay.Callback]) {
	if now == nil {
		now = before
	}
	if l := d.loops[relay.ShardOf(now.Key)].Load(); l != nil {
		l.send(changed{now.Key})
	}
}

// present returns what holds of a callback now.
func (d *Dispatcher) present(id string) configured {
	cb, registered := d.settings.callbacks.Get(id)
	if !registered {
		return configured{id: id}
	}
	return configured{id, d.targetOf(cb)}
}

// targetOf returns a callback with its client as known.
func (d *Dispatcher) targetOf(cb store.Entry[relay.Callback]) (t *target) {
	client, known := d.settings.clients.Get(cb.Value.Client)
	if !known || !cb.Value.BelongsTo(client.Value) {
		t = newTarget(cb.Value, relay.Client{ID: cb.Value.Client})
		t.orphaned = true
	} else {
		t = newTarget(cb.Value, client.Value)
	}
	t.revisions = [2]uint64{cb.Revision, client.Revision}
	return t
}
