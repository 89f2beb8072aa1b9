package resolver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Notifications in relay_unresolved are retried by themselves when the reason for which they were set
// aside has ended: their vendor site is mapped now, or a user has consented since. This is decided by
// what is stored, so a crash in the middle loses nothing, and repeats one reading at most. One order is
// retried after the other, sorted by inbox entries. If a later notification of the same order comes
// first, those that were set aside are resolved together with it (see priorAsides), so that the events
// of an order stay in order.

const (
	// lookAgainAfter is how often a runner looks whether its notifications that were set aside can be retried,
	// beside the times when something has changed.
	lookAgainAfter = time.Minute
	// lookSoon is the same after something was set aside. It may be possible to retry it at once, as its page
	// may have been stored before a change.
	lookSoon = time.Second
)

// selfRetry is the state of a runner's retries of notifications that were set aside. Its turns own it.
type selfRetry struct {
	due      time.Time // when to look next, or to go on with the plan; zero: never
	wanted   bool      // there must be another look, whatever the present plan is
	busy     bool      // one look or one retry is under way
	plan     []retryGroup
	failures int           // retries in a row for which the vendor or the store could not be asked
	done     chan selfDone // of what is under way; made for the first
}

// retryGroup are the notifications of one order.
type retryGroup struct {
	connection relay.Connection
	lane       string
	ids        []string
}

// selfDone is the result of a look or a retry.
type selfDone struct {
	plan []retryGroup
	err  error // the vendor or the store could not be asked
}

// want has the runner look now.
func (s *selfRetry) want(now time.Time) { s.wanted, s.due, s.failures = true, now, 0 }

// soon has it look in a moment, as something was set aside.
func (s *selfRetry) soon(now time.Time) {
	if at := now.Add(lookSoon); s.due.IsZero() || s.due.After(at) {
		s.due = at
	}
}

// next returns when there is something to do, false if that is not known.
func (s *selfRetry) next() (time.Time, bool) { return s.due, !s.due.IsZero() && !s.busy }

// retryAsides begins what is due: a look at what can be retried, or the next retry.
func (r *runner) retryAsides(ctx context.Context, now time.Time) {
	s := &r.self
	if s.busy || s.due.IsZero() || s.due.After(now) {
		return
	}
	planned := len(s.plan) > 0
	for len(s.plan) > 0 {
		group := s.plan[0]
		s.plan = s.plan[1:]
		if r.cursor.Holds(group.lane) { // it is resolved together with what waits
			continue
		}
		r.retryAside(ctx, func() selfDone { return r.retryGroup(ctx, group) })
		return
	}
	switch {
	case r.asides.empty():
		s.due, s.wanted = time.Time{}, false
	case planned && !s.wanted:
		s.due = now.Add(lookAgainAfter)
	default:
		s.wanted = false
		r.retryAside(ctx, func() selfDone { return r.planRetries(r.underWay.ctx) })
	}
}

// retryAside begins a look or a retry.
func (r *runner) retryAside(ctx context.Context, do func() selfDone) {
	s := &r.self
	if s.done == nil {
		s.done = make(chan selfDone, 1)
	}
	s.busy = true
	r.start(ctx, func() { s.done <- do() })
}

// retried handles the result of a look or a retry.
func (r *runner) retried(ctx context.Context, d selfDone) {
	s, now := &r.self, r.cfg.Now()
	s.busy = false
	switch {
	case d.err != nil:
		if s.failures == 0 {
			r.log.Log(ctx, store.Level(d.err, slog.LevelInfo),
				"unresolved notifications cannot be retried now; they are tried again", "error", d.err)
		}
		schedule := r.cfg.Schedule
		s.due = now.Add(max(jitter(schedule[min(s.failures, len(schedule)-1)]), audatex.RetryAfterOf(d.err)))
		s.failures++
		s.plan = nil // the next look makes a new one
	case len(d.plan) > 0:
		s.plan, s.due = d.plan, now
	case len(s.plan) > 0 || s.wanted:
		s.due, s.failures = now, 0
	default:
		s.due, s.failures = now.Add(lookAgainAfter), 0
	}
}

// planRetries finds out what can be retried, by the connection as it is now.
func (r *runner) planRetries(ctx context.Context) selfDone {
	c, _, err := r.store.Connections.Get(ctx, r.connection)
	if errors.Is(err, store.ErrNotFound) || err == nil && c.Generation != r.generation {
		return selfDone{} // it is gone
	}
	if err != nil {
		return selfDone{err: err}
	}
	all := r.asides.all()
	var consented time.Time // zero: nobody has
	if slices.ContainsFunc(all, func(a aside) bool { return a.reason.endsWithConsent() }) {
		token, _, err := r.store.Tokens.Token(ctx, r.connection)
		if err != nil && !errors.Is(err, relay.ErrNoToken) {
			return selfDone{err: err}
		}
		if token.Generation == r.generation && token.ConsentRequiredSince == nil {
			consented = token.ConsentAt
		}
	}
	var plan []retryGroup
	at := map[string]int{}
	for _, a := range all {
		site := a.site
		if a.reason == reasonSiteUnknown {
			site = c.SiteOf(a.vendorSite)
		} else if consented.IsZero() || !consented.Add(clocksDiffer).After(a.judged) {
			continue
		}
		if site == "" {
			continue
		}
		lane := laneOf(site, a.order)
		i, there := at[lane]
		if !there {
			i, at[lane] = len(plan), len(plan)
			plan = append(plan, retryGroup{connection: c, lane: lane})
		}
		plan[i].ids = append(plan[i].ids, a.id)
	}
	return selfDone{plan: plan}
}

// retryGroup retries the notifications of one order.
func (r *runner) retryGroup(ctx context.Context, g retryGroup) selfDone {
	work := r.underWay.ctx
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return selfDone{err: ctx.Err()}
	}
	if !r.lease.Await(ctx) {
		return selfDone{err: context.Cause(ctx)}
	}
	var failed error
	resolved := 0
	r.retryOrder(work, g.connection, g.ids, r.askFor(ctx), func(id string, outcome relay.RetryOutcome, err error) {
		switch outcome {
		case relay.RetryResolved:
			r.asides.drop(id)
			resolved++
		case relay.RetryNotFound:
			r.asides.drop(id)
		case relay.RetryRefused:
			if doc, _, err := r.store.Unresolved.Get(work, id); err == nil {
				r.asides.put(asideOf(doc))
			}
			r.log.WarnContext(work, "an unresolved notification was retried by itself and stays",
				"unresolved", id, "error", err)
		case relay.RetryUnavailable:
			failed = cmp.Or(failed, err)
		}
	})
	if resolved > 0 {
		site, order := cutLane(g.lane)
		r.log.InfoContext(work, "unresolved notifications were resolved by themselves", "site", site, "order",
			order, "notifications", resolved)
	}
	return selfDone{err: failed}
}

// askFor returns a function that reads orders from the vendor for the runner. The wait for the vendor's turn
// ends with ctx; a request that has begun then ends with the runner's work.
func (r *runner) askFor(ctx context.Context) fetchOrder {
	return func(order string, begun func()) (json.RawMessage, error) {
		return r.cfg.Orders.Order(ctx, r.connection, order, func() (context.Context, error) {
			if !r.lease.Valid() { // the wait for the turn may have been long
				return nil, errLapsed
			}
			begun()
			return r.underWay.ctx, nil
		})
	}
}

// priorAsides returns the notifications of an order that were set aside, when other notifications of the
// order are resolved: they are resolved together, and their events are in the order of all. A vendor site
// that is mapped for one of those that wait counts as mapped for all.
func (r *runner) priorAsides(ctx context.Context, waiting []*item) ([]storedAside, error) {
	site, order := waiting[0].site, waiting[0].order
	candidates := r.asides.ofOrder(order)
	if len(candidates) == 0 {
		return nil, nil
	}
	c, _, err := r.store.Connections.Get(ctx, r.connection)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	var found []storedAside
	for _, a := range candidates {
		at := a.site
		if a.reason == reasonSiteUnknown {
			at = c.SiteOf(a.vendorSite)
			if i := slices.IndexFunc(waiting,
				func(it *item) bool { return bounded(it.info.SiteID) == a.vendorSite }); i >= 0 {
				at = site
			}
		}
		if at != site {
			continue
		}
		if a.unread != nil { // when it is offered later there is nothing left to do
			if err := r.setAside(ctx, a.unread, a.unread.reason, a.unread.detail); err != nil {
				return nil, err
			}
		}
		doc, revision, err := r.store.Unresolved.Get(ctx, a.id)
		if errors.Is(err, store.ErrNotFound) {
			r.asides.drop(a.id)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the unresolved notification %s: %w", a.id, err)
		}
		it := itemOfUnresolved(doc, c)
		it.site = site
		found = append(found, storedAside{doc, revision, it})
	}
	return found, nil
}

// takeAllFromAside removes the documents of notifications that have their events now.
func (r *runner) takeAllFromAside(ctx context.Context, prior []storedAside) error {
	for _, s := range prior {
		if err := r.takeFromAside(ctx, s); err != nil {
			return err
		}
		r.asides.drop(s.doc.ID)
		r.log.InfoContext(ctx, "an unresolved notification was resolved together with a later one",
			"unresolved", s.doc.ID, "site", s.item.site, "order", s.item.order)
	}
	return nil
}
