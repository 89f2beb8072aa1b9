package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Waiting is what the owner of a callback has made of a delivery that the caller wanted retried or skipped.
type Waiting struct {
	State relay.DeliveryPosition `json:"state"`
	// Earlier is the position of the earlier event of the order for which it waits.
	Earlier uint64 `json:"earlier,omitempty"`
}

// retryDelivery implements POST /v1/callbacks/{id}/deliveries/{eventId}/retry.
func (a *API) retryDelivery(
	ctx context.Context, c caller, id Id, eventID EventId, _ RetryDeliveryParams,
) (reply, error) {
	cb, client, ev, err := a.deliverable(ctx, c, id, eventID)
	if err != nil {
		return reply{}, err
	}
	if err := halted(cb); err != nil {
		return reply{}, err
	}
	if !isFor(cb, client, ev) {
		return reply{}, kindConflict.problem("The event no longer matches the callback's filter or its client's sites.")
	}
	waiting, err := a.c.Dispatcher.RetryDelivery(ctx, cb, ev.Seq, ev.Order)
	if err != nil {
		return reply{}, refuse("The owner of the callback does not answer.", err)
	}
	answer := DeliveryRetried{Event: eventID, Due: waiting.State == relay.PositionDue}
	made := ""
	switch waiting.State {
	case relay.PositionEarlier:
		return reply{}, a.earlier(ctx, waiting.Earlier)
	case relay.PositionUnread:
		return reply{}, kindConflict.problem("The callback has not reached the event yet: it is delivered in its turn.")
	case relay.PositionDue:
	default:
		doc, err := a.replayOne(ctx, exchangeOf(ctx).maker.id("replay"), cb, eventID, ev)
		if err != nil {
			return reply{}, err
		}
		answer.Replay, made = doc.ID, replayPath(doc)
	}
	return reply{status: http.StatusAccepted, made: made, body: answer}, nil
}

// skipDelivery implements POST /v1/callbacks/{id}/deliveries/{eventId}/skip.
func (a *API) skipDelivery(ctx context.Context, c caller, id Id, eventID EventId) (reply, error) {
	cb, _, ev, err := a.deliverable(ctx, c, id, eventID)
	if err != nil {
		return reply{}, err
	}
	waiting, err := a.c.Dispatcher.SkipDelivery(ctx, cb, ev.Seq, ev.Order)
	if err != nil {
		return reply{}, refuse("The owner of the callback does not answer.", err)
	}
	switch waiting.State {
	case relay.PositionSkipped:
		return reply{status: http.StatusNoContent}, nil
	case relay.PositionUnread:
		return reply{}, kindConflict.problem("The callback has not reached the event yet: it can be skipped once it " +
			"waits for its turn.")
	default:
		return reply{}, kindConflict.problem("The delivery does not wait: it has ended.")
	}
}

// deliverable returns a callback that the caller may change, its client, and an event that is, or
// may be, delivered to it.
func (a *API) deliverable(
	ctx context.Context, c caller, id, eventID string,
) (cb relay.Callback, client relay.Client, ev store.Stored, err error) {
	if cb, client, err = a.replayable(ctx, c, id); err != nil {
		return cb, client, ev, err
	}
	ev, err = a.find(ctx, c, eventID)
	if err != nil || isFor(cb, client, ev) {
		return cb, client, ev, err
	}
	done, err := a.reads.soon(ctx, c.key.ID) // it reads much, as a read may
	if err != nil {
		return cb, client, ev, err
	}
	defer done()
	t := a.trailOf(c, []store.Stored{ev}, &cb)
	if _, err = t.search(ctx, trailPosition{}); err == nil && len(t.found) == 0 {
		err = notFound()
	}
	return cb, client, ev, err
}

// earlier returns the problem for a delivery that waits for an earlier one of its order.
func (a *API) earlier(ctx context.Context, seq uint64) error {
	ev, err := a.c.Store.Events.Get(ctx, seq)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return kindConflict.problem("An earlier event of the order waits: %s. Retry that one.", memberOf(ev.Body, "id"))
}

// replayOne makes a replay of one event.
func (a *API) replayOne(
	ctx context.Context, id string, cb relay.Callback, eventID string, ev store.Stored,
) (relay.Replay, error) {
	doc, err := a.newReplay(ctx, id, cb)
	if err != nil {
		return doc, err
	}
	doc.Filter.Events, doc.Positions = []string{eventID}, []uint64{ev.Seq}
	doc.From, doc.Through, doc.Matched = ev.Seq, ev.Seq, new(1)
	return a.makeReplay(ctx, doc)
}
