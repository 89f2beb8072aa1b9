package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Write prints a report for people: a line for each check, and below it what to do.
func (r Report) Write(w io.Writer) error {
	var b strings.Builder
	troubles, unchecked := 0, 0
	for _, c := range r.Checks {
		name := string(c.Area)
		if c.Subject != "" {
			name += " " + c.Subject
		}
		mark := map[State]string{OK: "ok     ", Unchecked: "?      ", Trouble: "TROUBLE"}[c.State]
		fmt.Fprintf(&b, "%s  %s: %s\n", mark, name, c.Finding)
		switch c.State {
		case Trouble:
			troubles++
			fmt.Fprintf(&b, "         → %s\n", c.Remedy)
		case Unchecked:
			unchecked++
		case OK:
		}
	}
	switch {
	case troubles > 0:
		fmt.Fprintf(&b, "%s to mend\n", plural(troubles, "thing", "things"))
	case unchecked > 0:
		fmt.Fprintf(&b, "nothing wrong was found; %s not be looked at\n",
			plural(unchecked, "thing could", "things could"))
	default:
		b.WriteString("nothing is wrong\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteJSON prints a report for programs, as the API has it.
func (r Report) WriteJSON(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(r)
}
