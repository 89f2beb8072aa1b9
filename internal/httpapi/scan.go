package httpapi

import (
	"slices"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// The limits of what one request reads of a log. The next request continues from its cursor.
const (
	maxScanned      = 2_500   // messages
	maxScannedBytes = 8 << 20 // after which no more are read
	firstChunk      = 64      // read at first; later chunks are larger, while the bytes allow it
	maxChunk        = 1_000
)

// scan counts what one request has read of a log.
type scan struct {
	messages, bytes int
	chunk           int // the size of the last one
}

// next returns how many messages to read next if that many are wanted, or 0 if the request has read
// enough.
func (s *scan) next(wanted int) int {
	if s.messages >= maxScanned || s.bytes >= maxScannedBytes {
		return 0
	}
	if s.chunk == 0 {
		s.chunk = min(wanted, firstChunk)
		return s.chunk
	}
	s.chunk = min(4*s.chunk, maxChunk, maxScanned-s.messages)
	if s.messages > 0 {
		s.chunk = min(s.chunk, max((maxScannedBytes-s.bytes)*s.messages/max(s.bytes, 1), 1))
	}
	return s.chunk
}

func (s *scan) add(bytes int) {
	s.messages++
	s.bytes += bytes
}

// form returns the subject of some events, for a site and an order.
type form func(site, order string) string

// formsOf returns the subjects of the events that a filter's types select.
func formsOf(types []string) (forms []form) {
	chosen := relay.Filter{Types: types}
	created, updated := chosen.Matches(relay.Traits{Type: relay.TypeOrderCreated}),
		chosen.Matches(relay.Traits{Type: relay.TypeOrderUpdated})
	switch {
	case created && updated:
		forms = append(forms, topology.OrderFilter)
	case created, updated:
		action := "created"
		if updated {
			action = "updated"
		}
		forms = append(forms, func(site, order string) string { return topology.OrderSubject(site, action, order) })
	}
	if slices.Contains(types, relay.OperationalPrefix+"*") {
		return append(forms, operationalForm("*"))
	}
	for _, k := range relay.Kinds() {
		if slices.Contains(types, relay.OperationalPrefix+string(k)) {
			forms = append(forms, operationalForm(string(k)))
		}
	}
	return forms
}

func operationalForm(kind string) form {
	return func(site, about string) string { return topology.OperationalSubject(site, kind, about) }
}

// subjects limits a reading of the log to what a filter can match and the caller may see; none
// means everything. It may include more than both: what is read is filtered again.
func subjects(c caller, f relay.Filter) []string {
	sites, orders, forms := f.Sites, f.Orders, formsOf(f.Types)
	if len(sites) == 0 {
		switch {
		case c.isAdmin() || c.client.AllSites:
			sites = []string{"*"}
		case len(c.client.Sites) == 0:
			sites = []string{"-"} // the client sees nothing, and no site has this name
		default:
			sites = c.client.Sites
		}
	}
	if len(orders) == 0 {
		orders = []string{"*"}
	}
	// Counted before they are made. A few orders are cheap to find at any site; anything else that
	// is too much is filtered here.
	if len(f.Orders) > 0 && len(sites)*len(orders)*len(forms) > maxFilters {
		sites = []string{"*"}
	}
	if len(sites)*len(orders)*len(forms) > maxFilters {
		return nil
	}
	var all []string
	for _, site := range sites {
		for _, order := range orders {
			for _, subject := range forms {
				all = append(all, subject(site, order))
			}
		}
	}
	if len(f.Sites) == 0 && sites[0] != "*" { // private events have no site
		for _, kind := range relay.PrivateKinds() {
			if !(relay.Filter{Types: f.Types}).Matches(relay.Traits{Type: relay.OperationalPrefix + string(kind)}) {
				continue
			}
			for _, order := range orders {
				all = append(all, topology.OperationalSubject(relay.NoSite, string(kind), order))
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
