package httpapi

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// maxSitesOfOrder bounds how many sites with an order of the same id are examined. The vendor has
// only one.
const maxSitesOfOrder = 100

// ListOrders implements GET /v1/orders.
func (a *API) ListOrders(w http.ResponseWriter, r *http.Request, params ListOrdersParams) {
	a.do(w, r, func(ctx context.Context, c caller) (reply, error) {
		if err := c.chosenSites(params.Sites); err != nil {
			return reply{}, err
		}
		from, limit := uint64(1), cmp.Or(params.Limit, defaultLimit)
		if params.After != "" {
			at, err := readPosition('o', params.After, 1)
			if err != nil {
				return reply{}, err
			}
			from = at[0] + 1
		}
		sites := params.Sites
		if len(sites) == 0 && !c.isAdmin() && !c.client.AllSites {
			sites = c.client.Sites
			if len(sites) == 0 { // an empty choice would mean all sites
				return reply{body: OrderList{Items: []Order{}}}, nil
			}
		}
		list := OrderList{Items: []Order{}}
		var read scan
		for keys := keysOf(sites); len(list.Items) < limit; {
			chunk := min(read.next(limit-len(list.Items)), limit-len(list.Items))
			if chunk == 0 {
				break
			}
			entries, last, more, err := a.c.Store.Orders.Changed(ctx, from, keys, chunk, a.unreadable("order"))
			if err != nil {
				return reply{}, err
			}
			for _, e := range entries {
				read.add(len(e.Value.Order))
				if c.maySeeSite(e.Value.Site) && (len(sites) == 0 || slices.Contains(sites, e.Value.Site)) {
					list.Items = append(list.Items, orderView(e.Value))
				}
			}
			from = last + 1
			if !more {
				return reply{body: list}, nil
			}
		}
		a.limits.charge(c.key.ID, read.messages-len(list.Items))
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
		from, limit := uint64(1), cmp.Or(params.Limit, defaultLimit)
		if params.After != "" {
			at, err := readPosition('h', params.After, 1)
			if err != nil {
				return reply{}, err
			}
			from = at[0] + 1
		}
		list := EventList{Items: []Event{}}
		var read scan
		for len(list.Items) < limit {
			chunk := min(read.next(limit-len(list.Items)), limit-len(list.Items))
			if chunk == 0 {
				break
			}
			events, more, err := a.c.Store.Events.Scan(ctx, from, []string{topology.OrderFilter(o.Site, o.ID)}, chunk)
			if err != nil {
				return reply{}, err
			}
			for _, ev := range events {
				read.add(len(ev.Body))
				list.Items, from = append(list.Items, ev.Body), ev.Seq+1
			}
			if !more || len(events) == 0 {
				return reply{body: list}, nil
			}
		}
		list.Next = position('h', from-1)
		return reply{body: list}, nil
	})
}

// order returns an order that the caller may see.
func (a *API) order(ctx context.Context, c caller, id, site string) (relay.OrderState, error) {
	id = strings.ToLower(id)
	if site != "" {
		if !c.maySeeSite(site) {
			return relay.OrderState{}, notFound()
		}
		o, _, err := a.c.Store.Orders.Get(ctx, site+"."+id)
		return o, err
	}
	mine := func(key string) bool {
		site, _, _ := strings.Cut(key, ".")
		return c.maySeeSite(site)
	}
	entries, _, _, err := a.c.Store.Orders.ChangedOf(ctx, 1, []string{"*." + id}, mine, maxSitesOfOrder,
		a.unreadable("order"))
	if err != nil {
		return relay.OrderState{}, err
	}
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

// keysOf returns the key filters for the orders of sites; none means all.
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
