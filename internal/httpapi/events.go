package httpapi

import (
	"cmp"
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	defaultEvents = 100
	// maxFilters bounds the subject filters of one scan of the log. Beyond it all events are read
	// and filtered here, which is cheaper.
	maxFilters = 100
)

// listEvents implements GET /v1/events.
func (a *API) listEvents(ctx context.Context, c caller, params ListEventsParams) (reply, error) {
	q, err := a.newQuery(c, params)
	if err != nil {
		return reply{}, err
	}
	list, err := a.lookSoon(ctx, c, &q)
	if err != nil {
		return reply{}, err
	}
	if len(list) == 0 && params.WaitSeconds > 0 && !q.more {
		if list, err = a.wait(ctx, c, exchangeOf(ctx).peer, &q,
			time.Duration(params.WaitSeconds)*time.Second); err != nil {
			return reply{}, err
		}
	}
	now, err := a.present(c)
	if err != nil {
		return reply{}, err
	}
	page := EventPage{Items: make([]Event, 0, len(list)), Next: a.feedPosition(q.after)}
	for _, ev := range list {
		if now.maySeeEvent(ev) { // it could when the event was read
			page.Items = append(page.Items, ev.Body)
		}
	}
	return reply{body: page}, nil
}

// getEvent implements GET /v1/events/{eventId}.
func (a *API) getEvent(ctx context.Context, c caller, eventID EventId) (reply, error) {
	ev, err := a.find(ctx, c, eventID)
	return reply{contentType: relay.EventContentType, body: ev.Body}, err
}

// query is one reading of the feed.
type query struct {
	filter   relay.Filter
	subjects []string
	since    time.Time // if zero, after is used
	after    uint64    // the position reached so far
	begun    bool      // after was given: events that have left the log since then are missed
	limit    int
	more     bool // the scan ended before the log did
}

func (a *API) newQuery(c caller, params ListEventsParams) (query, error) {
	q := query{
		filter: relay.Filter{
			Sites: params.Sites, Types: params.Types, Orders: each.Of(params.Orders, strings.ToLower),
			OrderStatuses: params.OrderStatuses,
			ChangedOnly:   params.ChangedOnly,
		},
		since: logTime(params.Since), limit: cmp.Or(params.Limit, defaultEvents),
	}
	err := c.mayChoose(params.Sites, params.Types)
	if err != nil {
		return q, err
	}
	for _, status := range params.OrderStatuses {
		if err := relay.CheckOrderStatus(status); err != nil {
			return q, badParameter("orderStatuses", "%s", err)
		}
	}
	if params.After != "" {
		if !params.Since.IsZero() {
			return q, badParameter("since", "cannot be given together with after")
		}
		if q.after, err = a.readFeedPosition(params.After); err != nil {
			return q, err
		}
		q.begun = true
	}
	q.subjects = subjects(c, q.filter)
	return q, nil
}

// feedPosition returns a cursor of the feed. A restored log issues its positions again, so the
// cursor contains the time of the last restore.
func (a *API) feedPosition(after uint64) string {
	if a.c.Restored.IsZero() {
		return position('e', after)
	}
	return position('e', after, uint64(a.c.Restored.UnixMicro()))
}

func (a *API) readFeedPosition(cursor string) (uint64, error) {
	at, err := readPosition('e', cursor, 1)
	if err != nil {
		at, err = readPosition('e', cursor, 2)
	}
	if err != nil {
		return 0, err
	}
	if cursor != a.feedPosition(at[0]) {
		return 0, &problem{kind: kindOutdated}
	}
	return at[0], nil
}

// logTime limits a time to the range that the log supports: the store counts nanoseconds since
// 1970, and other times would overflow. The zero time, which is none, stays as it is.
func logTime(t time.Time) time.Time {
	switch latest := time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC); {
	case t.IsZero():
		return t
	case t.Before(time.Unix(0, 1)):
		return time.Unix(0, 1)
	case t.After(latest):
		return latest
	}
	return t
}

// look reads on from the query's position, up to its limit, and advances the query.
func (a *API) look(ctx context.Context, c caller, q *query) ([]store.Stored, error) {
	first, last, err := a.c.Store.Events.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	if q.begun && (q.after+1 < first || q.after > last) {
		return nil, &problem{kind: kindOutdated}
	}
	var list []store.Stored
	var read scan
	for {
		chunk := read.next(q.limit)
		if chunk == 0 {
			break // q.more is true since the last chunk
		}
		var events []store.Stored
		if !q.since.IsZero() {
			events, q.more, err = a.c.Store.Events.ScanSince(ctx, q.since, q.subjects, chunk)
		} else {
			events, q.more, err = a.c.Store.Events.Scan(ctx, q.after+1, q.subjects, chunk)
		}
		if err != nil {
			return nil, err
		}
		for i, ev := range events {
			q.after, q.since = ev.Seq, time.Time{}
			read.add(len(ev.Body))
			if !q.filter.Matches(ev.Traits()) || !c.maySeeEvent(ev) {
				continue
			}
			if list = append(list, ev); len(list) == q.limit {
				q.more = q.more || i < len(events)-1
				break
			}
		}
		if len(list) == q.limit || !q.more || len(events) == 0 {
			break
		}
	}
	a.limits.charge(c.key.ID, read.messages-len(list))
	if !q.more { // everything that was there at the beginning has been read
		q.after, q.since = max(q.after, last), time.Time{}
	}
	q.begun = true
	return list, nil
}

// wait repeats look when an event comes that may be the caller's, until one is found or the time is
// over. It also ends when the key does, with a problem, and when the client may see other sites
// than before, with nothing: the next request is judged by the new ones.
func (a *API) wait(
	ctx context.Context, c caller, peer netip.Addr, q *query, limit time.Duration,
) ([]store.Stored, error) {
	done, err := a.waiting.take(c, peer)
	if err != nil {
		return nil, err
	}
	defer done()
	defer a.metrics.waits(ctx)()
	end, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	sites := relay.Sorted(c.client.Sites) // every event is compared with them
	wide := q.filter.Wide()
	waiter, ok := a.feed.join(end, c.client.ID, func(site, typ, order string) bool {
		kind, _ := relay.KindOf(typ)
		seen := c.isAdmin() || c.client.AllSites || relay.Among(sites, site) || kind.Private()
		return seen && wide.Matches(relay.Traits{Site: site, Type: typ, Order: order})
	})
	if !ok {
		return nil, ctx.Err()
	}
	defer a.feed.leave(waiter)
	for {
		// The first look is for what may have come, or been revoked, before the waiter was
		// registered.
		done, ok := a.reads.take(end, c.key.ID)
		if !ok {
			return nil, ctx.Err()
		}
		list, err := a.look(ctx, c, q)
		done()
		if err != nil {
			return nil, err
		}
		now, err := a.present(c)
		if err != nil || len(list) > 0 || q.more || !now.seesTheSame(c) {
			return list, err
		}
		expired, stop := expiry(c.key)
		over := false
		select {
		case <-waiter.woken:
		case <-expired:
		case <-a.drain:
			over = true
		case <-end.Done():
			over = true
		}
		stop()
		if over {
			return nil, ctx.Err()
		}
	}
}

// expiry returns a channel that receives when the key expires, or nil if it never does.
func expiry(key relay.Key) (expired <-chan time.Time, stop func()) {
	if key.ExpiresAt == nil {
		return nil, func() {}
	}
	timer := time.NewTimer(time.Until(*key.ExpiresAt))
	return timer.C, func() { timer.Stop() }
}

// lookSoon is look with a time limit, for a caller who waits for the response.
func (a *API) lookSoon(ctx context.Context, c caller, q *query) ([]store.Stored, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	done, err := a.reads.soon(ctx, c.key.ID)
	if err != nil {
		return nil, err
	}
	defer done()
	return a.look(ctx, c, q)
}
