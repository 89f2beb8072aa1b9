package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// RetryOutcome is what an operator's retry of an unresolved notification came to.
type RetryOutcome int

// How a retry ends.
const (
	RetryResolved    RetryOutcome = iota // its event is in the log; it is unresolved no more
	RetryNotFound                        // there is no such unresolved notification
	RetryRefused                         // it still cannot be resolved; the error says why
	RetryUnavailable                     // the vendor or the store cannot be asked now
)

// Retry resolves one notification of relay_unresolved now. It needs no ownership: the log's condition is the referee. Of the site,
// the connection's present mapping counts if the notification's own was unknown.
func (r *Resolver) Retry(ctx context.Context, id string) (RetryOutcome, error) {
	doc, revision, err := r.store.Unresolved.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return RetryNotFound, err
	}
	if err != nil {
		return RetryUnavailable, err
	}
	connection, _, err := r.store.Connections.Get(ctx, doc.Connection)
	if errors.Is(err, store.ErrNotFound) {
		return RetryRefused, fmt.Errorf("retry %s: its connection is gone: %w", id, err)
	}
	if err != nil {
		return RetryUnavailable, err
	}
	it := itemOfUnresolved(doc, connection)
	if it.site == "" || it.order == "" {
		return RetryRefused, fmt.Errorf("retry %s: %s", id, it.detail)
	}
	ask := func(order string) (json.RawMessage, error) {
		return r.cfg.Orders.Order(ctx, it.connection, order, func() (context.Context, error) { return ctx, nil })
	}
	switch outcome, err := r.read(ctx, it.site, it.order, []relay.Received{it.received()}, ask); outcome {
	case readPublished, readUnnecessary:
		// A crash before this leaves a document whose notification has its event; the next retry finds that.
		if err := r.store.Unresolved.Delete(ctx, id, revision); err != nil && !errors.Is(err, store.ErrConflict) {
			return RetryUnavailable, fmt.Errorf("remove the unresolved notification %s: %w", id, err)
		}
		return RetryResolved, nil
	case readRefused, readUnfit, readTooLarge:
		return RetryRefused, fmt.Errorf("retry %s: %w", id, err)
	default: // readUnavailable, readContested, readStuck
		return RetryUnavailable, fmt.Errorf("retry %s: %w", id, err)
	}
}

// itemOfUnresolved reads a kept notification again.
func itemOfUnresolved(doc relay.Unresolved, c relay.Connection) *item {
	seq, index := relay.UnpackEntry(doc.InboxEntry)
	it := &item{detail: "nothing of it is kept"}
	if items := itemsOf(store.Page{Seq: seq, Connection: doc.Connection, ReceivedAt: doc.ReceivedAt, Site: c.Site, Sites: c.Sites, Body: doc.Raw}); len(items) > 0 {
		it = items[0]
	}
	it.connection, it.page, it.index = doc.Connection, seq, index
	if it.info.ReceivedAt.IsZero() { // aged out: only the order was still known
		it.info.ReceivedAt = doc.UnresolvedAt
	}
	if doc.Site != "" {
		it.site = doc.Site
	}
	if doc.Order != "" {
		it.order = doc.Order
	}
	return it
}
