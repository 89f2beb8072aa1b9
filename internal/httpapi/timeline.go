package httpapi

import (
	"context"
	"encoding/json"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// maxTimeline is how many events one page of a timeline has.
const maxTimeline = 20

// listEventDeliveries implements GET /v1/events/{eventId}/deliveries.
func (a *API) listEventDeliveries(ctx context.Context, c caller, eventID EventId, params ListEventDeliveriesParams) (reply, error) {
	if err := a.knowCallbacks(ctx); err != nil {
		return reply{}, err
	}
	ev, found, err := a.find(ctx, c, eventID)
	if err != nil {
		return reply{}, err
	}
	if !found {
		return reply{}, notFound()
	}
	t := a.trailOf(c, []store.Stored{ev}, nil)
	next, err := t.read(ctx, params.After)
	if err != nil {
		return reply{}, err
	}
	// What was found on pages before is not known here: only a search that began with the event has
	// seen all.
	return reply{body: EventDeliveries{Items: t.deliveries(ev, next == "" && params.After == ""), Next: next}}, nil
}

// getTimeline implements GET /v1/orders/{orderId}/timeline.
func (a *API) getTimeline(ctx context.Context, c caller, orderID OrderPath, params GetTimelineParams) (reply, error) {
	if err := a.knowCallbacks(ctx); err != nil {
		return reply{}, err
	}
	o, err := a.order(ctx, c, orderID, params.Site)
	if err != nil {
		return reply{}, err
	}
	var from, attempts uint64 // positions in the log of events and, if the page before did not come to an end, of attempts
	if params.After != "" {
		at, err := readPosition('m', params.After, 2)
		if err != nil {
			return reply{}, err
		}
		from, attempts = at[0], at[1]
	}
	events, more, err := a.c.Store.Events.Scan(ctx, from, []string{topology.OrderFilter(o.Site, o.ID)}, maxTimeline)
	if err != nil {
		return reply{}, err
	}
	list := Timeline{Items: make([]TimelineItem, 0, len(events))}
	if len(events) == 0 {
		return reply{body: list}, nil
	}
	t, after := a.trailOf(c, events, nil), ""
	if attempts > 0 {
		after = position('t', attempts)
	}
	next, err := t.read(ctx, after)
	if err != nil {
		return reply{}, err
	}
	for _, ev := range events {
		list.Items = append(list.Items, timelineItem(ev, t.deliveries(ev, next == "" && after == "")))
	}
	switch {
	case next != "":
		at, err := readPosition('t', next, 1)
		if err != nil {
			return reply{}, err
		}
		list.Next = position('m', events[0].Seq, at[0])
	case more:
		list.Next = position('m', events[len(events)-1].Seq+1, 0)
	}
	return reply{body: list}, nil
}

func timelineItem(ev store.Stored, deliveries []CallbackDelivery) TimelineItem {
	item := TimelineItem{Type: ev.Type, PublishedAt: ev.Time.UTC(), Deliveries: deliveries}
	var event relay.Event
	var data relay.OrderData
	if json.Unmarshal(ev.Body, &event) != nil {
		return item
	}
	item.Event, item.Sequence = event.ID, event.Sequence
	if json.Unmarshal(event.Data, &data) != nil {
		return item
	}
	item.Status, item.Origin = relay.StatusOf(data.Order), string(data.Origin)
	if data.PreviousStatus != nil {
		item.PreviousStatus = *data.PreviousStatus
	}
	if n := data.Notification; n != nil {
		if n.ID != nil {
			item.Notification.Id = *n.ID
		}
		item.Notification.Topic, item.Notification.CreatedAt, item.Notification.ReceivedAt = n.Topic, n.CreatedAt, n.ReceivedAt.UTC()
	}
	return item
}

// getStats implements GET /v1/callbacks/{id}/stats.
func (a *API) getStats(ctx context.Context, c caller, id Id, params GetStatsParams) (reply, error) {
	cb, _, err := a.callback(ctx, c, id)
	if err != nil {
		return reply{}, err
	}
	from := uint64(0)
	if params.After != "" {
		at, err := readPosition('s', params.After, 1)
		if err != nil {
			return reply{}, err
		}
		from = at[0]
	}
	limit := params.Limit
	if limit == 0 {
		limit = defaultHours
	}
	var hours []relay.Tally
	list := HourList{}
	read := 0
	err = a.c.Store.Attempts.Hours(ctx, cb.ID, cb.Generation, from, func(seq uint64, t relay.Tally) bool {
		switch {
		case t.Hour.Before(params.Since):
			return false
		case len(hours) == limit || read >= maxHours:
			list.Next = position('s', seq)
			return false
		case params.Until.IsZero() || t.Hour.Before(params.Until):
			hours = append(hours, t)
		}
		read++
		return true
	})
	list.Items = make([]Hour, len(hours))
	for i, t := range hours {
		list.Items[i] = hourView(t)
	}
	return reply{body: list}, err
}

const (
	defaultHours = 24
	// maxHours is how many hours one request reads, those after until included.
	maxHours = 1_500
)

func hourView(t relay.Tally) Hour {
	outcomes := t.Outcomes
	if outcomes == nil {
		outcomes = map[string]int{}
	}
	return Hour{
		Hour: t.Hour.UTC().Truncate(time.Hour), Attempts: t.Attempts(), Outcomes: outcomes,
		Delivered: t.Ends[relay.DeliveryDelivered], Failed: t.Ends[relay.DeliveryFailed],
		Skipped: t.Ends[relay.DeliverySkipped], Expired: t.Ends[relay.DeliveryExpired],
		P50Millis: t.Durations.Quantile(0.5), P95Millis: t.Durations.Quantile(0.95),
	}
}
