package doctor

import (
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// An order that the vendor does not give, and a page that nobody has resolved, are named; what waits for a moment, is
// resolved or belongs to a connection that was deleted is not.
func TestNotificationsThatWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	well := func(*relay.Connection, *relay.TokenRecord, *relay.Poll) {}
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	page := func(connection string, received time.Time) uint64 {
		seq, err := w.store.Inbox.Append(t.Context(), store.Page{
			PollID: relay.NewID(), Connection: connection, Generation: "g", ReceivedAt: received, Body: []byte("[{}]"),
			Entries: 1,
		})
		w.put(err)
		return seq
	}
	resolved := func(connection string, seq uint64) {
		w.put(w.store.Cursors.Set(t.Context(), store.InboxCursors.Key(connection), cursor.Document{
			V: 1, Position: relay.PackEntry(seq, relay.LastIndex), Carried: cursor.Carried{Generation: "g"},
		}))
	}
	lane := func(connection, order, reason string, since time.Time) {
		w.put(w.store.Lanes.Set(t.Context(),
			store.LaneKey(store.InboxCursors.Key(connection), connection+"."+order), cursor.Lane{
				V: 1, Order: connection + "." + order, Generation: "g", FailingSince: since, Reason: reason,
				Entries: []uint64{1},
			}))
	}
	for _, id := range []string{"leeds", "york", "hull", "ripon"} {
		w.connect(id, well)
	}
	resolved("leeds", page("leeds", ago(time.Hour)))
	lane("leeds", "a", "unavailable", ago(time.Hour))
	lane("leeds", "b", "malformed", ago(30*time.Minute))
	lane("leeds", "c", "malformed", ago(time.Minute))
	page("york", ago(20*time.Minute))
	resolved("hull", page("hull", ago(time.Hour)))
	page("hull", ago(time.Minute))
	lane("gone", "a", "unavailable", ago(time.Hour))
	found, _ := w.examine()
	for _, want := range []string{"leeds: 2 orders cannot be read, the first since ", ": unavailable",
		"york: notifications that were received at "} {
		if !strings.Contains(found, want) {
			t.Errorf("%q is not found:\n%s", want, found)
		}
	}
	if strings.Contains(found, "hull") || strings.Contains(found, "gone") || strings.Contains(found, "ripon") {
		t.Errorf("what is well is found:\n%s", found)
	}
}
