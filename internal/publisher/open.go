package publisher

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

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
