package httpapi

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// maxSitesOfOrder bounds how many sites with an order of the same id are examined. The vendor has
// only one.
const maxSitesOfOrder = 100

// clockSlack is how much the clocks of the relay and of the store may differ where a time is looked
// for in the store.
const clockSlack = time.Minute

// listOrders implements GET /v1/orders.
func (a *API) listOrders(ctx context.Context, c caller, params ListOrdersParams) (reply, error) {
	if err := c.mayChoose(params.Sites, nil); err != nil {
		return reply{}, err
	}
	s := orderSearch{a: a, c: c, params: params, sites: params.Sites, limit: cmp.Or(params.Limit, defaultLimit)}
	if len(s.sites) == 0 && !c.isAdmin() && !c.client.AllSites {
		s.sites = c.client.Sites
		if len(s.sites) == 0 { // an empty choice would mean all sites
			return reply{body: OrderList{Items: []Order{}}}, nil
		}
	}
	list, err := s.run(ctx)
	return reply{body: list}, err
}

// orderSearch is one search of the orders.
type orderSearch struct {
	a      *API
	c      caller
	params ListOrdersParams
	sites  []string // none: all
	limit  int
}

func (s *orderSearch) run(ctx context.Context) (OrderList, error) {
	kind, read := byte('o'), s.changed
	if s.params.Reference != "" {
		kind, read = 'r', s.referenced
	}
	list := OrderList{Items: []Order{}}
	at, err := readPosition(kind, s.params.After, 1)
	if err != nil {
		return list, err
	}
	from := at[0] + 1
	if s.params.After == "" && !s.params.UpdatedSince.IsZero() && kind == 'o' {
		if from, err = s.a.c.Store.Orders.Since(ctx, logTime(s.params.UpdatedSince.Add(-clockSlack))); err != nil {
			return list, err
		}
	}
	var seen scan
	for len(list.Items) < s.limit {
		chunk := seen.next(s.limit - len(list.Items))
		if !s.filtered() {
			chunk = min(chunk, s.limit-len(list.Items))
		}
		if chunk == 0 {
			break
		}
		orders, last, more, err := read(ctx, from, chunk)
		if err != nil {
			return list, err
		}
		for _, e := range orders {
			seen.add(len(e.Value.Order))
			if s.matches(e.Value) {
				if list.Items = append(list.Items, orderView(e.Value)); len(list.Items) == s.limit {
					more, last = more || e.Revision < last, e.Revision
					break
				}
			}
		}
		if from = last + 1; !more {
			return list, nil
		}
	}
	s.a.limits.charge(s.c.key.ID, seen.messages-len(list.Items))
	list.Next = position(kind, from-1)
	return list, nil
}

// filtered reports whether orders that are read may not be wanted.
func (s *orderSearch) filtered() bool { return len(s.params.Statuses) > 0 }

func (s *orderSearch) matches(o relay.OrderState) bool {
	p := &s.params
	return s.c.maySeeSite(o.Site) && (len(s.sites) == 0 || slices.Contains(s.sites, o.Site)) &&
		(len(p.Statuses) == 0 || slices.ContainsFunc(p.Statuses, func(status string) bool {
			return strings.EqualFold(status, o.Status)
		})) &&
		!o.UpdatedAt.Before(p.UpdatedSince) &&
		(p.Reference == "" || relay.ReferenceToken(o.Reference) == relay.ReferenceToken(p.Reference))
}

// changed reads orders in the order of their last change.
func (s *orderSearch) changed(
	ctx context.Context, from uint64, most int,
) ([]store.Entry[relay.OrderState], uint64, bool, error) {
	return s.a.c.Store.Orders.Changed(ctx, from, keysOf(s.sites), most, s.a.unreadable("order"))
}

// referenced reads the orders that had the reference at some time; their revisions are those of the
// index.
func (s *orderSearch) referenced(
	ctx context.Context, from uint64, most int,
) (orders []store.Entry[relay.OrderState], last uint64, more bool, err error) {
	token := relay.ReferenceToken(s.params.Reference)
	keys := keysOf(s.sites)
	for i, key := range keys {
		keys[i] = token + "." + key
	}
	if len(keys) == 0 {
		keys = []string{token + ".>"}
	}
	entries, last, more, err := s.a.c.Store.References.Changed(ctx, from, keys, most, s.a.unreadable("reference"))
	if err != nil {
		return nil, 0, false, err
	}
	for _, e := range entries {
		o, _, err := s.a.c.Store.Orders.Get(ctx, e.Key[len(token)+1:])
		switch {
		case errors.Is(err, store.ErrNotFound): // its first event is not stored
		case err != nil:
			return nil, 0, false, err
		default:
			orders = append(orders, store.Entry[relay.OrderState]{Key: e.Key, Value: o, Revision: e.Revision})
		}
	}
	return orders, last, more, nil
}

// getOrder implements GET /v1/orders/{orderId}.
func (a *API) getOrder(ctx context.Context, c caller, orderID OrderPath, params GetOrderParams) (reply, error) {
	o, err := a.order(ctx, c, orderID, params.Site)
	return reply{body: orderView(o)}, err
}

// listOrderEvents implements GET /v1/orders/{orderId}/events.
func (a *API) listOrderEvents(
	ctx context.Context, c caller, orderID OrderPath, params ListOrderEventsParams,
) (reply, error) {
	o, err := a.order(ctx, c, orderID, params.Site)
	if err != nil {
		return reply{}, err
	}
	at, err := readPosition('h', params.After, 1)
	if err != nil {
		return reply{}, err
	}
	from, limit := at[0]+1, cmp.Or(params.Limit, defaultLimit)
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
	sites := views(entries, func(o relay.OrderState) string { return o.Site })
	slices.Sort(sites)
	return relay.OrderState{}, kindAmbiguous.problem("The sites are: %s.", strings.Join(sites, ", "))
}

// keysOf returns the key filters for the orders of sites; none means all.
func keysOf(sites []string) []string {
	if len(sites) > maxFilters {
		return nil
	}
	sites = slices.Compact(slices.Sorted(slices.Values(sites)))
	return each.Of(sites, func(site string) string { return site + ".>" })
}

func orderView(o relay.OrderState) Order {
	return Order{
		Id: o.ID, Site: o.Site, Reference: o.Reference, Status: o.Status, Revision: o.Revision,
		Sequence: strconv.FormatUint(o.Sequence, 10), ReadAt: o.ReadAt, UpdatedAt: o.UpdatedAt, Order: o.Order,
	}
}
