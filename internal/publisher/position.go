package publisher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

const (
	// maxContests bounds how often in a row a document is written in competition with another
	// writer before it counts as trouble.
	maxContests = 10
	// scanSize is how many events of one order are read at a time.
	scanSize = 128
)

// OrderKey is the key of an order's document in relay_orders.
func OrderKey(site, order string) string { return site + "." + order }

// Begin returns an order's position, and which of the waiting notifications have no event yet. It
// must be called before the order is read from the vendor: the events of that reading are published
// under the condition that the position is still the same. If no notification is left waiting, an
// earlier process or another replica has published all of them, and they only have to be settled.
func (p *Publisher) Begin(
	ctx context.Context, site, order string, waiting []relay.Received,
) (relay.OrderPosition, error) {
	st, err := p.orderPosition(ctx, site, order)
	if err != nil {
		return relay.OrderPosition{}, fmt.Errorf("take where order %s at site %s stands: %w", order, site, err)
	}
	if st.Waiting, err = p.unpublished(ctx, st, waiting); err != nil {
		return relay.OrderPosition{}, fmt.Errorf("look for events of order %s at site %s: %w", order, site, err)
	}
	return st, nil
}

// orderPosition reads the order's document and brings it up to date with the log.
func (p *Publisher) orderPosition(ctx context.Context, site, order string) (relay.OrderPosition, error) {
	for range maxContests {
		state, revision, err := p.c.Store.Orders.Get(ctx, OrderKey(site, order))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return relay.OrderPosition{}, err
		}
		state.Site, state.ID = site, order
		st := relay.OrderPosition{State: state, Revision: revision}
		last, err := p.c.Store.Events.LastOf(ctx, site, order)
		if errors.Is(err, store.ErrNotFound) {
			// Never published, expired, or lost with the log: in each case the log has no event to
			// come after. The sequence is kept, because it must never be issued twice.
			st.State.LogPosition = 0
			st.Unlogged = state.Sequence > 0 && p.c.Now().Sub(state.UpdatedAt) < p.c.Store.Topology().Retention/2
			return st, nil
		}
		if err != nil {
			return relay.OrderPosition{}, err
		}
		st.Position = last.Seq
		if sequence := sequenceOf(last); sequence <= state.Sequence {
			// This is the usual case. Or the log was restored from a time before the document's, or has
			// lost its end: then the position is taken from the log, and the event of the document's
			// state is no longer in it.
			st.State.LogPosition = last.Seq
			st.Unlogged = sequence < state.Sequence
			return st, nil
		}
		if err := p.catchUp(ctx, &st); err != nil {
			return relay.OrderPosition{}, err
		}
		switch st.Revision, err = p.put(ctx, st.State, st.Revision); {
		case err == nil:
			return st, nil
		case errors.Is(err, store.ErrTooLarge): // everything is in the log
			p.warnTooLarge(ctx, state, err)
			st.Revision = revision
			return st, nil
		case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrUnclear):
			continue // another writer knows more by now, or it was our own write
		default:
			return relay.OrderPosition{}, err
		}
	}
	return relay.OrderPosition{}, fmt.Errorf("%w: its document changes all the time", store.ErrUnavailable)
}

// catchUp applies every event of the order that the state lacks, and moves the position to the last
// one.
func (p *Publisher) catchUp(ctx context.Context, st *relay.OrderPosition) error {
	known := st.State.Sequence
	from := st.State.LogPosition
	if from > 0 {
		// What follows the document's last event is found by position only if that event is at
		// the document's position.
		at, err := p.c.Store.Events.Get(ctx, from)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err != nil || at.Site != st.State.Site || at.Order != st.State.ID || sequenceOf(at) != known {
			from = 0
		}
	}
	applied := 0
	err := p.eachEvent(ctx, st.State.Site, st.State.ID, from, func(ev store.Stored) {
		st.Position, st.State.LogPosition = ev.Seq, ev.Seq
		if sequenceOf(ev) > known && apply(&st.State, ev) {
			applied++
		}
	})
	if err != nil {
		return err
	}
	p.c.Log.InfoContext(ctx, "order's document brought up to the log", "site", st.State.Site, "order", st.State.ID,
		"events",
		applied,
		"position", st.Position)
	return nil
}

// eachEvent calls each for the order's events from a position on, in order.
func (p *Publisher) eachEvent(ctx context.Context, site, order string, from uint64, each func(store.Stored)) error {
	for {
		events, more, err := p.c.Store.Events.Scan(ctx, from, []string{topology.OrderFilter(site, order)}, scanSize)
		if err != nil {
			return err
		}
		for _, ev := range events {
			each(ev)
			from = ev.Seq + 1
		}
		if !more || len(events) == 0 {
			return nil
		}
	}
}

// apply applies an event of the log to the state. It returns false if the event cannot be decoded.
func apply(s *relay.OrderState, ev store.Stored) bool {
	body, data, ok := decode(ev)
	if !ok {
		return false
	}
	sequence, err := body.SequenceNumber()
	if err != nil {
		return false
	}
	s.Order, s.ReadAt = data.Order, data.ReadAt
	s.Status, s.Reference = relay.StatusAndReference(data.Order)
	s.Revision = max(data.Revision, s.Revision+1)
	s.Sequence, s.LogPosition, s.UpdatedAt = sequence, ev.Seq, ev.Time.UTC()
	if ev.Inbox.Connection != "" {
		notePublished(s, ev.Inbox.Connection, relay.PackEntry(ev.Inbox.Seq, ev.Inbox.Index))
	}
	if data.Origin == relay.OriginReconciliation {
		s.ReconciledAt = s.UpdatedAt
	}
	return true
}

// unpublished returns the notifications that have no event. A notification above its connection's
// last published entry has none, because the state covers all events of the log. For one at or
// below it only the log can decide: it may be repeated after a crash, have been set aside earlier,
// or come from an inbox restored from a backup, which issues its numbers again. In that last case
// the time of receipt distinguishes the two.
func (p *Publisher) unpublished(
	ctx context.Context, st relay.OrderPosition, waiting []relay.Received,
) ([]relay.Received, error) {
	doubtful := false
	for _, n := range waiting {
		doubtful = doubtful || n.Entry() <= st.State.Published[n.Connection]
	}
	if !doubtful {
		return waiting, nil
	}
	seen := map[store.InboxRef][]relay.OrderData{}
	err := p.eachEvent(ctx, st.State.Site, st.State.ID, 0, func(ev store.Stored) {
		if ev.Inbox.Connection == "" {
			return
		}
		if _, data, ok := decode(ev); ok {
			seen[ev.Inbox] = append(seen[ev.Inbox], data)
		}
	})
	if err != nil {
		return nil, err
	}
	var left []relay.Received
	for _, n := range waiting {
		published := false
		for _, data := range seen[refOf(n)] {
			published = published || data.Notification != nil && data.Notification.ReceivedAt.Equal(n.Info.ReceivedAt)
		}
		if !published {
			left = append(left, n)
		}
	}
	return left, nil
}

// save stores the state unless the stored one is newer. The document is a shortcut that can always
// be rebuilt from the log, so a document that another writer made from the same log is as good.
func (p *Publisher) save(ctx context.Context, state relay.OrderState, revision uint64) error {
	for range maxContests {
		_, err := p.put(ctx, state, revision)
		if err == nil {
			return nil
		}
		if errors.Is(err, store.ErrTooLarge) {
			p.warnTooLarge(ctx, state, err)
			return nil
		}
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrUnclear) || ctx.Err() != nil {
			return err
		}
		var there relay.OrderState
		there, revision, err = p.c.Store.Orders.Get(ctx, OrderKey(state.Site, state.ID))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if there.Sequence >= state.Sequence {
			return nil
		}
	}
	return fmt.Errorf("store the document of order %s at site %s: %w: it changes all the time",
		state.ID, state.Site, store.ErrUnavailable)
}

func (p *Publisher) put(ctx context.Context, state relay.OrderState, revision uint64) (uint64, error) {
	key := OrderKey(state.Site, state.ID)
	if revision == 0 {
		return p.c.Store.Orders.Create(ctx, key, state)
	}
	return p.c.Store.Orders.Update(ctx, key, state, revision)
}

func (p *Publisher) warnTooLarge(ctx context.Context, state relay.OrderState, err error) {
	p.c.Log.WarnContext(ctx, "the order's document is too large for the store; the log is read instead",
		"site", state.Site, "order", state.ID, "error", err)
}

func decode(ev store.Stored) (relay.Event, relay.OrderData, bool) {
	var body relay.Event
	var data relay.OrderData
	if json.Unmarshal(ev.Body, &body) != nil || json.Unmarshal(body.Data, &data) != nil {
		return body, data, false
	}
	return body, data, true
}

// sequenceOf returns an event's sequence, or 0 if it cannot be decoded.
func sequenceOf(ev store.Stored) uint64 {
	var body struct {
		Sequence string `json:"sequence"`
	}
	if json.Unmarshal(ev.Body, &body) != nil {
		return 0
	}
	n, _ := relay.Event{Sequence: body.Sequence}.SequenceNumber()
	return n
}

func cloneState(s relay.OrderState) relay.OrderState {
	s.Published = maps.Clone(s.Published)
	return s
}
