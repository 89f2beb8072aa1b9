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
	reasonUnfit       reason = "unfit"         // the order does not make an event: too large for the log
)

// setAside moves a notification to relay_unresolved and tells of it. It comes before the notification is settled, and doing it twice does
// it once; of the operational event there may be two.
func (r *Resolver) setAside(ctx context.Context, it *item, why reason, detail string) error {
	n := it.received()
	doc := relay.Unresolved{
		ID: n.String(), Connection: it.connection, Site: it.site, Order: it.order, Reason: string(why), Detail: bounded(detail), Raw: it.raw,
		InboxEntry: it.entry(), ReceivedAt: it.info.ReceivedAt.UTC(), UnresolvedAt: r.cfg.Now().UTC(),
	}
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
	r.cfg.Metrics.setAside(why)
	r.cfg.Metrics.settled(it, "unresolved")
	r.log.WarnContext(ctx, "notification set aside", "connection", it.connection, "site", it.site, "order", it.order, "unresolved", doc.ID,
		"reason", doc.Reason, "detail", doc.Detail)
	return nil
}

// keep stores the document unless it is there already.
func (r *Resolver) keep(ctx context.Context, doc relay.Unresolved) error {
	_, err := r.store.Unresolved.Create(ctx, doc.ID, doc)
	if !contested(err) {
		return err
	}
	there, _, err := r.store.Unresolved.Get(ctx, doc.ID)
	switch {
	case errors.Is(err, store.ErrNotFound): // the write without an answer did not come about
		_, err = r.store.Unresolved.Create(ctx, doc.ID, doc)
		return err
	case err != nil:
		return err
	case there.ReceivedAt.Equal(doc.ReceivedAt):
		return nil
	}
	// An inbox restored from a backup gives its numbers out anew: this is another notification.
	doc.ID += "-" + strconv.FormatInt(doc.ReceivedAt.UnixMicro(), 10)
	if _, err = r.store.Unresolved.Create(ctx, doc.ID, doc); errors.Is(err, store.ErrConflict) {
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
