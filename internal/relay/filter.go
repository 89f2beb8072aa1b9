package relay

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Filter selects events: every list that is not empty must match. In the API, too, its members are
// called sites, types, orders, orderStatuses and changedOnly.
type Filter struct {
	Sites  []string `json:"sites,omitempty"`
	Types  []string `json:"types,omitempty"` // exact, or with `*` as the last segment: audatex.parts.*
	Orders []string `json:"orders,omitempty"`
	// OrderStatuses and ChangedOnly are about orders. Operational events pass them.
	OrderStatuses []string `json:"orderStatuses,omitempty"` // of the order after the change, in any case
	ChangedOnly   bool     `json:"changedOnly,omitempty"`   // only events with which something has changed
}

// Traits are what filters look at of an event.
type Traits struct {
	Site, Type, Order string
	Status            string // of the order, as it was read for the event
	Changed           bool   // something has changed since the order's event before, or there was none
}

// Matches reports whether an event matches.
func (f Filter) Matches(of Traits) bool { return f.matches(slices.Contains, of) }

// MatchesSorted is Matches for a filter whose sites and orders are sorted. It is fast for long
// lists, too.
func (f Filter) MatchesSorted(of Traits) bool { return f.matches(Among, of) }

func (f Filter) matches(among func([]string, string) bool, of Traits) bool {
	return (len(f.Sites) == 0 || among(f.Sites, of.Site)) && (len(f.Orders) == 0 || among(f.Orders, of.Order)) &&
		f.matchesType(of.Type) && f.matchesOrder(of)
}

func (f Filter) matchesOrder(of Traits) bool {
	if !f.ChangedOnly && len(f.OrderStatuses) == 0 || strings.HasPrefix(of.Type, OperationalPrefix) {
		return true
	}
	return (of.Changed || !f.ChangedOnly) && (len(f.OrderStatuses) == 0 || slices.ContainsFunc(f.OrderStatuses, of.is))
}

func (t Traits) is(status string) bool { return strings.EqualFold(t.Status, status) }

// Equal reports whether another filter selects in the same way.
func (f Filter) Equal(other Filter) bool {
	return slices.Equal(f.Sites, other.Sites) && slices.Equal(f.Types, other.Types) &&
		slices.Equal(f.Orders, other.Orders) &&
		slices.Equal(f.OrderStatuses, other.OrderStatuses) && f.ChangedOnly == other.ChangedOnly
}

// Wide returns the filter without the parts that need the content of the event: it matches at least as much.
func (f Filter) Wide() Filter { return Filter{Sites: f.Sites, Types: f.Types, Orders: f.Orders} }

// Sorted returns the list itself if it is sorted, otherwise a sorted copy.
func Sorted(list []string) []string {
	if slices.IsSorted(list) {
		return list
	}
	return slices.Sorted(slices.Values(list))
}

// Among reports whether a sorted list contains an entry.
func Among(sorted []string, entry string) bool {
	_, found := slices.BinarySearch(sorted, entry)
	return found
}

func (f Filter) matchesType(typ string) bool {
	if len(f.Types) == 0 {
		return !strings.HasPrefix(typ, OperationalPrefix)
	}
	return slices.ContainsFunc(f.Types, func(t string) bool { return typeMatches(t, typ) })
}

func typeMatches(pattern, typ string) bool {
	stem, wild := strings.CutSuffix(pattern, "*")
	if !wild {
		return pattern == typ
	}
	if !strings.HasPrefix(typ, stem) {
		return false
	}
	// `*` and `audatex.*` mean the parts orders. Operational events need a pattern that begins with
	// their own prefix.
	return !strings.HasPrefix(typ, OperationalPrefix) || strings.HasPrefix(stem, OperationalPrefix)
}

// MaxStatus is the longest status of an order, in bytes, that filters know. The vendor's have at
// most fifteen.
const MaxStatus = 64

// CheckOrderStatus returns an error unless s may be in a filter's statuses. The vendor may add
// statuses, so others than the known ones are taken, but not what looks like a slip of the pen.
func CheckOrderStatus(s string) error {
	switch {
	case strings.TrimSpace(s) == "":
		return fmt.Errorf("is empty; leave orderStatuses out to get the events of every status")
	case strings.TrimSpace(s) != s || strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Errorf("%q has white space around it, or a control character in it: no status is spelled so", s)
	case len(s) > MaxStatus:
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(s), MaxStatus)
	}
	for _, known := range orderStatuses {
		if strings.EqualFold(known, s) {
			return nil
		}
	}
	for _, known := range orderStatuses {
		if EditDistance(strings.ToLower(s), strings.ToLower(known)) <= len(known)/4 {
			return fmt.Errorf("%q is no status of orders; did you mean %q?", s, known)
		}
	}
	return nil
}
