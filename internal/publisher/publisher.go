// Package publisher puts events into the public log: one for each notification, exactly once, in the order of the readings they
// tell of. It is the third step of a notification's way; what comes before it is the resolver, what comes after reads the log.
//
// Three things make "exactly once" out of a store that can only promise "at least once":
//
//   - Where an order stands in the log is taken (Begin) before the order is read from the vendor, and every event carries
//     that position as a condition. An event that came between makes the log refuse, so that an older reading can never
//     follow a newer one, and two publishers of one order can never both succeed.
//   - Every event's headers name the inbox entry it came of. After a crash, or an answer that never came, the log itself
//     says which notifications have their event.
//   - The document in relay_orders is only a shortcut: whatever it lacks is read from the log, and where it says too
//     much (a log restored from a backup) the log is believed.
package publisher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Config is what a Publisher needs. Store is required.
type Config struct {
	Store *store.Store
	// PublicURL is the relay's public address, below which the schemas are served; relative addresses without it.
	PublicURL string
	// Location is the zone of vendor times that name none (RELAY_AUDATEX_TIMEZONE); UTC if nil.
	Location *time.Location
	Metrics  *Metrics
	// Ahead is how far sequences run ahead of the clock, so that none is given out again that was published after a backup and
	// went with its store (topology.Mark).
	Ahead time.Duration
	Log   *slog.Logger     // slog.Default() if nil
	Now   func() time.Time // time.Now if nil
}

// Publisher writes events. It is safe for concurrent use: the log's conditions are the referee between calls.
type Publisher struct {
	store    *store.Store
	base     string
	location *time.Location
	metrics  *Metrics
	ahead    time.Duration
	log      *slog.Logger
	now      func() time.Time
	repeats  repeats
}

// New makes a Publisher.
func New(c Config) *Publisher {
	p := &Publisher{
		store: c.Store, base: strings.TrimRight(c.PublicURL, "/"), location: c.Location, metrics: c.Metrics, ahead: c.Ahead, log: c.Log, now: c.Now,
	}
	if p.log == nil {
		p.log = slog.Default()
	}
	if p.now == nil {
		p.now = time.Now
	}
	return p
}

// Publish makes an event for each notification of the standing out of one reading of the order, which must have begun after Begin
// had answered the standing. The first event carries what changed; the others tell that nothing more did. It ends in
// one of the outcomes; the error, if any, is for the log only.
func (p *Publisher) Publish(ctx context.Context, standing relay.Standing, reading relay.Snapshot) (relay.PublishOutcome, error) {
	a, err := p.appendix(standing, reading)
	if err != nil {
		return relay.Unfit, err
	}
	if err := p.list(ctx, standing.State, standing.Waiting, a.status); err != nil {
		return relay.StoreTrouble, err
	}
	for _, n := range standing.Waiting {
		if err := p.append(ctx, a, &n); err != nil {
			return outcomeOf(err), fmt.Errorf("publish notification %s of order %s at site %s: %w", n, a.state.ID, a.state.Site, err)
		}
	}
	if err := p.save(ctx, a.state, standing.Revision); err != nil {
		return relay.StoreTrouble, err
	}
	return relay.Published, nil
}

// Reconcile makes one event out of a reading that no notification asked for, if the order has changed since it was last read, and
// reports whether it did. First sight of an order counts as a change.
func (p *Publisher) Reconcile(ctx context.Context, standing relay.Standing, reading relay.Snapshot) (changed bool, outcome relay.PublishOutcome, err error) {
	a, err := p.appendix(standing, reading)
	if err != nil {
		return false, relay.Unfit, err
	}
	if len(standing.State.Order) > 0 && len(a.changes) == 0 {
		return false, relay.Published, nil
	}
	if err := p.list(ctx, standing.State, nil, a.status); err != nil {
		return false, relay.StoreTrouble, err
	}
	if err := p.append(ctx, a, nil); err != nil {
		return false, outcomeOf(err), fmt.Errorf("publish the reconciled order %s at site %s: %w", a.state.ID, a.state.Site, err)
	}
	if err := p.save(ctx, a.state, standing.Revision); err != nil {
		return true, relay.StoreTrouble, err
	}
	return true, relay.Published, nil
}

// appendix is what is being appended to an order's events: it moves on with each of them.
type appendix struct {
	state    relay.OrderState // as of the last event
	reading  relay.Snapshot
	status   string         // of the reading
	changes  []relay.Change // for the next event
	position uint64         // of the last event
}

func (p *Publisher) appendix(standing relay.Standing, reading relay.Snapshot) (*appendix, error) {
	changes, err := relay.Diff(standing.State.Order, reading.Order)
	if err != nil {
		return nil, fmt.Errorf("compare the readings of order %s: %w", standing.State.ID, err)
	}
	return &appendix{
		state: cloneState(standing.State), reading: reading, status: relay.StatusOf(reading.Order), changes: changes, position: standing.Position,
	}, nil
}

// append stores one event: of a notification, or with none a reconciled change.
func (p *Publisher) append(ctx context.Context, a *appendix, n *relay.Received) error {
	now := p.now()
	s := &a.state
	sequence := relay.NextSequence(now.Add(p.ahead), s.Sequence)
	data := relay.OrderData{
		Order: a.reading.Order, ReadAt: a.reading.ReadAt.UTC(), Revision: s.Revision + 1, Changes: a.changes, Origin: relay.OriginReconciliation,
	}
	if s.Status != "" {
		previous := s.Status
		data.PreviousStatus = &previous
	}
	typ, at, ref := relay.TypeOrderUpdated, a.reading.ReadAt, store.InboxRef{}
	if n != nil {
		data.Notification, data.Origin = &n.Info, relay.OriginNotification
		ref = refOf(*n)
		if audatex.IsCreated(n.Info.Topic) {
			typ = relay.TypeOrderCreated
		}
		var ok bool
		if at, ok = audatex.ParseTime(n.Info.CreatedAt, p.location); !ok {
			at = n.Info.ReceivedAt
		}
	}
	ev, err := relay.NewOrderEvent(p.base, s.Site, s.ID, typ, sequence, at, data)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnfit, err)
	}
	if n != nil {
		ev.CreatedAt, ev.ReceivedAt = at, n.Info.ReceivedAt
	}
	position, err := p.store.Events.Publish(ctx, ev, ref, a.position)
	if err != nil {
		return err
	}
	a.position, a.changes = position, nil
	s.Order, s.ReadAt, s.Status = data.Order, data.ReadAt, a.status
	s.Revision, s.Sequence, s.LogPosition, s.UpdatedAt = data.Revision, sequence, position, now.UTC()
	if n != nil {
		note(s, n.Connection, n.Entry())
	} else {
		s.ReconciledAt = s.UpdatedAt
	}
	p.metrics.published(typ, data, at, now)
	p.log.DebugContext(ctx, "event published", "site", s.Site, "order", s.ID, "event", ev.ID, "position", position)
	return nil
}

// errUnfit says that a reading cannot be written as an event: reading it again would not help.
var errUnfit = errors.New("the reading cannot become an event")

// outcomeOf sorts the errors of a publish. What is not known to have failed is unclear: then only the log can say.
func outcomeOf(err error) relay.PublishOutcome {
	switch {
	case errors.Is(err, store.ErrTooLarge):
		return relay.TooLarge
	case errors.Is(err, errUnfit), errors.Is(err, store.ErrUnfit):
		return relay.Unfit
	case errors.Is(err, store.ErrUnavailable):
		return relay.StoreTrouble
	}
	return relay.ReadAgain
}

func refOf(n relay.Received) store.InboxRef {
	return store.InboxRef{Connection: n.Connection, Seq: n.Seq, Index: n.Index}
}

// note keeps the highest inbox entry that has an event, for each connection.
func note(s *relay.OrderState, connection string, entry uint64) {
	if s.Published == nil {
		s.Published = map[string]uint64{}
	}
	s.Published[connection] = max(s.Published[connection], entry)
}
