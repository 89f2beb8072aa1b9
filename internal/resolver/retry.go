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

// Retry resolves one notification of relay_unresolved now. Any replica may do so: if several do, the log's
// condition decides. If the site of the notification was unknown, the connection's present mapping counts.
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
func (r *Resolver) RetryAll(
	ctx context.Context, docs []relay.Unresolved, each func(id string, outcome relay.RetryOutcome, err error),
) {
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
		key := d.ID // without an order it is alone
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

// storedAside is a notification as it is stored in relay_unresolved.
type storedAside struct {
	doc      relay.Unresolved
	revision uint64
	item     *item
}

// retryOrder resolves unresolved notifications of one connection and order.
func (r *Resolver) retryOrder(
	ctx context.Context, c relay.Connection, ids []string, ask fetchOrder,
	each func(id string, outcome relay.RetryOutcome, err error),
) {
	var retried []storedAside
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
			retried = append(retried, storedAside{doc, revision, it})
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
			// A crash before this leaves a document although the notification has its event. The
			// next retry finds that out.
			if err = r.takeFromAside(ctx, s); err == nil {
				result = relay.RetryResolved
			}
		case readRefused, readUnfit, readTooLarge:
			result = relay.RetryRefused
			r.noteStillUnresolved(ctx, s, outcome, err)
		case readUnavailable, readContested, readStoreFailed:
		}
		if err != nil {
			err = fmt.Errorf("retry %s: %w", s.doc.ID, err)
		}
		each(s.doc.ID, result, err)
	}
}

// takeFromAside removes the document of a notification that has its event. If it was changed meanwhile,
// it stays: another replica is working on it.
func (r *Resolver) takeFromAside(ctx context.Context, s storedAside) error {
	err := r.store.Unresolved.Delete(ctx, s.doc.ID, s.revision)
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("remove the unresolved notification %s: %w", s.doc.ID, err)
	}
	return nil
}

// noteStillUnresolved stores why a notification is still unresolved after a retry. If that cannot be stored,
// the document keeps its former reason.
func (r *Resolver) noteStillUnresolved(ctx context.Context, s storedAside, outcome reading, cause error) {
	now, detail := r.cfg.Now().UTC(), cause.Error()
	if outcome == readTooLarge {
		detail = r.tooLarge(cause)
	}
	doc := s.doc
	doc.Site, doc.Reason, doc.Detail, doc.RetriedAt = s.item.site,
		string(refusal(outcome, cause)), bounded(detail), &now
	if _, err := r.put(ctx, &doc, s.revision); err != nil && !contested(err) {
		r.log.WarnContext(ctx, "why an unresolved notification stays could not be stored", "unresolved", doc.ID,
			"reason", doc.Reason, "error", err)
	}
}

// refusal returns why an order cannot become an event although the vendor could be asked.
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

// itemOfUnresolved returns the notification of a document.
func itemOfUnresolved(doc relay.Unresolved, c relay.Connection) *item {
	seq, index := relay.UnpackEntry(doc.InboxEntry)
	it := &item{detail: "nothing of it is kept"}
	page := store.Page{
		Seq: seq, Connection: doc.Connection, ReceivedAt: doc.ReceivedAt, Site: c.Site, Sites: c.Sites, Level: c.Level,
		Body: doc.Raw,
	}
	if items := itemsOf(page); len(items) > 0 {
		it = items[0]
	}
	it.connection, it.page, it.index = doc.Connection, seq, index
	if it.info.ReceivedAt.IsZero() { // its page had left the inbox: only the order was still known
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
