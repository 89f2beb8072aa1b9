package prom

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Dashboard is what the tests read of a dashboard of Grafana's.
type Dashboard struct {
	UID, Title, Description string
	Editable                bool
	Templating              struct{ List []Variable }
	Panels                  []Panel
}

// Variable is what a dashboard lets its reader choose.
type Variable struct {
	Type, Name string
	Refresh    int
	Multi      bool
	Datasource source
	Definition string
}

type source struct{ Type, UID string }

// Panel is one panel of a dashboard.
type Panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               source
	GridPos                  struct{ H, W, X, Y int }
	Targets                  []Target
	FieldConfig              struct {
		Defaults  struct{ Unit string }
		Overrides []struct{ Properties []struct{ ID string } }
	}
}

// Target is one query of a panel.
type Target struct {
	Datasource            source
	Expr, RefID, Interval string
	Instant               bool
	LegendFormat          string
}

// Dashboards reads deploy/grafana by name; root is the directory of the project.
func Dashboards(t testing.TB, root string) map[string]Dashboard {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "deploy", "grafana", "*.json"))
	if err != nil || len(files) < 3 {
		t.Fatalf("%v: %v", files, err)
	}
	all := map[string]Dashboard{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d Dashboard
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[filepath.Base(file)] = d
	}
	return all
}

// numbered matches the title of a panel that is the picture of a question.
var numbered = regexp.MustCompile(`^([0-9]+)\. (.+)$`)

// Questions returns the panels that answer the questions of a night, in their order: those of the overview whose titles
// are numbered.
func Questions(t testing.TB, root string) []Panel {
	t.Helper()
	var all []Panel
	for _, p := range Dashboards(t, root)["overview.json"].Panels {
		if m := numbered.FindStringSubmatch(p.Title); m != nil && p.Type != "row" {
			if n, err := strconv.Atoi(m[1]); err != nil || n != len(all)+1 || len(p.Targets) != 1 {
				t.Fatalf("the panel %q is not number %d, or has not one query", p.Title, len(all)+1)
			}
			all = append(all, p)
		}
	}
	return all
}

// Render puts values in the place of a dashboard's variables, as Grafana does.
func Render(text string, values map[string]string) string {
	for name, value := range values {
		text = strings.ReplaceAll(text, "$"+name, value)
	}
	return text
}

// Name names the line of a panel that a sample is, by its labels but the job; "value" if it has none.
func (s Sample) Name() string {
	var words []string
	for _, name := range []string{"connection", "callback", "client", "reason", "outcome", "status", "result",
		"operation", "code", "what", "stream", "state"} {
		if value := s.Labels[name]; value != "" {
			words = append(words, value)
		}
	}
	return cmp.Or(strings.Join(words, " "), "value")
}

// Line writes a line of a panel.
func Line(name string, value float64) string {
	return name + ": " + strconv.FormatFloat(value, 'g', 6, 64)
}
