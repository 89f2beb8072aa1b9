package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Area is what a check is about. The order is that of a report.
type Area string

// The areas.
const (
	Settings    Area = "settings"
	Relay       Area = "relay" // the running relay itself
	Storage     Area = "storage"
	NATS        Area = "nats"
	Keys        Area = "keys"
	Replicas    Area = "replicas"
	Vendor      Area = "vendor"
	Connections Area = "connections"
	Clients     Area = "clients"
	Callbacks   Area = "callbacks"
)

var areas = []Area{Settings, Relay, Storage, NATS, Keys, Replicas, Vendor, Connections, Clients, Callbacks}

// OfOthers reports whether what is wrong in the area is for users, clients and receivers to mend, and not for the
// operator.
func (a Area) OfOthers() bool { return a == Connections || a == Clients || a == Callbacks }

// State is how something is.
type State string

// The states. Unchecked is what could not be looked at, or was left out: the finding has the reason.
const (
	OK        State = "ok"
	Trouble   State = "trouble"
	Unchecked State = "unchecked"
)

// Check is what was found of one thing.
type Check struct {
	Area    Area   `json:"area"`
	Subject string `json:"subject,omitempty"` // the id of what it is about, or a host
	State   State  `json:"state"`
	Finding string `json:"finding"`
	Remedy  string `json:"remedy,omitempty"` // what to do; always there with trouble
}

// Report is what an examination has found.
type Report struct {
	At      time.Time `json:"at"`
	Version string    `json:"version,omitempty"` // of the relay that was examined
	Replica string    `json:"replica,omitempty"`
	Checks  []Check   `json:"checks"`
}

// most bounds the checks of one area in a report.
const most = 100

// Add adds checks. Beyond a bound an area's are only counted, those that are well first.
func (r *Report) Add(checks ...Check) {
	r.Checks = append(r.Checks, checks...)
}

// Finish sorts the checks by area, trouble first, and bounds their number.
func (r *Report) Finish() {
	rank := map[State]int{Trouble: 0, Unchecked: 1, OK: 2}
	slices.SortStableFunc(r.Checks, func(a, b Check) int {
		return cmp.Or(cmp.Compare(slices.Index(areas, a.Area), slices.Index(areas, b.Area)),
			cmp.Compare(rank[a.State], rank[b.State]), strings.Compare(a.Subject, b.Subject))
	})
	var kept []Check
	for _, area := range areas {
		of := slices.DeleteFunc(slices.Clone(r.Checks), func(c Check) bool { return c.Area != area })
		kept = append(kept, of[:min(len(of), most)]...)
		if rest := of[min(len(of), most):]; len(rest) > 0 {
			state := rest[0].State // the worst, as they are sorted
			more := Check{Area: area, State: state, Finding: fmt.Sprintf("%d more are not shown", len(rest))}
			if state == Trouble {
				more.Remedy = "mend what is shown, and ask again"
			}
			kept = append(kept, more)
		}
	}
	r.Checks = kept
}

// Sick reports whether anything is wrong; with others left out, whether anything is for the operator to mend.
func (r Report) Sick(operators bool) bool {
	return slices.ContainsFunc(r.Checks, func(c Check) bool {
		return c.State == Trouble && (!operators || !c.Area.OfOthers())
	})
}

// Unlooked reports whether there is something that could not be looked at; with others left out, of the operator's.
func (r Report) Unlooked(operators bool) bool {
	return slices.ContainsFunc(r.Checks, func(c Check) bool {
		return c.State == Unchecked && (!operators || !c.Area.OfOthers())
	})
}

func ok(area Area, subject, format string, v ...any) Check {
	return Check{Area: area, Subject: subject, State: OK, Finding: fmt.Sprintf(format, v...)}
}

// Unknown is a check of what could not be looked at.
func Unknown(area Area, subject, format string, v ...any) Check {
	return Check{Area: area, Subject: subject, State: Unchecked, Finding: fmt.Sprintf(format, v...)}
}

// Wrong is a check of what must be mended.
func Wrong(area Area, subject, finding, remedy string) Check {
	return Check{Area: area, Subject: subject, State: Trouble, Finding: finding, Remedy: remedy}
}

// Fine is a check of what is well.
func Fine(area Area, subject, finding string) Check { return ok(area, subject, "%s", finding) }
