package dispatcher

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// event is one event of the log, shared by the ring and by every callback that has it at hand. It is never changed
// but for untaken.
type event struct {
	store.Stored
	id string // the CloudEvent's id: webhook-id
	// private: it is about a callback of this client, of this generation, and for nobody else.
	private                  bool
	client, clientGeneration string
	untaken                  int // shards that want it and have not taken it; the feed's
}

// privateKinds are about one callback.
var privateKinds = []relay.Kind{relay.KindCallbackDisabled, relay.KindCallbackRecovered, relay.KindDeliveriesExpired}

func newEvent(s store.Stored) *event {
	ev := &event{Stored: s, id: eventID(s.Body)}
	if slices.Contains(privateKinds, relay.Kind(strings.TrimPrefix(s.Type, relay.OperationalPrefix))) {
		var body struct {
			Data struct {
				Details struct{ Client, ClientGeneration string }
			}
		}
		_ = json.Unmarshal(s.Body, &body) // without a readable client it is nobody's
		ev.private, ev.client, ev.clientGeneration = true, body.Data.Details.Client, body.Data.Details.ClientGeneration
	}
	return ev
}

var idPrefix = []byte(`{"specversion":"1.0","id":"`)

// eventID reads the id of an event's bytes. The publisher always writes it as the second field, so it is mostly found
// without parsing what may be a large order; any other spelling is parsed.
func eventID(body []byte) string {
	if rest, ok := bytes.CutPrefix(body, idPrefix); ok {
		if id, _, ok := bytes.Cut(rest, []byte{'"'}); ok && !bytes.ContainsRune(id, '\\') {
			return string(id)
		}
	}
	var e struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(body, &e) // an event without a readable id cannot be signed for: its attempt reports it
	return e.ID
}
