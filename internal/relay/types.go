package relay

import (
	"fmt"
	"slices"
	"strings"
)

// maxType is the longest text, in bytes, that is compared with the known types.
const maxType = 128

// typeChoices returns what a filter's types may contain: every type, and every beginning of one
// followed by `*`. The types of orders come first.
func typeChoices() []string {
	types := []string{TypeOrderCreated, TypeOrderUpdated}
	for _, k := range Kinds() {
		types = append(types, OperationalPrefix+string(k))
	}
	choices := slices.Clone(types)
	for _, t := range types {
		for i := range len(t) {
			if pattern := t[:i+1] + "*"; t[i] == '.' && !slices.Contains(choices, pattern) {
				choices = append(choices, pattern)
			}
		}
	}
	return append(choices, "*")
}

// CheckType returns an error unless t may be in a filter's types: a known type, or the beginning of
// one with `*` as the last segment. Anything else would never match an event. The error suggests
// what was probably meant.
func CheckType(t string) error {
	switch {
	case t == "":
		return fmt.Errorf("is empty; leave types out to get every event about orders")
	case len(t) > maxType:
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(t), maxType)
	}
	choices := typeChoices()
	if slices.Contains(choices, t) {
		return nil
	}
	return fmt.Errorf("%q is no type of events; did you mean %q? `*` may be the last segment only", t,
		nearestType(t, choices))
}

// nearestType returns the choice most like t: one that ends with t, or else the one with the fewest
// letters to change.
func nearestType(t string, choices []string) string {
	t = strings.ToLower(strings.Trim(t, " \t\r\n.\"'"))
	if strings.Trim(t, "*>#") == "" {
		return "*"
	}
	nearest, fewest := "", 0
	for _, choice := range choices {
		changes := EditDistance(t, choice)
		if strings.HasSuffix(choice, "."+t) || strings.HasSuffix(choice, "."+t+".*") {
			changes = 0
		}
		if nearest == "" || changes < fewest {
			nearest, fewest = choice, changes
		}
	}
	return nearest
}

// EditDistance returns how many letters must be changed, added or removed to turn one text into the
// other (Levenshtein).
func EditDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0] // of the row above, one to the left
		row[0] = i + 1
		for j := range len(b) {
			changes := before
			if a[i] != b[j] {
				changes = 1 + min(before, row[j], row[j+1])
			}
			before, row[j+1] = row[j+1], changes
		}
	}
	return row[len(b)]
}

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
	return f.matches(slices.Contains, site, typ, order)
}

// MatchesSorted is Matches for a filter whose sites and orders are sorted. It is fast for long
// lists, too.
func (f Filter) MatchesSorted(site, typ, order string) bool {
	return f.matches(Among, site, typ, order)
}

func (f Filter) matches(among func([]string, string) bool, site, typ, order string) bool {
	return (len(f.Sites) == 0 || among(f.Sites, site)) && (len(f.Orders) == 0 || among(f.Orders, order)) && f.matchesType(typ)
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
