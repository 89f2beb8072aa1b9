package demo

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/ledger"
)

// mostChanges is how many kinds of change are shown of one event; the event has them all.
const mostChanges = 2

// orderInBrief is what is shown of the order itself.
type orderInBrief struct {
	OrderReference, Status string
	Parts                  []json.RawMessage
}

func briefOf(e ledger.Event) orderInBrief {
	var o orderInBrief
	_ = json.Unmarshal(e.Order.JSON, &o) // the vendor's order may hold anything; what cannot be read is left out
	return o
}

// whatChanged describes an event in a few words: first the status, then what happened to parts and
// fields.
func whatChanged(e ledger.Event, paint palette) []string {
	o := briefOf(e)
	said := []string{paint.status(o.Status)}
	switch previous := e.Order.PreviousStatus; {
	case previous == nil:
		said = append(said, plural(len(o.Parts), "part"))
	case *previous != o.Status:
		said[0] = paint.status(*previous) + " → " + paint.status(o.Status)
	}
	kinds := kindsOfChange(e.Order.Changes)
	if previous := e.Order.PreviousStatus; previous != nil {
		// Most parts go the way of their order.
		with := func(k kind) bool { return k.field == "Status" && k.from == *previous && k.to == o.Status }
		if i := slices.IndexFunc(kinds, with); i >= 0 {
			said[0] += " with " + kinds[i].outOf(len(o.Parts))
			kinds = slices.Delete(kinds, i, i+1)
		}
	}
	if e.Order.PreviousStatus != nil && len(e.Order.Changes) == 0 {
		said = append(said, "nothing new since the event before")
	}
	for i, k := range kinds {
		if i == mostChanges {
			said = append(said, fmt.Sprintf("%d more", len(kinds)-i))
			break
		}
		said = append(said, k.String())
	}
	return said
}

// kind is one change that came to one or several parts at once.
type kind struct {
	field, from, to string
	part            string // the number of the part, if it is one
	parts           int    // 0: of the order itself
}

// kindsOfChange puts equal changes of several parts together. The order's own status is shown
// already.
func kindsOfChange(changes []ledger.Change) []kind {
	var kinds []kind
	for _, c := range changes {
		if c.Path == "/Status" {
			continue
		}
		k := kind{field: c.Path[strings.LastIndexByte(c.Path, '/')+1:], from: inWords(c.From), to: inWords(c.To)}
		if c.Part != nil {
			k.parts, k.part = 1, c.Part.OEPartNumber
			if k.part == "" {
				k.part = c.Part.OrderedPartNumber
			}
			if strings.Count(c.Path, "/") == 2 { // the part as a whole
				k.field = ""
			}
		}
		together := false
		for i := range kinds {
			if k.parts > 0 && kinds[i].parts > 0 && kinds[i].field == k.field &&
				kinds[i].from == k.from && kinds[i].to == k.to {
				kinds[i].parts++
				together = true
			}
		}
		if !together {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

// String reads "3 parts New → Confirmed", "part 8K0 807 065 Price 12.50 → 13.00" or "DeliveryDate
// none → 2026-01-17".
func (k kind) String() string {
	what := k.field
	if k.field == "Status" && k.parts > 0 {
		what = ""
	}
	change := k.from + " → " + k.to
	switch {
	case k.parts > 0 && k.field == "" && k.from == "none":
		change = "new"
	case k.parts > 0 && k.field == "":
		change = "gone"
	}
	who := ""
	switch {
	case k.parts == 1 && k.part != "":
		who = "part " + k.part
	case k.parts > 0:
		who = plural(k.parts, "part")
	}
	return strings.Join(strings.Fields(who+" "+what+" "+change), " ")
}

// outOf reads "its 3 parts", or "1 of 3 parts".
func (k kind) outOf(parts int) string {
	switch {
	case k.parts == parts && parts == 1:
		return "its part"
	case k.parts == parts:
		return "its " + plural(parts, "part")
	default:
		return fmt.Sprintf("%d of %s", k.parts, plural(parts, "part"))
	}
}

// inWords writes a JSON value shortly.
func inWords(raw json.RawMessage) string {
	var text string
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return "none"
	case json.Unmarshal(raw, &text) == nil:
		if text == "" {
			return `""`
		}
		if _, err := time.Parse("2006-01-02T15:04", text[:min(16, len(text))]); err == nil {
			text = text[:10] // a delivery's day is enough here
		}
		if text == "0001-01-01" {
			return "none"
		}
	default:
		text = string(raw)
	}
	if r := []rune(text); len(r) > 24 {
		text = string(r[:23]) + "…"
	}
	return text
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if stem, ok := strings.CutSuffix(what, "y"); ok {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, what)
}
