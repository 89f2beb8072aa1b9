package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// orderContents are the contents of a generated order. Strings and numbers that come from one of the lists
// below are JSON literals, so that readers get their spelling.
type orderContents struct {
	tame     bool
	supplier string
	delivery string // JSON literal of the date, "" if there is none
	parts    []part
	extra    bool // has unknown fields
	indent   bool // written in several lines
	zone     bool // dates end with Z
	shuffles bool // the order of the parts changes
}

type part struct {
	oe, ordered       string // JSON literals
	quantity          int
	status            string
	repairer, insurer string // JSON numbers
	delivery          string
}

var (
	hostileSuppliers = []string{
		`"O'Brien \"Parts\" & Sons <UK> Ltd"`, `"M\u00fcller S\u00f6hne \/ Teile"`, `"Škoda díly – 部品 🚗"`,
		`"Leeds Motor Factors"`, "\"Line\u2028Separator & Co\"", `"C:\\Parts\tDepot"`, `"  spaced  "`,
	}
	hostilePrices = []string{
		"12.50", "0.1", "1234567.8900", "12.0", "12", "0", "0.00", "99.99", "10.10", "-5.00", "3.3333", "100000000.01",
		"0.30000000000000004", "19.990",
	}
	numbers = []string{"8K0 807 065", "8K0807437", "5Q0-407-151/A", "1K0 615 301 AA", "06H 905 110 G",
		"51117379106", "A2048850825"}
	unknownStatus  = []string{"BackOrdered", "PartiallyDelivered", "AwaitingStock"}
	nothingYetDate = []string{"null", "", `"0001-01-01T00:00:00"`} // "" leaves the field out
)

func newOrderContents(d dice, n int, tame bool) *orderContents {
	if n == 0 {
		n = 1 + d.IntN(5)
	}
	g := &orderContents{tame: tame, supplier: `"Leeds Motor Factors"`, zone: true}
	if !tame {
		g.supplier = pick(d, hostileSuppliers)
		g.extra, g.indent, g.zone, g.shuffles = d.oneIn(2), d.oneIn(8), !d.oneIn(3), d.oneIn(5)
	}
	twins := !tame && n > 1 && d.oneIn(3) // equal numbers: only their place distinguishes them
	for i := range n {
		number := strconv.Quote(fmt.Sprintf("%s-%d", pick(d, numbers), i+1))
		p := part{oe: number, ordered: number, quantity: 1 + d.IntN(4), repairer: g.price(d), insurer: g.price(d)}
		if !tame && d.oneIn(10) {
			p.oe = "null" // an aftermarket part has no maker's number
		}
		if twins && i > 0 {
			p.oe, p.ordered = g.parts[0].oe, g.parts[0].ordered
		}
		g.parts = append(g.parts, p)
	}
	if twins {
		g.shuffles = false
	}
	return g
}

func (g *orderContents) price(d dice) string {
	if g.tame || d.oneIn(2) {
		return fmt.Sprintf("%d.%02d", 1+d.IntN(900), 1+d.IntN(99))
	}
	return pick(d, hostilePrices)
}

// move changes the contents for a status of the order.
func (g *orderContents) move(d dice, status string, now time.Time) {
	if status == "Confirmed" || (g.delivery == "" && status != "New") {
		g.delivery = strconv.Quote(vendorTime(now.Add(time.Duration(24+d.IntN(96))*time.Hour), g.zone))
	}
	for i := range g.parts {
		p := &g.parts[i]
		p.status, p.delivery = status, g.delivery
		if g.tame || status == "New" {
			continue
		}
		switch d.IntN(12) {
		case 0:
			p.status = pick(d, unknownStatus)
		case 1:
			p.delivery = ""
		}
	}
	if !g.tame && status != "New" && d.oneIn(4) {
		g.reprice(d)
	}
	if g.shuffles && status != "New" && len(g.parts) > 1 {
		g.parts = append(g.parts[1:], g.parts[0])
	}
}

// reprice replaces one price by a different number, not only by a different spelling.
func (g *orderContents) reprice(d dice) {
	p := &g.parts[d.IntN(len(g.parts))]
	old, _ := strconv.ParseFloat(p.repairer, 64) // our own literal
	for {
		next := g.price(d)
		if value, _ := strconv.ParseFloat(next, 64); value != old {
			p.repairer = next
			return
		}
	}
}

// render returns the order as it is served. The spelling of a missing date is chosen each time:
// null, absent and year one mean the same.
func (g *orderContents) render(d dice, o *order) json.RawMessage {
	f := fields(nil).str("AssessmentId", o.AssessmentID).raw("SupplierName", g.supplier).
		str("PartsOrderId", o.ID).str("OrderReference", o.reference).str("Status", o.Status)
	f = g.date(d, f, g.delivery)
	parts := make([]string, 0, len(g.parts))
	for i, p := range g.parts {
		pf := fields(nil).raw("OEPartNumber", p.oe).raw("OrderedPartNumber", p.ordered).
			raw("Quantity", strconv.Itoa(p.quantity)).str("Status", p.status).
			raw("RepairerPrice", p.repairer).raw("InsurerPrice", p.insurer)
		pf = g.date(d, pf, p.delivery)
		if g.extra && i == 0 {
			pf = pf.raw("Discount", `{"Percent":12.50,"Code":"<A&B>"}`)
		}
		parts = append(parts, string(pf.object()))
	}
	f = f.raw("Parts", "["+strings.Join(parts, ",")+"]")
	if g.extra {
		f = f.raw("VendorRef", `{"Big":12345678901234567890.10,"Small":1E-7,"List":[null,true,"é & è"]}`)
	}
	body := f.object()
	if g.indent {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, body, "", "  "); err == nil {
			return pretty.Bytes()
		}
	}
	return body
}

func (g *orderContents) date(d dice, f fields, literal string) fields {
	if literal == "" {
		literal = "null"
		if !g.tame {
			literal = pick(d, nothingYetDate)
		}
	}
	if literal == "" {
		return f
	}
	return f.raw("DeliveryDate", literal)
}

// fields writes a JSON object field by field, in order, and keeps every literal: encoding/json
// would change the spelling of numbers and escape HTML.
type fields []byte

func (f fields) raw(name, literal string) fields {
	if len(f) > 0 {
		f = append(f, ',')
	}
	f = append(f, '"')
	f = append(f, name...)
	f = append(f, '"', ':')
	return append(f, literal...)
}

func (f fields) str(name, value string) fields {
	quoted, err := json.Marshal(value)
	if err != nil {
		quoted = []byte("null") // no string fails to encode
	}
	return f.raw(name, string(quoted))
}

func (f fields) object() []byte {
	out := make([]byte, 0, len(f)+2)
	out = append(out, '{')
	out = append(out, f...)
	return append(out, '}')
}
