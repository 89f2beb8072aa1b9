package delivery

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Event is one event of the log. It is never changed, so callbacks can share it.
type Event struct {
	store.Stored
	ID string // the CloudEvent's id: webhook-id
	// A private event is for client, of clientGeneration, and for nobody else. The callback about never gets it.
	private                         bool
	client, clientGeneration, about string
}

// EventOf returns what was read of the log as an Event.
func EventOf(s store.Stored) Event {
	ev := Event{Stored: s, ID: eventID(s.Body)}
	if kind, operational := relay.KindOf(s.Type); operational && kind.Private() {
		var body struct {
			Data struct {
				Details struct{ Client, ClientGeneration string }
			}
		}
		_ = json.Unmarshal(s.Body, &body) // without a readable client it is nobody's
		ev.private, ev.client, ev.clientGeneration = true, body.Data.Details.Client, body.Data.Details.ClientGeneration
		if kind.NotToItself() {
			ev.about = s.Order
		}
	}
	return ev
}

// EventOfHead returns an event of which only the head was read, without its body and its id: it is for those who ask
// whom it is for. Of some operational events only their body names it, which is read from the log; store.ErrNotFound
// if they have left it.
func EventOfHead(ctx context.Context, head store.Stored, log interface {
	Get(ctx context.Context, seq uint64) (store.Stored, error)
}) (Event, error) {
	kind, operational := relay.KindOf(head.Type)
	if !operational || !kind.Private() {
		return Event{Stored: head}, nil
	}
	whole, err := log.Get(ctx, head.Seq)
	if err != nil {
		return Event{}, err
	}
	ev := EventOf(whole)
	ev.Body = nil
	return ev, nil
}

// Recorded returns a record as one of an attempt to deliver the event, or of the end of its delivery.
func (ev *Event) Recorded(r relay.AttemptRecord) relay.AttemptRecord {
	r.Event, r.Seq, r.Order, r.Site, r.Type, r.Bytes = ev.ID, ev.Seq, ev.Order, ev.Site, ev.Type, len(ev.Body)
	return r
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
	_ = json.Unmarshal(body, &e) // without a readable id it cannot be signed, and its attempt reports that
	return e.ID
}
