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
