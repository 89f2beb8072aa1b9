package httpapi

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// maxSitesOfOrder bounds how many sites are looked through that have an order of the same id. One is what the vendor has.
const maxSitesOfOrder = 100

// ListOrders implements GET /v1/orders.
func (a *API) ListOrders(w http.ResponseWriter, r *http.Request, params ListOrdersParams) {
	a.do(w, r, func(ctx context.Context, c caller) (reply, error) {
		if err := c.chosenSites(params.Sites); err != nil {
			return reply{}, err
		}
		from, limit := uint64(1), params.Limit
		if limit == 0 {
			limit = defaultLimit
		}
		if params.After != "" {
			at, err := readPosition('o', params.After, 1)
			if err != nil {
				return reply{}, err
			}
			from = at[0] + 1
		}
		sites := params.Sites
		if len(sites) == 0 && !c.admin && !c.client.AllSites {
			sites = c.client.Sites
			if len(sites) == 0 { // an empty choice would mean all
				return reply{body: OrderList{Items: []Order{}}}, nil
			}
		}
		list := OrderList{Items: []Order{}}
		for len(list.Items) < limit {
			entries, last, more, err := a.c.Store.Orders.Changed(ctx, from, keysOf(sites), limit-len(list.Items), a.unreadable("order"))
			if err != nil {
				return reply{}, err
			}
			for _, e := range entries {
				if c.maySeeSite(e.Value.Site) && (len(sites) == 0 || slices.Contains(sites, e.Value.Site)) {
					list.Items = append(list.Items, orderView(e.Value))
				}
			}
			from = last + 1
			if !more {
				return reply{body: list}, nil
			}
		}
		list.Next = position('o', from-1)
		return reply{body: list}, nil
	})
}

// GetOrder implements GET /v1/orders/{orderId}.
func (a *API) GetOrder(w http.ResponseWriter, r *http.Request, orderID OrderPath, params GetOrderParams) {
	a.do(w, r, func(ctx context.Context, c caller) (reply, error) {
		o, err := a.order(ctx, c, orderID, params.Site)
		return reply{body: orderView(o)}, err
	})
}

// ListOrderEvents implements GET /v1/orders/{orderId}/events.
func (a *API) ListOrderEvents(w http.ResponseWriter, r *http.Request, orderID OrderPath, params ListOrderEventsParams) {
	a.do(w, r, func(ctx context.Context, c caller) (reply, error) {
		o, err := a.order(ctx, c, orderID, params.Site)
		if err != nil {
			return reply{}, err
		}
		from, limit := uint64(1), params.Limit
		if limit == 0 {
			limit = defaultLimit
		}
		if params.After != "" {
			at, err := readPosition('h', params.After, 1)
			if err != nil {
				return reply{}, err
			}
			from = at[0] + 1
		}
		events, more, err := a.c.Store.Events.Scan(ctx, from, []string{topology.OrderFilter(o.Site, o.ID)}, limit)
		if err != nil {
			return reply{}, err
		}
		list := EventList{Items: make([]Event, 0, len(events))}
		for _, ev := range events {
			list.Items = append(list.Items, ev.Body)
		}
		if more && len(events) > 0 {
			list.Next = position('h', events[len(events)-1].Seq)
		}
		return reply{body: list}, nil
	})
}

// order finds an order that the caller may see.
func (a *API) order(ctx context.Context, c caller, id, site string) (relay.OrderState, error) {
	id = strings.ToLower(id)
	if site != "" {
		if !c.maySeeSite(site) {
			return relay.OrderState{}, notFound()
		}
		o, _, err := a.c.Store.Orders.Get(ctx, site+"."+id)
		return o, err
	}
	entries, _, _, err := a.c.Store.Orders.Changed(ctx, 1, []string{"*." + id}, maxSitesOfOrder, a.unreadable("order"))
	if err != nil {
		return relay.OrderState{}, err
	}
	entries = slices.DeleteFunc(entries, func(e store.Entry[relay.OrderState]) bool { return !c.maySeeSite(e.Value.Site) })
	switch len(entries) {
	case 0:
		return relay.OrderState{}, notFound()
	case 1:
		return entries[0].Value, nil
	}
	var sites []string
	for _, e := range entries {
		sites = append(sites, e.Value.Site)
	}
	slices.Sort(sites)
	return relay.OrderState{}, kindAmbiguous.problem("The sites are: %s.", strings.Join(sites, ", "))
}

// keysOf answers the keys of the orders of sites; none means all.
func keysOf(sites []string) []string {
	if len(sites) > maxFilters {
		return nil
	}
	sites = slices.Compact(slices.Sorted(slices.Values(sites)))
	keys := make([]string, len(sites))
	for i, site := range sites {
		keys[i] = site + ".>"
	}
	return keys
}

func orderView(o relay.OrderState) Order {
	return Order{
		Id: o.ID, Site: o.Site, Status: o.Status, Revision: o.Revision, Sequence: strconv.FormatUint(o.Sequence, 10),
		ReadAt: o.ReadAt, UpdatedAt: o.UpdatedAt, Order: o.Order,
	}
}
