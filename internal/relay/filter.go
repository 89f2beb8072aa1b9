package relay

import (
	"slices"
	"strings"
)

// OperationalPrefix begins the type of every operational event. Only filters that name such a type
// match them.
const OperationalPrefix = "audatex.relay."

// Filter selects events: every list that is not empty must match. In the API, too, its lists are
// called sites, types and orders.
type Filter struct {
	Sites  []string `json:"sites,omitempty"`
	Types  []string `json:"types,omitempty"` // exact, or with `*` as the last segment: audatex.parts.*
	Orders []string `json:"orders,omitempty"`
}

// Matches reports whether an event of this site, type and order matches.
func (f Filter) Matches(site, typ, order string) bool {
	if len(f.Sites) > 0 && !slices.Contains(f.Sites, site) {
		return false
	}
	return (len(f.Orders) == 0 || slices.Contains(f.Orders, order)) && f.matchesType(typ)
}

// MatchesSorted is Matches for a filter whose sites and orders are sorted. It is fast for long
// lists, too.
func (f Filter) MatchesSorted(site, typ, order string) bool {
	if len(f.Sites) > 0 && !Among(f.Sites, site) {
		return false
	}
	return (len(f.Orders) == 0 || Among(f.Orders, order)) && f.matchesType(typ)
}

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
