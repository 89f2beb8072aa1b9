package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// notReadFor is how long a notification may wait for its order, as for the alert.
const notReadFor = 15 * time.Minute

// unreadRemedy is for orders that the vendor does not give.
const unreadRemedy = "look for \"order cannot be read yet\" in the log, and give the correlation_id to the vendor's " +
	"service desk; they are tried again without you"

// waits is what the store has of one connection's notifications that wait.
type waits struct {
	connection relay.Connection
	position   uint64      // all entries at or below it are settled or in a lane
	failing    bool        // the last order that was tried could not be read
	lane       cursor.Lane // of the order that has waited longest
	lanes      int         // orders that have waited for too long
}

// notifications looks for those whose orders cannot be read, and those that nobody reads.
func (d *Doctor) notifications(ctx context.Context) []Check {
	known := func(string, error) {} // what cannot be decoded is found where connections are looked at, or is a lane's
	all, err := d.c.Store.Connections.All(ctx, "", known)
	if err != nil {
		return []Check{Unknown(Connections, "", "they cannot be read: %v", err)}
	}
	of, ids, things := map[string]*waits{}, []string{}, []*waits{}
	for _, e := range all {
		w := &waits{connection: e.Value}
		of[e.Value.ID], ids, things = w, append(ids, e.Value.ID), append(things, w)
	}
	var bad unreadable
	heads, err := d.c.Store.Inbox.Heads(ctx, ids) // before the cursors, which go on meanwhile
	if err != nil {
		return []Check{Unknown(Connections, "", "their notifications cannot be looked at: %v", err)}
	}
	cursors, err := d.c.Store.Cursors.All(ctx, store.InboxCursors.Everywhere(), bad.add)
	if err != nil {
		return []Check{Unknown(Connections, "", "how far their notifications are resolved cannot be read: %v", err)}
	}
	lanes, err := d.c.Store.Lanes.All(ctx, store.InboxCursors.Everywhere(), bad.add)
	if err != nil {
		return []Check{Unknown(Connections, "", "which orders cannot be read is not to be found out: %v", err)}
	}
	for _, e := range cursors {
		if w := of[connectionOf(e.Key)]; w != nil && e.Value.Generation == w.connection.Generation {
			w.position, w.failing = e.Value.Position, !e.Value.Health.FailingSince.IsZero()
		}
	}
	for _, e := range lanes {
		if w := of[connectionOf(e.Key)]; w != nil && e.Value.Generation == w.connection.Generation {
			w.add(e.Value)
		}
	}
	waiting, left := findings(ctx, things, func(w *waits) (Check, bool) {
		return d.waiting(ctx, w, heads[w.connection.ID])
	})
	found := append(bad.found("cursors"), waiting...)
	if left > 0 {
		found = append(found, Unknown(Connections, "", "the notifications of %s not looked at: there was no time",
			plural(left, "was", "were")))
	}
	return found
}

func connectionOf(key string) string {
	_, id, _, _ := store.ParseCursorKey(key)
	return id
}

// add takes an order that is being tried again.
func (w *waits) add(l cursor.Lane) {
	if l.FailingSince.IsZero() || time.Since(l.FailingSince) < notReadFor {
		return
	}
	if w.lanes++; w.lane.FailingSince.IsZero() || l.FailingSince.Before(w.lane.FailingSince) {
		w.lane = l
	}
}

// waiting judges what waits of one connection.
func (d *Doctor) waiting(ctx context.Context, w *waits, head uint64) (Check, bool) {
	id := w.connection.ID
	if w.lanes > 0 {
		return Wrong(Connections, id, fmt.Sprintf("%s cannot be read, the first since %s: %s",
			plural(w.lanes, "order", "orders"),
			w.lane.FailingSince.UTC().Format(time.RFC3339), printable(w.lane.Reason)), unreadRemedy), true
	}
	from, _ := relay.UnpackEntry(w.position)
	if w.position == relay.PackEntry(from, relay.LastIndex) {
		from++
	}
	if head < from || head == 0 {
		return Check{}, false
	}
	pages, _, err := d.c.Store.Inbox.Scan(ctx, id, from, 1)
	if err != nil {
		return Unknown(Connections, id, "its notifications cannot be read: %v", err), true
	}
	if len(pages) == 0 || pages[0].Generation != w.connection.Generation ||
		time.Since(pages[0].ReceivedAt) < notReadFor {
		return Check{}, false
	}
	remedy := "look in the log of the replica that owns it; if it says nothing, restart that replica"
	if w.failing {
		remedy = unreadRemedy
	}
	return Wrong(Connections, id, fmt.Sprintf("notifications that were received at %s are not resolved",
		pages[0].ReceivedAt.UTC().Format(time.RFC3339)), remedy), true
}
