package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// reason is why a notification is in relay_unresolved: one of those below, or the outcome of reading the
// order (not-found, forbidden, malformed, too-large).
type reason string

const (
	reasonMalformed   reason = "malformed"     // no order can be taken from it
	reasonTopic       reason = "topic"         // it is not about a parts order
	reasonSiteUnknown reason = "site-unknown"  // the vendor's site id is mapped to no site
	reasonAgedOut     reason = "aged-out"      // its page left the inbox before it could be resolved
	reasonHeldTooLong reason = "held-too-long" // the vendor could not be asked for ten days
	reasonUnfit       reason = "unfit"         // the order does not make an event
	reasonForbidden   reason = "forbidden"     // the vendor does not let this connection's user read the order
	// the order's event, or the notification itself, is too large for the store
	reasonTooLarge reason = "too-large"
)

// setAside moves a notification to relay_unresolved and publishes that. It is called before the
// notification is settled. Repeating it is safe, but may publish the event twice.
func (r *runner) setAside(ctx context.Context, it *item, why reason, detail string) error {
	if it.foreign {
		return r.setForeignAside(ctx, it, why, detail)
	}
	n := it.received()
	doc, revision, err := r.keep(ctx, r.unresolved(it, n.UnresolvedID(), why, detail))
	if err != nil {
		return fmt.Errorf("set notification %s aside: %w", n, err)
	}
	r.asides.drop(n.UnresolvedID())
	r.asides.put(asideOf(doc))
	if why == reasonSiteUnknown {
		err = r.publishUnknownSite(ctx, doc, revision)
	} else {
		message := fmt.Sprintf("Notification %s could not be resolved (%s); it is kept among the unresolved "+
			"notifications and can be retried.",
			doc.ID, why)
		err = r.cfg.Publisher.Operational(ctx, cmp.Or(it.site, relay.NoSite), relay.KindOrderUnresolved,
			cmp.Or(it.order, it.connection), message, map[string]any{"unresolved": doc.ID, "connection": it.connection,
				"reason": doc.Reason, "detail": doc.Detail})
	}
	if err != nil {
		return fmt.Errorf("publish an event about notification %s: %w", n, err)
	}
	r.noteAside(ctx, it, doc)
	return nil
}

const (
	// unknownSitesMost is the largest number of unknown vendor sites of one connection that get an event
	// each. It must be bounded, as the vendor chooses the ids.
	unknownSitesMost = 100
	// clocksDiffer is by how much the clocks of replicas may differ.
	clocksDiffer = time.Minute
)

// publishUnknownSite publishes that a vendor site is mapped to no site: once, until no notification
// of it is set aside any more, whichever replica owns the connection. The notification's document
// records that it was published. If a crash prevents that, the event is found in the log.
func (r *runner) publishUnknownSite(ctx context.Context, doc relay.Unresolved, revision uint64) error {
	r.asides.publishing.Lock()
	defer r.asides.publishing.Unlock()
	since, published, many := r.asides.unknownSite(doc.VendorSite)
	if published {
		return nil
	}
	vendorSite := doc.VendorSite
	message := fmt.Sprintf("Notifications of connection %s came for the vendor's site %q, which is mapped to no "+
		"site. Add it to the connection's `sites`: "+
		"what came until then is kept among the unresolved notifications and is retried by itself then.",
		doc.Connection, vendorSite)
	if vendorSite == "" {
		message = fmt.Sprintf("Notifications of connection %s came that name none of the vendor's sites, and it is "+
			"not clear which is meant. "+
			"Set the connection's `site`: what came until then is kept among the unresolved notifications and is "+
			"retried by itself then.", doc.Connection)
	}
	if many >= unknownSitesMost {
		vendorSite = "others"
		message = fmt.Sprintf("Notifications of connection %s came for more than %d different sites of the vendor "+
			"that are mapped to no site; "+
			"further ones get no event each. They are among the unresolved notifications.",
			doc.Connection, unknownSitesMost)
	}
	if since.IsZero() || doc.UnresolvedAt.Before(since) {
		since = doc.UnresolvedAt
	}
	if err := r.cfg.Publisher.Once(ctx, relay.NoSite, relay.KindSiteUnknown, doc.Connection, message,
		map[string]any{"connection": doc.Connection, "vendorSite": vendorSite}, since.Add(-clocksDiffer),
		"vendorSite"); err != nil {
		return err
	}
	r.asides.markPublished(doc.VendorSite)
	doc.Published = true
	_, err := r.put(ctx, &doc, revision)
	if contested(err) || errors.Is(err, store.ErrNotFound) { // removed or changed meanwhile; the event is in the log
		return nil
	}
	return err
}

// unresolved returns the document of something that is set aside.
func (r *Resolver) unresolved(it *item, id string, why reason, detail string) relay.Unresolved {
	doc := relay.Unresolved{
		ID: id, Connection: it.connection, Site: it.site, VendorSite: bounded(it.info.SiteID), Order: it.order,
		Reason: string(why), Detail: bounded(detail), Raw: it.raw, Size: max(it.size, len(it.raw)),
		InboxEntry: it.entry(), ReceivedAt: it.info.ReceivedAt.UTC(), UnresolvedAt: r.cfg.Now().UTC(), Count: 1,
		LastEntry: it.entry(),
	}
	doc.LastReceivedAt = doc.ReceivedAt
	return doc
}

// noteAside counts and logs that something was set aside.
func (r *Resolver) noteAside(ctx context.Context, it *item, doc relay.Unresolved) {
	r.cfg.Metrics.unresolved.WithLabelValues(doc.Reason).Inc()
	r.cfg.Metrics.settled(it, "unresolved")
	r.log.WarnContext(ctx, "notification set aside", "connection", it.connection, "site", it.site, "order", it.order,
		"unresolved", doc.ID, "reason", doc.Reason, "detail", doc.Detail, "count", doc.Count)
}

// put stores a document over a revision; 0: there must be none yet. If not all bytes fit in it, the first
// are kept; the inbox has the others for a while.
func (r *Resolver) put(ctx context.Context, doc *relay.Unresolved, revision uint64) (uint64, error) {
	const besides = 8 << 10 // of a document: all but the bytes themselves
	doc.Raw = doc.Raw[:min(len(doc.Raw), max(0, (r.store.MaxDocument()-besides)/4*3))]
	for {
		at, err := r.store.Unresolved.Save(ctx, doc.ID, *doc, revision)
		if !errors.Is(err, store.ErrTooLarge) || len(doc.Raw) == 0 {
			return at, err
		}
		doc.Raw = doc.Raw[:len(doc.Raw)/2]
	}
}

// keep stores the document unless it is there already, and returns it as it is stored.
func (r *Resolver) keep(ctx context.Context, doc relay.Unresolved) (relay.Unresolved, uint64, error) {
	revision, err := r.put(ctx, &doc, 0)
	if !contested(err) {
		return doc, revision, err
	}
	there, revision, err := r.store.Unresolved.Get(ctx, doc.ID)
	switch {
	case errors.Is(err, store.ErrNotFound): // the write without a response was not stored
		revision, err = r.put(ctx, &doc, 0)
		return doc, revision, err
	case err != nil, there.ReceivedAt.Equal(doc.ReceivedAt):
		return there, revision, err
	}
	// An inbox restored from a backup gives its numbers out again: this is another notification.
	doc.ID += "-" + strconv.FormatInt(doc.ReceivedAt.UnixMicro(), 10)
	if revision, err = r.put(ctx, &doc, 0); errors.Is(err, store.ErrConflict) {
		return r.store.Unresolved.Get(ctx, doc.ID)
	}
	return doc, revision, err
}

// lostItem returns what is still known of a notification whose page has left the inbox.
func (r *runner) lostItem(lane string, entry uint64) *item {
	site, order := cutLane(lane)
	it := &item{connection: r.connection}
	it.page, it.index = relay.UnpackEntry(entry)
	if site != relay.NoSite {
		it.site, it.order = site, order
	}
	return it
}

// bounded returns the beginning of a text that others have chosen, for a document.
func bounded(s string) string {
	const most = 500
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

// contested reports whether the stored document may be another than the one expected: the write was
// refused, or got no response.
func contested(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrUnclear)
}
