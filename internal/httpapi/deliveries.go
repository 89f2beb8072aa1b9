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

// maxRecords bounds how many attempt records one page of deliveries examines.
const maxRecords = 5_000

// ListDeliveries implements GET /v1/callbacks/{id}/deliveries. A delivery is listed at its closing
// record. One that is still being retried is listed at its last attempt, according to its order's
// lane.
func (a *API) ListDeliveries(w http.ResponseWriter, r *http.Request, id Id, params ListDeliveriesParams) {
	a.do(w, r, func(ctx context.Context, c caller) (reply, error) {
		cb, _, err := a.callback(ctx, c, id)
		if err != nil {
			return reply{}, err
		}
		from, skip := uint64(0), uint64(0)
		if params.After != "" {
			at, err := readPosition('d', params.After, 2)
			if err != nil {
				return reply{}, err
			}
			from, skip = at[0], at[1]
		}
		lanes, err := a.lanes(ctx, cb)
		if err != nil {
			return reply{}, err
		}
		limit, looked := cmp.Or(params.Limit, defaultLimit), 0
		list, seen := DeliveryList{Items: []DeliverySummary{}}, map[uint64]bool{}
		visit := func(seq uint64, _ time.Time, b relay.AttemptBatch) bool {
			for i := len(b.Records) - 1 - int(min(skip, uint64(len(b.Records)))); i >= 0; i-- {
				if len(list.Items) == limit || looked == maxRecords {
					list.Next = position('d', seq, uint64(len(b.Records)-1-i))
					return false
				}
				looked++
				rec := b.Records[i]
				status, listed := listedStatus(rec, lanes, cb.Disabled)
				if !listed || seen[rec.Seq] {
					continue
				}
				seen[rec.Seq] = true // what is older stands for nothing: a replay has delivered it since
				if len(params.Status) > 0 && !slices.Contains(params.Status, status) {
					continue
				}
				list.Items = append(list.Items, a.summary(cb, rec, status))
			}
			skip = 0
			return true
		}
		err = a.c.Store.Attempts.Walk(ctx, cb.ID, cb.Generation, from, visit)
		return reply{body: list}, err
	})
}

// GetDelivery implements GET /v1/callbacks/{id}/deliveries/{eventId}.
func (a *API) GetDelivery(w http.ResponseWriter, r *http.Request, id Id, eventID EventId) {
	a.do(w, r, func(ctx context.Context, c caller) (reply, error) {
		cb, _, err := a.callback(ctx, c, id)
		if err != nil {
			return reply{}, err
		}
		ev, found, err := a.find(ctx, c, eventID)
		if err != nil {
			return reply{}, err
		}
		if !found {
			return reply{}, notFound()
		}
		records, err := a.records(ctx, cb, ev)
		if err != nil {
			return reply{}, err
		}
		if len(records) == 0 {
			matched, err := a.delivers(ctx, cb, ev)
			if err != nil {
				return reply{}, err
			}
			if !matched {
				return reply{}, notFound()
			}
		}
		return reply{body: a.delivery(cb, eventID, ev.Order, records)}, nil
	})
}

// records returns the records of one delivery, oldest first.
func (a *API) records(ctx context.Context, cb relay.Callback, ev store.Stored) ([]relay.AttemptRecord, error) {
	var records []relay.AttemptRecord
	visit := func(_ uint64, stored time.Time, b relay.AttemptBatch) bool {
		for i := len(b.Records) - 1; i >= 0; i-- {
			if b.Records[i].Seq == ev.Seq {
				records = append(records, b.Records[i])
			}
		}
		return stored.After(ev.Time) && ctx.Err() == nil // no attempt is older than the event
	}
	err := a.c.Store.Attempts.Walk(ctx, cb.ID, cb.Generation, 0, visit)
	slices.Reverse(records)
	return records, errors.Join(err, ctx.Err())
}

// delivers reports whether an event without a record should be delivered to the callback.
func (a *API) delivers(ctx context.Context, cb relay.Callback, ev store.Stored) (bool, error) {
	if ev.Seq <= cb.StartSeq || !cb.Filter.Matches(ev.Site, ev.Type, ev.Order) {
		return false, nil
	}
	if kind, operational := relay.KindOf(ev.Type); operational && kind.NotToItself() && ev.Order == cb.ID {
		return false, nil
	}
	owner, _, err := a.c.Store.Clients.Get(ctx, cb.Client)
	if errors.Is(err, store.ErrNotFound) || err == nil && !cb.BelongsTo(owner) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return caller{client: owner}.maySeeEvent(ev), nil
}

// lanes returns the orders of a callback that are being retried.
func (a *API) lanes(ctx context.Context, cb relay.Callback) (map[string]cursor.Lane, error) {
	entries, err := a.c.Store.Lanes.All(ctx, store.CallbackCursor(cb.ID), a.unreadable("lane"))
	if err != nil {
		return nil, err
	}
	lanes := make(map[string]cursor.Lane, len(entries))
	for _, e := range entries {
		if e.Value.Generation == cb.Generation {
			lanes[e.Value.Order] = e.Value
		}
	}
	return lanes, nil
}

// goneSlack is the largest difference between the end of an attempt answered with 410 and the time
// recorded for the disabling.
const goneSlack = time.Second

// listedStatus reports whether a delivery is listed at this record, and returns its status. A
// delivery being retried is listed at the last attempt that counted; probes do not count, and may
// come after it. A delivery answered with 410, which has one attempt and no lane, waits until the
// callback is resumed.
func listedStatus(
	rec relay.AttemptRecord, lanes map[string]cursor.Lane, disabled *relay.Disabled,
) (DeliveryStatus, bool) {
	if rec.Closing != "" || rec.Replay != "" { // what a replay has not delivered stands as it did before
		return DeliveryStatus(rec.Closing), rec.Closing != ""
	}
	if lane, retrying := lanes[rec.Order]; retrying {
		head := len(lane.Entries) > 0 && lane.Entries[0] == rec.Seq
		return DeliveryStatusRetrying, head && !rec.Probe && rec.Number >= lane.Attempts
	}
	ended := rec.At.Add(time.Duration(rec.DurationMillis * float64(time.Millisecond)))
	gone := disabled != nil && rec.Status == http.StatusGone && ended.After(disabled.At.Add(-goneSlack))
	return DeliveryStatusRetrying, gone
}

func (a *API) summary(cb relay.Callback, rec relay.AttemptRecord, status DeliveryStatus) DeliverySummary {
	s := DeliverySummary{
		Event: rec.Event, Order: rec.Order, Status: status, Reason: rec.Reason, Attempts: rec.Number,
		At: rec.At, NextAttemptAt: timeOf(rec.NextAttemptAt),
	}
	if rec.Number > 0 {
		s.LastAttempt = a.attempt(cb, rec)
	}
	return s
}

func (a *API) delivery(cb relay.Callback, event, order string, records []relay.AttemptRecord) Delivery {
	d := Delivery{Event: event, Order: order, Status: DeliveryStatusPending, Attempts: []Attempt{}}
	delivered := false // by other means than a replay, or to be
	for _, rec := range records {
		ended := cmp.Or(rec.Closing, rec.Replayed)
		switch delivered = delivered || rec.Replay == "" || rec.Closing != ""; {
		case delivered && rec.Replay != "" && rec.Closing == "": // it stands as it did before
		case ended == "":
			d.Status, d.NextAttemptAt = DeliveryStatusRetrying, timeOf(rec.NextAttemptAt)
		default:
			d.Status, d.Reason, d.NextAttemptAt = DeliveryStatus(ended), rec.Reason, time.Time{}
		}
		if rec.Number > 0 {
			d.Attempts = append(d.Attempts, a.attempt(cb, rec))
		}
	}
	return d
}
