package resolver

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// aside is what a runner knows of a notification of its connection that is in relay_unresolved and may be
// retried by itself. The bytes of the notification stay in the store.
type aside struct {
	id         string
	entry      uint64
	site       string // "" if the vendor's site was mapped to none
	vendorSite string
	order      string
	reason     reason
	judged     time.Time // when it was set aside, or last retried in vain
	published  bool      // the event about its vendor site is in the log
	unread     *item     // not nil: it was read from the inbox and will be set aside, but is not in the store yet
}

// retriedByItself reports whether a reason may end without a request for a retry: because its vendor site
// is mapped, or a user consents again.
func (r reason) retriedByItself() bool { return r == reasonSiteUnknown || r.endsWithConsent() }

// endsWithConsent reports whether a new consent may make an order readable that was not.
func (r reason) endsWithConsent() bool { return r == reasonForbidden || r == reasonHeldTooLong }

// asides has the asides of one connection. The runner loads them when it takes the connection over, and adds
// each notification that it sets aside. If an operator removes one, this is noticed when it is retried.
type asides struct {
	publishing     sync.Mutex // serializes publishUnknownSite
	mu             sync.Mutex // of all below
	byID           map[string]*aside
	byOrder        map[string]map[string]*aside
	unknown        map[string]*unknownSite // by the vendor's id
	publishedSites int                     // of unknown, those that were published
}

// unknownSite is a vendor site that is mapped to no site, so that its notifications are set aside.
type unknownSite struct {
	many      int
	since     time.Time
	published bool // the event about it is in the log
}

func asideOf(doc relay.Unresolved) *aside {
	a := &aside{
		id: doc.ID, entry: doc.InboxEntry, site: doc.Site, vendorSite: doc.VendorSite, order: doc.Order,
		reason: reason(doc.Reason), judged: doc.UnresolvedAt, published: doc.Published,
	}
	if doc.RetriedAt != nil {
		a.judged = *doc.RetriedAt
	}
	return a
}

// unreadAside returns the aside of a notification that was read and will be set aside.
func unreadAside(it *item) *aside {
	return &aside{
		id: it.received().UnresolvedID(), entry: it.entry(), vendorSite: bounded(it.info.SiteID), order: it.order,
		reason: it.reason, unread: it,
	}
}

// put adds or replaces a notification; one that is not retried by itself is removed.
func (s *asides) put(a *aside) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(a.id)
	if a.order == "" || !a.reason.retriedByItself() {
		return
	}
	if s.byID == nil {
		s.byID, s.byOrder = map[string]*aside{}, map[string]map[string]*aside{}
	}
	s.byID[a.id] = a
	if s.byOrder[a.order] == nil {
		s.byOrder[a.order] = map[string]*aside{}
	}
	s.byOrder[a.order][a.id] = a
	if a.reason != reasonSiteUnknown || a.unread != nil {
		return
	}
	u := s.unknown[a.vendorSite]
	if u == nil {
		if s.unknown == nil {
			s.unknown = map[string]*unknownSite{}
		}
		u = &unknownSite{since: a.judged}
		s.unknown[a.vendorSite] = u
	}
	u.many++
	if a.judged.Before(u.since) {
		u.since = a.judged
	}
	if a.published {
		s.setPublished(u)
	}
}

func (s *asides) setPublished(u *unknownSite) {
	if !u.published {
		u.published = true
		s.publishedSites++
	}
}

// drop removes a notification that is no longer in the store.
func (s *asides) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(id)
}

func (s *asides) remove(id string) {
	a := s.byID[id]
	if a == nil {
		return
	}
	delete(s.byID, id)
	if delete(s.byOrder[a.order], id); len(s.byOrder[a.order]) == 0 {
		delete(s.byOrder, a.order)
	}
	u := s.unknown[a.vendorSite]
	if a.reason != reasonSiteUnknown || a.unread != nil || u == nil {
		return
	}
	if u.many--; u.many == 0 {
		if u.published {
			s.publishedSites--
		}
		delete(s.unknown, a.vendorSite)
	}
}

// ofOrder returns the notifications of an order, sorted by their inbox entries.
func (s *asides) ofOrder(order string) []aside {
	s.mu.Lock()
	defer s.mu.Unlock()
	return inOrder(s.byOrder[order])
}

// all returns the notifications that are in the store, sorted by their inbox entries.
func (s *asides) all() []aside {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(inOrder(s.byID), func(a aside) bool { return a.unread != nil })
}

func inOrder(of map[string]*aside) []aside {
	if len(of) == 0 {
		return nil
	}
	sorted := make([]aside, 0, len(of))
	for _, a := range of {
		sorted = append(sorted, *a)
	}
	slices.SortFunc(sorted, func(a, b aside) int {
		return cmp.Or(cmp.Compare(a.entry, b.entry), cmp.Compare(a.id, b.id))
	})
	return sorted
}

// empty reports whether there is no notification that could be retried by itself.
func (s *asides) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byID) == 0
}

// unknownSite returns since when notifications of an unknown vendor site are set aside, whether that was
// published, and for how many sites it was.
func (s *asides) unknownSite(vendorSite string) (since time.Time, published bool, publishedSites int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.unknown[vendorSite]; u != nil {
		since, published = u.since, u.published
	}
	return since, published, s.publishedSites
}

// markPublished notes that the event about a vendor site is in the log.
func (s *asides) markPublished(vendorSite string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.unknown[vendorSite]; u != nil {
		s.setPublished(u)
	}
}
