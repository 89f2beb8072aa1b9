// Package publisher puts events into the public log: the third step of a notification's way, after the resolver and
// before the readers of the log. There is exactly one event for each notification, in the order in which the orders
// were read. Begin with Begin (position.go) and Publish (publisher.go).
package publisher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Config is what a Publisher needs. Store is required.
type Config struct {
	Store *store.Store
	// PublicURL is the relay's public address, where the schemas are served. Without it their
	// addresses are relative.
	PublicURL string
	// Location is the zone of vendor times without one (RELAY_AUDATEX_TIMEZONE); UTC if nil.
	Location *time.Location
	Metrics  *Metrics
	// Ahead is how far sequences run ahead of the clock, so that no sequence is used again that was
	// published after a backup and lost with its store (topology.Mark).
	Ahead time.Duration
	Log   *slog.Logger     // slog.Default() if nil
	Now   func() time.Time // time.Now if nil
}

// Publisher writes events. It is safe for concurrent use: the conditions of the log decide between
// concurrent calls.
//
// The store by itself only promises "at least once". Three rules turn that into "exactly once":
//
//   - An order's position in the log is read (Begin) before the order is read from the vendor, and
//     every event is published under the condition that the position has not changed. If another
//     event came in between, the log refuses. So an older reading can never follow a newer one, and
//     two publishers of one order can never both succeed.
//   - The headers of every event name the inbox entry that it was made for. After a crash, or a
//     lost response, the log itself shows which notifications have their event.
//   - The document in relay_orders is only a shortcut. What it lacks is read from the log; where
//     the two disagree (because the log was restored from a backup), the log is believed.
type Publisher struct {
	c       Config
	repeats *lru.Cache[string, time.Time] // when operational events were published, by their text
	turns   turns
}

// New returns a Publisher.
func New(c Config) *Publisher {
	c.PublicURL, c.Log = strings.TrimRight(c.PublicURL, "/"), cmp.Or(c.Log, slog.Default())
	if c.Now == nil {
		c.Now = time.Now
	}
	repeats, _ := lru.New[string, time.Time](maxRepeats) // it fails only without a size
	return &Publisher{c: c, repeats: repeats, turns: newTurns()}
}

// Publish publishes an event for each waiting notification from one reading of the order, which
// must have begun after Begin returned the position. The first event contains the changes; the
// others contain none. It returns one of the outcomes; the error, if any, is only for the log.
func (p *Publisher) Publish(
	ctx context.Context, pos relay.OrderPosition, reading relay.Snapshot,
) (relay.PublishOutcome, error) {
	a, err := p.appender(pos, reading)
	if err != nil {
		return relay.Unfit, err
	}
	if err := p.markOpen(ctx, pos.State, pos.Waiting, a.status); err != nil {
		return relay.StoreTrouble, err
	}
	if err := p.index(ctx, pos.State, a.number); err != nil {
		return relay.StoreTrouble, err
	}
	for _, n := range pos.Waiting {
		if err := p.append(ctx, a, &n); err != nil {
			return outcomeOf(err), fmt.Errorf("publish notification %s of order %s at site %s: %w", n, a.state.ID,
				a.state.Site, err)
		}
	}
	if err := p.save(ctx, a.state, pos.Revision); err != nil {
		return relay.StoreTrouble, err
	}
	return relay.Published, nil
}

// Reconcile publishes one event for a reading without a notification, if the order has changed
// since it was last read, and reports whether it had. A new order counts as changed, and one whose
// last event is lost.
func (p *Publisher) Reconcile(
	ctx context.Context, pos relay.OrderPosition, reading relay.Snapshot,
) (changed bool, outcome relay.PublishOutcome, err error) {
	a, err := p.appender(pos, reading)
	if err != nil {
		return false, relay.Unfit, err
	}
	if !a.changed {
		return false, relay.Published, nil
	}
	if err := p.markOpen(ctx, pos.State, nil, a.status); err != nil {
		return false, relay.StoreTrouble, err
	}
	if err := p.index(ctx, pos.State, a.number); err != nil {
		return false, relay.StoreTrouble, err
	}
	if err := p.append(ctx, a, nil); err != nil {
		return false, outcomeOf(err),
			fmt.Errorf("publish the reconciled order %s at site %s: %w", a.state.ID, a.state.Site, err)
	}
	if err := p.save(ctx, a.state, pos.Revision); err != nil {
		return true, relay.StoreTrouble, err
	}
	return true, relay.Published, nil
}

// appender is the state while events are appended to an order: each event moves it forward.
type appender struct {
	state    relay.OrderState // as of the last event
	reading  relay.Snapshot
	status   string         // of the reading
	number   string         // of the order at the shop, of the reading
	changes  []relay.Change // for the next event
	changed  bool           // there are some, the order was never read before, or its last event is lost
	position uint64         // of the last event
}

func (p *Publisher) appender(pos relay.OrderPosition, reading relay.Snapshot) (*appender, error) {
	changes, err := relay.Diff(pos.State.Order, reading.Order)
	if err != nil {
		return nil, fmt.Errorf("compare the readings of order %s: %w", pos.State.ID, err)
	}
	status, reference := relay.StatusAndReference(reading.Order)
	return &appender{
		state: cloneState(pos.State), reading: reading, status: status, number: reference,
		changes: changes, changed: len(changes) > 0 || len(pos.State.Order) == 0 || pos.Unlogged, position: pos.Position,
	}, nil
}

// append stores one event: for a notification or, without one, for a reconciled change.
func (p *Publisher) append(ctx context.Context, a *appender, n *relay.Received) error {
	now := p.c.Now()
	s := &a.state
	sequence := relay.NextSequence(now.Add(p.c.Ahead), s.Sequence)
	data := relay.OrderData{
		Order: a.reading.Order, ReadAt: a.reading.ReadAt.UTC(), Revision: s.Revision + 1,
		Changes: a.changes, Origin: relay.OriginReconciliation,
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
		if at, ok = audatex.ParseTime(n.Info.CreatedAt, p.c.Location); !ok {
			at = n.Info.ReceivedAt
		}
	}
	ev, err := relay.NewOrderEvent(p.c.PublicURL, s.Site, s.ID, typ, sequence, at, data)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnfit, err)
	}
	ev.Status, ev.Changed = a.status, a.changed
	if n != nil {
		ev.CreatedAt, ev.ReceivedAt, ev.Held = at, n.Info.ReceivedAt, n.Held
	}
	position, err := p.c.Store.Events.Publish(ctx, ev, ref, a.position)
	if err != nil {
		return err
	}
	a.position, a.changes, a.changed = position, nil, false
	s.Order, s.ReadAt, s.Status, s.Reference = data.Order, data.ReadAt, a.status, a.number
	s.Revision, s.Sequence, s.LogPosition, s.UpdatedAt = data.Revision, sequence, position, now.UTC()
	if n != nil {
		notePublished(s, n.Connection, n.Entry())
	} else {
		s.ReconciledAt = s.UpdatedAt
	}
	p.c.Metrics.published(typ, data, at, now)
	p.c.Log.DebugContext(ctx, "event published", "site", s.Site, "order", s.ID, "event", ev.ID, "position", position)
	return nil
}

// errUnfit means that a reading cannot be encoded as an event. Reading it again would not help.
var errUnfit = errors.New("the reading cannot become an event")

// outcomeOf returns the outcome for an error of a publish. If it is unclear whether the event was
// stored, the log must be read again.
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

// notePublished records the highest inbox entry of each connection that has an event.
func notePublished(s *relay.OrderState, connection string, entry uint64) {
	if s.Published == nil {
		s.Published = map[string]uint64{}
	}
	s.Published[connection] = max(s.Published[connection], entry)
}

// listPeriod divides time into periods. The first event of an order in each period writes its
// entries in relay_open again, so that the entries of an active order never expire
// (topology.OpenAge).
const listPeriod = 30 * 24 * time.Hour

// markOpen makes sure that the order has an entry in relay_open for every connection through which
// it was seen, before an event of it is stored. Nothing is written if the connection already has an
// event of the order in this period and the order was open then: entries of open orders are never
// removed (internal/reconciler).
func (p *Publisher) markOpen(ctx context.Context, s relay.OrderState, waiting []relay.Received, status string) error {
	if relay.IsClosed(status) {
		return nil
	}
	now := p.c.Now()
	again := relay.IsClosed(s.Status) || s.UpdatedAt.UnixNano()/int64(listPeriod) != now.UnixNano()/int64(listPeriod)
	var unlisted []string
	for _, n := range waiting {
		if s.Published[n.Connection] == 0 && !slices.Contains(unlisted, n.Connection) {
			unlisted = append(unlisted, n.Connection)
		}
	}
	if again {
		unlisted = slices.AppendSeq(unlisted, maps.Keys(s.Published))
	}
	if len(unlisted) == 0 {
		return nil
	}
	entry := relay.OpenOrder{ListedAt: now.UTC()}
	if len(unlisted) == 1 {
		return p.c.Store.Open.Set(ctx, relay.OpenKey(unlisted[0], s.Site, s.ID), entry)
	}
	puts := make([]store.Put[relay.OpenOrder], len(unlisted))
	for i, connection := range unlisted {
		puts[i] = store.Put[relay.OpenOrder]{Key: relay.OpenKey(connection, s.Site, s.ID), Value: entry,
			Revision: store.AnyRevision}
	}
	for i, r := range p.c.Store.Open.PutAll(ctx, puts) {
		if r.Err != nil {
			return fmt.Errorf("list order %s as open: %w", puts[i].Key, r.Err)
		}
	}
	return nil
}

// index makes sure that the order is found by a reference, before an event with that reference is
// stored. After a crash in between, the entry leads to an order that does not have the reference yet,
// which does no harm. An order whose reference has not changed costs nothing.
func (p *Publisher) index(ctx context.Context, s relay.OrderState, reference string) error {
	if reference == "" || reference == s.Reference {
		return nil
	}
	return p.c.Store.References.Set(ctx, relay.ReferenceKey(reference, s.Site, s.ID),
		relay.Referenced{ListedAt: p.c.Now().UTC()})
}
