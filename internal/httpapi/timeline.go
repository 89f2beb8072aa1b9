package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// maxTimeline is how many events one page of a timeline has.
const maxTimeline = 20

// listEventDeliveries implements GET /v1/events/{eventId}/deliveries.
func (a *API) listEventDeliveries(
	ctx context.Context, c caller, eventID EventId, params ListEventDeliveriesParams,
) (reply, error) {
	if err := await(ctx, a.callbacks.Ready()); err != nil {
		return reply{}, err
	}
	ev, err := a.find(ctx, c, eventID)
	if err != nil {
		return reply{}, err
	}
	at, err := readPosition('t', params.After, 2)
	if err != nil {
		return reply{}, err
	}
	t := a.trailOf(c, []store.Stored{ev}, nil)
	whole, err := t.search(ctx, trailPosition{at[0], at[1]})
	if err != nil {
		return reply{}, err
	}
	// What was found on pages before is not known here: only a search that began with the event has
	// seen all.
	list := EventDeliveries{Items: t.deliveries(ev, whole && params.After == "")}
	if !whole {
		list.Next = position('t', t.at.from, t.at.below)
	}
	return reply{body: list}, nil
}

// getTimeline implements GET /v1/orders/{orderId}/timeline.
func (a *API) getTimeline(ctx context.Context, c caller, orderID OrderPath, params GetTimelineParams) (reply, error) {
	if err := await(ctx, a.callbacks.Ready()); err != nil {
		return reply{}, err
	}
	o, err := a.order(ctx, c, orderID, params.Site)
	if err != nil {
		return reply{}, err
	}
	at, err := readPosition('m', params.After, 3)
	if err != nil {
		return reply{}, err
	}
	// of events and, if the page before did not come to an end, of attempts
	from, attempts := at[0], trailPosition{at[1], at[2]}
	events, more, err := a.c.Store.Events.Scan(ctx, from, []string{topology.OrderFilter(o.Site, o.ID)}, maxTimeline)
	if err != nil {
		return reply{}, err
	}
	if len(events) == 0 {
		return reply{body: Timeline{Items: []TimelineItem{}}}, nil
	}
	t := a.trailOf(c, events, nil)
	whole, err := t.search(ctx, attempts)
	if err != nil {
		return reply{}, err
	}
	list := Timeline{Items: each.Of(events, func(ev store.Stored) TimelineItem {
		return timelineItem(ev, t.deliveries(ev, whole && attempts == trailPosition{}))
	})}
	switch {
	case !whole:
		list.Next = position('m', events[0].Seq, t.at.from, t.at.below)
	case more:
		list.Next = position('m', events[len(events)-1].Seq+1, 0, 0)
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
		item.Notification.Topic, item.Notification.CreatedAt, item.Notification.ReceivedAt = n.Topic,
			n.CreatedAt, n.ReceivedAt.UTC()
	}
	return item
}

// getStats implements GET /v1/callbacks/{id}/stats.
func (a *API) getStats(ctx context.Context, c caller, id Id, params GetStatsParams) (reply, error) {
	cb, _, err := a.callback(ctx, c, id)
	if err != nil {
		return reply{}, err
	}
	at, err := readPosition('s', params.After, 1)
	if err != nil {
		return reply{}, err
	}
	limit := cmp.Or(params.Limit, defaultHours)
	var hours []relay.Tally
	list := HourList{}
	read := 0
	err = a.c.Store.Attempts.Hours(ctx, cb.ID, cb.Generation, at[0], func(seq uint64, t relay.Tally) bool {
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
	list.Items = each.Of(hours, hourView)
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
