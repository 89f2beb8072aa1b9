package httpapi

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// The limits of what one request reads of the log of attempts: batches, records in them, and time.
// The next request continues from its cursor.
const (
	maxBatches  = 10_000
	maxRecords  = 50_000
	maxSearched = 3 * time.Second
)

// listDeliveries implements GET /v1/callbacks/{id}/deliveries.
func (a *API) listDeliveries(ctx context.Context, c caller, id Id, params ListDeliveriesParams) (reply, error) {
	cb, _, err := a.callback(ctx, c, id)
	if err != nil {
		return reply{}, err
	}
	list, err := a.searchDeliveries(ctx, c, map[string]relay.Callback{cb.ID: cb}, ListAllDeliveriesParams{
		Sites: params.Sites, Orders: params.Orders, Status: params.Status, Types: params.Types, Outcome: params.Outcome,
		Since: params.Since, Until: params.Until, Limit: params.Limit, After: params.After,
	})
	return reply{body: list}, err
}

// listAllDeliveries implements GET /v1/deliveries.
func (a *API) listAllDeliveries(ctx context.Context, c caller, params ListAllDeliveriesParams) (reply, error) {
	if err := await(ctx, a.callbacks.Ready()); err != nil {
		return reply{}, err
	}
	var of map[string]relay.Callback // of an administrator's who names none: all there are
	if !c.isAdmin() || len(params.Callback) > 0 {
		of = map[string]relay.Callback{}
	}
	for _, id := range params.Callback {
		cb, _, err := a.callback(ctx, c, id)
		if _, hidden := errors.AsType[*problem](err); hidden || errors.Is(err, store.ErrNotFound) {
			return reply{}, badParameter("callback", "%q is not a callback of this client", id)
		}
		if err != nil {
			return reply{}, err
		}
		of[id] = cb
	}
	if !c.isAdmin() && len(params.Callback) == 0 {
		a.eachCallback(c, func(cb relay.Callback) { of[cb.ID] = cb })
	}
	list, err := a.searchDeliveries(ctx, c, of, params)
	return reply{body: list}, err
}

// eachCallback calls each with the callbacks that the caller may see.
func (a *API) eachCallback(c caller, each func(relay.Callback)) {
	group := ""
	if !c.isAdmin() {
		group = c.client.ID
	}
	for _, id := range a.callbacks.Keys(group) {
		if cb, known := a.seenCallback(c, id); known {
			each(cb)
		}
	}
}

// seenCallback returns a callback, without its secrets, if the caller may see it.
func (a *API) seenCallback(c caller, id string) (relay.Callback, bool) {
	e, known := a.callbacks.Get(id)
	if !known {
		return relay.Callback{}, false
	}
	cb := e.Value.Callback
	if !c.isAdmin() {
		return cb, c.owns(cb)
	}
	client, known := a.c.Keys.Client(cb.Client)
	return cb, known && cb.BelongsTo(client)
}

// deliverySearch is one search of the log of attempts, newest first.
type deliverySearch struct {
	a      *API
	c      caller
	ctx    context.Context
	of     map[string]relay.Callback // nil: all that the caller may see
	params ListAllDeliveriesParams
	filter relay.Filter
	limit  int
	skip   int // records at the end of the first batch, which an earlier page has looked at

	list     DeliveryList
	seen     map[deliveryOf]bool
	lanes    map[string]*cursor.Lane // by callback and order; nil: there is none
	tried    map[*cursor.Lane]bool   // those whose event is listed, if it is wanted
	batches  int
	records  int
	begun    time.Time
	laneFail error
}

// deliveryOf names a delivery: a callback, and the event's position.
type deliveryOf struct {
	callback string
	seq      uint64
}

// searchDeliveries lists deliveries of some callbacks. A delivery is listed at its closing record. One
// that is still being retried is listed at its last attempt, according to its order's lane.
func (a *API) searchDeliveries(
	ctx context.Context, c caller, of map[string]relay.Callback, params ListAllDeliveriesParams,
) (DeliveryList, error) {
	s := deliverySearch{
		a: a, c: c, ctx: ctx, of: of, params: params, limit: cmp.Or(params.Limit, defaultLimit), begun: time.Now(),
		list: DeliveryList{Items: []DeliverySummary{}}, seen: map[deliveryOf]bool{}, lanes: map[string]*cursor.Lane{},
		tried:  map[*cursor.Lane]bool{},
		filter: relay.Filter{Sites: params.Sites, Types: params.Types, Orders: each.Of(params.Orders, strings.ToLower)},
	}
	if err := c.mayChoose(params.Sites, params.Types); err != nil {
		return s.list, err
	}
	q := store.AttemptsQuery{Since: logTime(params.Since), Until: logTime(params.Until)}
	if of != nil {
		q.Callbacks = make(map[string]string, len(of))
		for id, cb := range of {
			q.Callbacks[id] = cb.Generation
		}
	}
	at, err := readPosition('d', params.After, 2)
	if err != nil {
		return s.list, err
	}
	q.From, s.skip = at[0], int(min(at[1], maxRecords))
	err = a.c.Store.Attempts.Newest(ctx, q, s.visit)
	a.limits.charge(c.key.ID, s.batches-len(s.list.Items))
	return s.list, errors.Join(err, s.laneFail)
}

// visit looks at a batch, and reports whether the search goes on.
func (s *deliverySearch) visit(seq uint64, at time.Time, b relay.AttemptBatch) bool {
	passed := min(s.skip, len(b.Records))
	s.skip = 0
	cb, known := s.callback(b)
	for ; passed == 0 || passed < len(b.Records); passed++ {
		if len(s.list.Items) == s.limit || s.batches >= maxBatches || s.records >= maxRecords ||
			time.Since(s.begun) > maxSearched {
			s.list.Next = position('d', seq, uint64(passed))
			return false
		}
		if !known || len(b.Records) == 0 {
			break
		}
		s.records++
		if s.look(cb, b.Records[len(b.Records)-1-passed], at); s.laneFail != nil {
			return false
		}
	}
	s.batches++
	return true
}

func (s *deliverySearch) callback(b relay.AttemptBatch) (relay.Callback, bool) {
	if s.of != nil {
		cb, known := s.of[b.Callback]
		return cb, known && cb.Generation == b.Generation
	}
	cb, known := s.a.seenCallback(s.c, b.Callback)
	return cb, known && cb.Generation == b.Generation
}

// look lists a delivery if it is listed at this record, and wanted.
func (s *deliverySearch) look(cb relay.Callback, rec relay.AttemptRecord, at time.Time) {
	of, p := deliveryOf{cb.ID, rec.Seq}, &s.params
	if s.seen[of] || rec.Closing == "" && len(p.Status) > 0 && !slices.Contains(p.Status, ListedStatusRetrying) {
		return
	}
	var lane *cursor.Lane
	if rec.Closing == "" && rec.Replay == "" {
		lane = s.lane(cb, rec.Order)
	}
	status, listed := listedStatus(rec, lane, cb.Disabled)
	if !listed || lane != nil && s.tried[lane] {
		return
	}
	if lane != nil {
		s.tried[lane] = true
	}
	s.seen[of] = true // what is older stands for nothing: a replay has delivered it since
	if !s.matches(rec) || len(p.Status) > 0 && !slices.Contains(p.Status, ListedStatus(status)) {
		return
	}
	s.list.Items = append(s.list.Items, s.a.summary(cb, rec, at, status))
}

// matches reports whether a record is of an event that is wanted. The callback's client may have lost
// the event's site since.
func (s *deliverySearch) matches(rec relay.AttemptRecord) bool {
	if rec.Site != "" && rec.Site != relay.NoSite && !s.c.maySeeSite(rec.Site) {
		return false
	}
	if len(s.params.Outcome) > 0 && (rec.Number == 0 || !slices.Contains(s.params.Outcome, rec.Outcome)) {
		return false
	}
	typ := rec.Type
	if len(s.filter.Types) == 0 {
		typ = "" // here no types mean all
	}
	return s.filter.Matches(relay.Traits{Site: rec.Site, Type: typ, Order: rec.Order})
}

// lane returns how an order is being retried at a callback, nil if it is not or that cannot be read.
func (s *deliverySearch) lane(cb relay.Callback, order string) *cursor.Lane {
	key := store.LaneKey(cb.ID, order)
	lane, known := s.lanes[key]
	if !known {
		lane, _, s.laneFail = s.a.lane(s.ctx, cb, order)
		s.lanes[key] = lane
	}
	return lane
}
