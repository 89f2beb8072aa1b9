package httpapi

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// statuses are those that a cursor of a delivery names by their index: where the delivery stood at
// the end of a page.
var statuses = []DeliveryStatus{
	DeliveryStatusPending, DeliveryStatusRetrying, DeliveryStatusDelivered, DeliveryStatusFailed, DeliveryStatusSkipped,
	DeliveryStatusExpired,
}

// getDelivery implements GET /v1/callbacks/{id}/deliveries/{eventId}.
func (a *API) getDelivery(
	ctx context.Context, c caller, id Id, eventID EventId, params GetDeliveryParams,
) (reply, error) {
	cb, _, err := a.callback(ctx, c, id)
	if err != nil {
		return reply{}, err
	}
	ev, err := a.find(ctx, c, eventID)
	if err != nil {
		return reply{}, err
	}
	at, err := readPosition('g', params.After, 3)
	if err != nil {
		return reply{}, err
	}
	if at[2] >= uint64(len(statuses)) {
		return reply{}, badParameter("after", "is not a cursor of this list")
	}
	t := a.trailOf(c, []store.Stored{ev}, &cb)
	whole, err := t.search(ctx, trailPosition{at[0], at[1]})
	if err != nil {
		return reply{}, err
	}
	records := t.found[deliveryOf{cb.ID, ev.Seq}]
	view := a.delivery(cb, eventID, ev.Order, statuses[at[2]], records)
	if len(records) == 0 && whole && params.After == "" {
		matched, err := a.delivers(ctx, cb, ev)
		if err != nil {
			return reply{}, err
		}
		if !matched {
			return reply{}, notFound()
		}
		view.Status, view.Reason = t.untouched(cb, ev)
	}
	if !whole {
		view.Next = position('g', t.at.from, t.at.below, uint64(slices.Index(statuses, view.Status)))
	}
	return reply{body: view}, nil
}

// delivers reports whether an event without a record should be delivered to the callback.
func (a *API) delivers(ctx context.Context, cb relay.Callback, ev store.Stored) (bool, error) {
	if ev.Seq <= cb.StartSeq {
		return false, nil
	}
	owner, _, err := a.c.Store.Clients.Get(ctx, cb.Client)
	if errors.Is(err, store.ErrNotFound) || err == nil && !cb.BelongsTo(owner) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return isFor(cb, owner, ev), nil
}

// goneSlack is the largest difference between the end of an attempt that got a 410 and the time
// recorded for the disabling.
const goneSlack = time.Second

// listedStatus reports whether a delivery is listed at this record, and returns its status. A
// delivery being retried is listed at the last attempt that counted; probes do not count, and may
// come after it. In mode latest that may be of any event of its order's lane. A delivery that ended
// with 410, which has one attempt and no lane, waits until the callback is resumed, unless it was
// skipped meanwhile.
func listedStatus(rec relay.AttemptRecord, lane *cursor.Lane, disabled *relay.Disabled) (DeliveryStatus, bool) {
	if rec.Closing != "" || rec.Replay != "" { // what a replay has not delivered stands as it did before
		return DeliveryStatus(rec.Closing), rec.Closing != ""
	}
	if lane != nil {
		waits := slices.Contains(lane.Entries, rec.Seq) // mode latest tries a newer one than the first
		return DeliveryStatusRetrying, waits && !rec.Probe && rec.Number >= lane.Attempts
	}
	ended := rec.At.Add(time.Duration(rec.DurationMillis * float64(time.Millisecond)))
	gone := disabled != nil && !rec.Late && rec.Status == http.StatusGone && ended.After(disabled.At.Add(-goneSlack))
	return DeliveryStatusRetrying, gone
}

func (a *API) summary(cb relay.Callback, rec relay.AttemptRecord, at time.Time, status DeliveryStatus) DeliverySummary {
	s := DeliverySummary{
		Callback: cb.ID, Site: rec.Site, Type: rec.Type, RecordedAt: at.UTC(), Event: rec.Event, Order: rec.Order,
		Status: status, Reason: rec.Reason, Attempts: rec.Number,
		At: rec.At, NextAttemptAt: timeOf(rec.NextAttemptAt),
	}
	if rec.Number > 0 {
		s.LastAttempt = a.attempt(cb, rec)
	}
	return s
}

// delivery returns a delivery that stood so before these records.
func (a *API) delivery(
	cb relay.Callback, event, order string, before DeliveryStatus, records []relay.AttemptRecord,
) Delivery {
	d := Delivery{Event: event, Order: order, Status: before, Attempts: []Attempt{}}
	delivered := before != DeliveryStatusPending // by other means than a replay, or to be
	closed := before == DeliveryStatusFailed || before == DeliveryStatusSkipped || before == DeliveryStatusExpired
	for _, rec := range records {
		ended := cmp.Or(rec.Closing, rec.Replayed)
		switch delivered = delivered || rec.Replay == "" || rec.Closing != ""; {
		case delivered && rec.Replay != "" && rec.Closing == "": // it stands as it did before
		case ended == "" && closed: // it was under way when the delivery ended, and changes nothing in that
		case ended == "":
			d.Status, d.Reason, d.NextAttemptAt = DeliveryStatusRetrying, "", timeOf(rec.NextAttemptAt)
		default:
			closed = closed || rec.Replay == ""
			d.Status, d.Reason, d.NextAttemptAt = DeliveryStatus(ended), rec.Reason, time.Time{}
		}
		if rec.Number > 0 {
			d.Attempts = append(d.Attempts, a.attempt(cb, rec))
		}
	}
	return d
}
