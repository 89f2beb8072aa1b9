package resolver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Retry resolves one notification of relay_unresolved now. It needs no ownership: the log's condition is
// the referee. Of the site, the connection's present mapping counts if the notification's own was unknown.
func (r *Resolver) Retry(ctx context.Context, id string) (outcome relay.RetryOutcome, err error) {
	doc, _, err := r.store.Unresolved.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return relay.RetryNotFound, err
	}
	if err != nil {
		return relay.RetryUnavailable, err
	}
	r.RetryAll(ctx, []relay.Unresolved{doc}, func(_ string, o relay.RetryOutcome, e error) { outcome, err = o, e })
	return outcome, err
}

// RetryAll resolves notifications of relay_unresolved now, as Retry does, and calls each with the
// outcome of every one. Those of one order share one reading of it; a connection's orders are read
// in the order of their inbox entries. The bytes of docs are not needed, as what is stored is read
// again. What is not tried because ctx has ended is relay.RetryUnavailable.
func (r *Resolver) RetryAll(ctx context.Context, docs []relay.Unresolved, each func(id string, outcome relay.RetryOutcome, err error)) {
	docs = slices.Clone(docs)
	slices.SortStableFunc(docs, func(a, b relay.Unresolved) int {
		return cmp.Or(cmp.Compare(a.Connection, b.Connection), cmp.Compare(a.InboxEntry, b.InboxEntry))
	})
	for len(docs) > 0 {
		n := slices.IndexFunc(docs, func(d relay.Unresolved) bool { return d.Connection != docs[0].Connection })
		if n < 0 {
			n = len(docs)
		}
		r.retryOf(ctx, docs[:n], each)
		docs = docs[n:]
	}
}

// retryOf is RetryAll for one connection.
func (r *Resolver) retryOf(ctx context.Context, docs []relay.Unresolved, each func(string, relay.RetryOutcome, error)) {
	connection, _, err := r.store.Connections.Get(ctx, docs[0].Connection)
	if err != nil {
		outcome := relay.RetryUnavailable
		if errors.Is(err, store.ErrNotFound) {
			outcome, err = relay.RetryRefused, fmt.Errorf("its connection is gone: %w", err)
		}
		for _, d := range docs {
			each(d.ID, outcome, fmt.Errorf("retry %s: %w", d.ID, err))
		}
		return
	}
	groups, order := map[string][]string{}, []string(nil)
	for _, d := range docs {
		key := d.ID // what no order can be taken from is on its own
		if d.Order != "" {
			key = laneOf(cmp.Or(d.Site, connection.SiteOf(d.VendorSite)), d.Order)
		}
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], d.ID)
	}
	for _, key := range order {
		r.retryOrder(ctx, connection, groups[key], func(id string, begun func()) (json.RawMessage, error) {
			return r.cfg.Orders.Order(ctx, connection.ID, id, func() (context.Context, error) {
				begun()
				return ctx, nil
			})
		}, each)
	}
}

// shelved is an unresolved notification as it is stored, read again.
type shelved struct {
	doc      relay.Unresolved
	revision uint64
	item     *item
}

// retryOrder resolves unresolved notifications of one connection and order.
func (r *Resolver) retryOrder(ctx context.Context, c relay.Connection, ids []string, ask fetchOrder, each func(id string, outcome relay.RetryOutcome, err error)) {
	var retried []shelved
	for _, id := range ids {
		doc, revision, err := r.store.Unresolved.Get(ctx, id)
		switch {
		case errors.Is(err, store.ErrNotFound):
			each(id, relay.RetryNotFound, err)
			continue
		case err != nil:
			each(id, relay.RetryUnavailable, err)
			continue
		}
		it := itemOfUnresolved(doc, c)
		switch {
		case it.site == "" || it.order == "":
			each(id, relay.RetryRefused, fmt.Errorf("retry %s: %s", id, it.detail))
		case len(retried) > 0 && it.lane() != retried[0].item.lane():
			each(id, relay.RetryUnavailable, fmt.Errorf("retry %s: its connection was changed meanwhile", id))
		default:
			retried = append(retried, shelved{doc, revision, it})
		}
	}
	if len(retried) == 0 {
		return
	}
	received := r.receivedAside(retried)
	first := retried[0].item
	outcome, err := r.read(ctx, first.site, first.order, received, ask)
	for _, s := range retried {
		result, err := relay.RetryUnavailable, err // readUnavailable, readContested, readStoreFailed
		switch outcome {
		case readPublished, readUnnecessary:
			// A crash before this leaves a document whose notification has its event; the next
			// retry finds that.
			if err = r.takeFromAside(ctx, s); err == nil {
				result = relay.RetryResolved
			}
		case readRefused, readUnfit, readTooLarge:
			result = relay.RetryRefused
			r.stays(ctx, s, outcome, err)
		case readUnavailable, readContested, readStoreFailed:
		}
		if err != nil {
			err = fmt.Errorf("retry %s: %w", s.doc.ID, err)
		}
		each(s.doc.ID, result, err)
	}
}

// takeFromAside removes a notification that has its event. One that was changed meanwhile is left to
// whoever changed it.
func (r *Resolver) takeFromAside(ctx context.Context, s shelved) error {
	err := r.store.Unresolved.Delete(ctx, s.doc.ID, s.revision)
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("remove the unresolved notification %s: %w", s.doc.ID, err)
	}
	return nil
}

// stays notes why a notification that was retried is still unresolved. Where that cannot be stored, the
// reason before stays.
func (r *Resolver) stays(ctx context.Context, s shelved, outcome reading, cause error) {
	now, detail := r.cfg.Now().UTC(), cause.Error()
	if outcome == readTooLarge {
		detail = r.tooLarge(cause)
	}
	doc := s.doc
	doc.Site, doc.Reason, doc.Detail, doc.RetriedAt = s.item.site, string(refusal(outcome, cause)), bounded(detail), &now
	if _, err := r.put(ctx, &doc, s.revision); err != nil && !contested(err) {
		r.log.WarnContext(ctx, "why an unresolved notification stays could not be stored", "unresolved", doc.ID, "reason", doc.Reason, "error", err)
	}
}

// refusal names why an order cannot become an event although the vendor could be asked.
func refusal(outcome reading, cause error) reason {
	switch outcome {
	case readUnfit:
		return reasonUnfit
	case readTooLarge:
		return reasonTooLarge
	case readPublished, readUnnecessary, readRefused, readUnavailable, readContested, readStoreFailed:
	}
	return reason(audatex.OutcomeOf(cause).String())
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
	if it.site != "" && it.order != "" {
		it.reason = ""
	}
	return it
}
