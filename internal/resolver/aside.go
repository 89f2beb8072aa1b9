package resolver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// reason says why a notification lies in relay_unresolved. Besides those below it may be the outcome of reading the order:
// not-found, forbidden, malformed, too-large.
type reason string

const (
	reasonMalformed   reason = "malformed"     // no order can be taken from it
	reasonTopic       reason = "topic"         // it is not about a parts order
	reasonSiteUnknown reason = "site-unknown"  // the vendor's site id is mapped to no site
	reasonAgedOut     reason = "aged-out"      // its page left the inbox before it could be resolved
	reasonHeldTooLong reason = "held-too-long" // the vendor could not be asked for ten days
	reasonUnfit       reason = "unfit"         // the order does not make an event
	reasonTooLarge    reason = "too-large"     // the order's event, or the notification itself, is too large for the store
)

// setAside moves a notification to relay_unresolved and tells of it. It comes before the notification is settled, and doing it twice does
// it once; of the operational event there may be two.
func (r *Resolver) setAside(ctx context.Context, it *item, why reason, detail string) error {
	if it.foreign {
		return r.setForeignAside(ctx, it, why, detail)
	}
	n := it.received()
	doc := r.unresolved(it, n.String(), why, detail)
	if err := r.keep(ctx, doc); err != nil {
		return fmt.Errorf("set notification %s aside: %w", n, err)
	}
	site, kind, about := it.site, relay.KindOrderUnresolved, it.order
	message := fmt.Sprintf("Notification %s could not be resolved (%s); it is kept among the unresolved notifications and can be retried.", doc.ID, why)
	details := map[string]any{"unresolved": doc.ID, "connection": it.connection, "reason": doc.Reason, "detail": doc.Detail}
	if why == reasonSiteUnknown {
		// Without the notification's id: said once for all that come of the same site.
		kind, about = relay.KindSiteUnknown, it.connection
		message = fmt.Sprintf("Notifications of connection %s came for the vendor's site %q, which is mapped to no site; map it. What came until then is kept among the unresolved notifications and can be retried then.", it.connection, it.info.SiteID)
		details = map[string]any{"connection": it.connection, "vendorSite": it.info.SiteID}
	}
	if site == "" {
		site = relay.NoSite
	}
	if about == "" {
		about = it.connection
	}
	if err := r.cfg.Publisher.Operational(ctx, site, kind, about, message, details); err != nil {
		return fmt.Errorf("tell of notification %s: %w", n, err)
	}
	r.isAside(ctx, it, doc)
	return nil
}

// unresolved makes a document of what is set aside.
func (r *Resolver) unresolved(it *item, id string, why reason, detail string) relay.Unresolved {
	doc := relay.Unresolved{
		ID: id, Connection: it.connection, Site: it.site, Order: it.order, Reason: string(why), Detail: bounded(detail), Raw: it.raw, Size: max(it.size, len(it.raw)),
		InboxEntry: it.entry(), ReceivedAt: it.info.ReceivedAt.UTC(), UnresolvedAt: r.cfg.Now().UTC(), Count: 1, LastEntry: it.entry(),
	}
	doc.LastReceivedAt = doc.ReceivedAt
	return doc
}

func (r *Resolver) isAside(ctx context.Context, it *item, doc relay.Unresolved) {
	r.cfg.Metrics.setAside(reason(doc.Reason))
	r.cfg.Metrics.settled(it, "unresolved")
	r.log.WarnContext(ctx, "notification set aside", "connection", it.connection, "site", it.site, "order", it.order, "unresolved", doc.ID,
		"reason", doc.Reason, "detail", doc.Detail, "count", doc.Count)
}

// put stores a document over a revision, 0 for one that is not there yet. Of bytes that do not fit in it the first are kept;
// the inbox has the rest until it ages.
func (r *Resolver) put(ctx context.Context, doc *relay.Unresolved, revision uint64) (uint64, error) {
	const besides = 8 << 10 // of a document: all but the bytes themselves
	doc.Raw = doc.Raw[:min(len(doc.Raw), max(0, (r.store.MaxDocument()-besides)/4*3))]
	for {
		var err error
		var at uint64
		if revision == 0 {
			at, err = r.store.Unresolved.Create(ctx, doc.ID, *doc)
		} else {
			at, err = r.store.Unresolved.Update(ctx, doc.ID, *doc, revision)
		}
		if !errors.Is(err, store.ErrTooLarge) || len(doc.Raw) == 0 {
			return at, err
		}
		doc.Raw = doc.Raw[:len(doc.Raw)/2]
	}
}

// keep stores the document unless it is there already.
func (r *Resolver) keep(ctx context.Context, doc relay.Unresolved) error {
	_, err := r.put(ctx, &doc, 0)
	if !contested(err) {
		return err
	}
	there, _, err := r.store.Unresolved.Get(ctx, doc.ID)
	switch {
	case errors.Is(err, store.ErrNotFound): // the write without an answer did not come about
		_, err = r.put(ctx, &doc, 0)
		return err
	case err != nil:
		return err
	case there.ReceivedAt.Equal(doc.ReceivedAt):
		return nil
	}
	// An inbox restored from a backup gives its numbers out anew: this is another notification.
	doc.ID += "-" + strconv.FormatInt(doc.ReceivedAt.UnixMicro(), 10)
	if _, err = r.put(ctx, &doc, 0); errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}

// lostItem is what is still known of a notification whose page has left the inbox.
func (r *runner) lostItem(lane string, entry uint64) *item {
	site, order, _ := strings.Cut(lane, ".")
	it := &item{connection: r.connection}
	it.page, it.index = relay.UnpackEntry(entry)
	if site != relay.NoSite {
		it.site, it.order = site, order
	}
	return it
}

// bounded keeps foreign text in documents short.
func bounded(s string) string {
	const most = 500
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}
