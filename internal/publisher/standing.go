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
	// maxContests bounds how often a document is contested in a row with another writer before it counts as trouble.
	maxContests = 10
	// scanSize is how many events of one order are read at a time.
	scanSize = 128
)

// OrderKey is the key of an order's document in relay_orders.
func OrderKey(site, order string) string { return site + "." + order }

// Begin takes where an order stands, and which of the waiting notifications have no event yet. It must be called before the
// order is read from the vendor: the standing's position is what the events of that reading expect of the log. None waiting any more
// means that a crash, or another replica, left nothing to do but to settle them.
func (p *Publisher) Begin(ctx context.Context, site, order string, waiting []relay.Received) (relay.Standing, error) {
	st, err := p.standing(ctx, site, order)
	if err != nil {
		return relay.Standing{}, fmt.Errorf("take where order %s at site %s stands: %w", order, site, err)
	}
	if st.Waiting, err = p.unpublished(ctx, st, waiting); err != nil {
		return relay.Standing{}, fmt.Errorf("look for events of order %s at site %s: %w", order, site, err)
	}
	return st, nil
}

// standing reads the order's document and brings it up to what the log says.
func (p *Publisher) standing(ctx context.Context, site, order string) (relay.Standing, error) {
	for range maxContests {
		state, revision, err := p.store.Orders.Get(ctx, OrderKey(site, order))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return relay.Standing{}, err
		}
		state.Site, state.ID = site, order
		st := relay.Standing{State: state, Revision: revision}
		last, err := p.store.Events.LastOf(ctx, site, order)
		if errors.Is(err, store.ErrNotFound) {
			// Never published, aged out, or lost with the log: either way the log holds nothing to be after. The
			// sequence stays: it must never be issued twice.
			st.State.LogPosition = 0
			return st, nil
		}
		if err != nil {
			return relay.Standing{}, err
		}
		st.Position = last.Seq
		if sequence := sequenceOf(last); sequence <= state.Sequence {
			// The usual case; or the log was restored from a time before the document's: then what the document says was
			// published once and is still what receivers know, only the position is the log's to say.
			st.State.LogPosition = last.Seq
			return st, nil
		}
		if err := p.catchUp(ctx, &st); err != nil {
			return relay.Standing{}, err
		}
		switch st.Revision, err = p.put(ctx, st.State, st.Revision); {
		case err == nil:
			return st, nil
		case errors.Is(err, store.ErrTooLarge): // the log has it all
			p.log.WarnContext(ctx, "the order's document is too large for the store; the log is read instead", "site", site, "order", order, "error", err)
			st.Revision = revision
			return st, nil
		case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrUnclear):
			continue // somebody else knows more by now, or it was our own write
		default:
			return relay.Standing{}, err
		}
	}
	return relay.Standing{}, fmt.Errorf("%w: its document changes all the time", store.ErrUnavailable)
}

// catchUp applies to the standing's state every event of the order that it lacks, and moves the position to the last one read.
func (p *Publisher) catchUp(ctx context.Context, st *relay.Standing) error {
	known := st.State.Sequence
	from := st.State.LogPosition
	if from > 0 {
		// Only if the document's last event is where the document says can what follows it be told by position.
		at, err := p.store.Events.Get(ctx, from)
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
	p.log.InfoContext(ctx, "order's document brought up to the log", "site", st.State.Site, "order", st.State.ID, "events", applied,
		"position", st.Position)
	return nil
}

// eachEvent calls each with the order's events from a position on, in their order.
func (p *Publisher) eachEvent(ctx context.Context, site, order string, from uint64, each func(store.Stored)) error {
	for {
		events, more, err := p.store.Events.Scan(ctx, from, []string{topology.OrderFilter(site, order)}, scanSize)
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

// apply makes an event of the log the state's last one; false if it cannot be read.
func apply(s *relay.OrderState, ev store.Stored) bool {
	body, data, ok := decode(ev)
	if !ok {
		return false
	}
	sequence, err := body.SequenceNumber()
	if err != nil {
		return false
	}
	s.Order, s.ReadAt, s.Status = data.Order, data.ReadAt, relay.StatusOf(data.Order)
	s.Revision = max(data.Revision, s.Revision+1)
	s.Sequence, s.LogPosition, s.UpdatedAt = sequence, ev.Seq, ev.Time.UTC()
	if ev.Inbox.Connection != "" {
		note(s, ev.Inbox.Connection, relay.PackEntry(ev.Inbox.Seq, ev.Inbox.Index))
	}
	if data.Origin == relay.OriginReconciliation {
		s.ReconciledAt = s.UpdatedAt
	}
	return true
}

// unpublished drops the notifications that have their event. One above the last entry published of its connection has none: the state
// knows every event of the log. At or below, only the log can say: it may be a repeat after a crash, or a notification set
// aside earlier, or an inbox restored from a backup that gives its numbers out anew. There the time of receipt tells.
func (p *Publisher) unpublished(ctx context.Context, st relay.Standing, waiting []relay.Received) ([]relay.Received, error) {
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

// save stores the state over what is there, unless that is newer. The document is a shortcut that can always be had from the log
// again; so what another writer has made of the same log is as good.
func (p *Publisher) save(ctx context.Context, state relay.OrderState, revision uint64) error {
	for range maxContests {
		_, err := p.put(ctx, state, revision)
		if err == nil {
			return nil
		}
		if errors.Is(err, store.ErrTooLarge) {
			p.log.WarnContext(ctx, "the order's document is too large for the store; the log is read instead", "site", state.Site, "order", state.ID, "error", err)
			return nil
		}
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrUnclear) || ctx.Err() != nil {
			return err
		}
		var there relay.OrderState
		there, revision, err = p.store.Orders.Get(ctx, OrderKey(state.Site, state.ID))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if there.Sequence >= state.Sequence {
			return nil
		}
	}
	return fmt.Errorf("store the document of order %s at site %s: %w: it changes all the time", state.ID, state.Site, store.ErrUnavailable)
}

func (p *Publisher) put(ctx context.Context, state relay.OrderState, revision uint64) (uint64, error) {
	key := OrderKey(state.Site, state.ID)
	if revision == 0 {
		return p.store.Orders.Create(ctx, key, state)
	}
	return p.store.Orders.Update(ctx, key, state, revision)
}

func decode(ev store.Stored) (relay.Event, relay.OrderData, bool) {
	var body relay.Event
	var data relay.OrderData
	if json.Unmarshal(ev.Body, &body) != nil || json.Unmarshal(body.Data, &data) != nil {
		return body, data, false
	}
	return body, data, true
}

// sequenceOf answers an event's sequence, 0 if it cannot be read.
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
