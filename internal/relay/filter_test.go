package relay

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// What matches is what every part of a filter that is set lets through, for a sorted filter too; a wide one lets
// through at least as much; and the parts that are about orders keep no operational event back.
func TestAFilterMatchesWhatAllItsPartsDo(t *testing.T) {
	t.Parallel()
	sites, orders := []string{"york", "leeds", "bath"}, []string{"c", "a", "b"}
	types := []string{TypeOrderCreated, TypeOrderUpdated, OperationalPrefix + string(KindLogClamped)}
	statuses := []string{"New", "Confirmed", "Renewed by the vendor", ""}
	some := func(t *rapid.T, of []string, name string) []string {
		return rapid.SliceOfN(rapid.SampledFrom(of), 0, 3).Draw(t, name)
	}
	rapid.Check(t, func(t *rapid.T) {
		f := Filter{
			Sites: some(t, sites[:2], "sites"), Orders: some(t, orders[:2], "orders"),
			Types:         some(t, append(types, "*", "audatex.relay.*"), "types"),
			OrderStatuses: some(t, []string{"NEW", "confirmed", "Renewed by the vendor"}, "statuses"),
			ChangedOnly:   rapid.Bool().Draw(t, "changedOnly"),
		}
		e := Traits{
			Site: rapid.SampledFrom(sites).Draw(t, "site"), Order: rapid.SampledFrom(orders).Draw(t, "order"),
			Type: rapid.SampledFrom(types).Draw(t, "type"), Status: rapid.SampledFrom(statuses).Draw(t, "status"),
			Changed: rapid.Bool().Draw(t, "changed"),
		}
		operational := strings.HasPrefix(e.Type, OperationalPrefix)
		want := (len(f.Sites) == 0 || slices.Contains(f.Sites, e.Site)) &&
			(len(f.Orders) == 0 || slices.Contains(f.Orders, e.Order))
		if operational {
			want = want && (slices.Contains(f.Types, e.Type) || slices.Contains(f.Types, "audatex.relay.*"))
		} else {
			want = want && (len(f.Types) == 0 || slices.Contains(f.Types, e.Type) || slices.Contains(f.Types, "*"))
			named := len(f.OrderStatuses) == 0
			for _, s := range f.OrderStatuses {
				named = named || strings.EqualFold(s, e.Status)
			}
			want = want && named && (e.Changed || !f.ChangedOnly)
		}
		sorted := f
		sorted.Sites, sorted.Orders = Sorted(f.Sites), Sorted(f.Orders)
		if got, inSorted := f.Matches(e), sorted.MatchesSorted(e); got != want || inSorted != want {
			t.Fatalf("%+v matches %+v: %t, sorted %t, want %t", f, e, got, inSorted, want)
		}
		if want && !f.Wide().Matches(Traits{Site: e.Site, Type: e.Type, Order: e.Order}) {
			t.Fatalf("%+v matches, and does not when it is wide", e)
		}
	})
}

// A filter takes the vendor's statuses and those that it may add, and refuses what can only be a mistake.
func TestStatusesOfFilters(t *testing.T) {
	t.Parallel()
	for _, s := range append(slices.Clone(orderStatuses), "new", "RETURNACCEPTED", "OnHold",
		"Renew", "Teilgeliefert", "待機") {
		if err := CheckOrderStatus(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for s, says := range map[string]string{
		"": "is empty", "  ": "is empty", " New": "white space", "Ne\x00w": "control character",
		strings.Repeat("x", MaxStatus+1): "at most 64", "Confirmes": `"Confirmed"`, "canceled": `"Cancelled"`,
		"Return Accepted": `"ReturnAccepted"`, "RETURN_REJECTED": `"ReturnRejected"`,
	} {
		if err := CheckOrderStatus(s); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %s", s, err, says)
		}
	}
}
