package prom

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// dashboard is what the tests read of a dashboard of Grafana's.
type dashboard struct {
	UID, Title, Description string
	Editable                bool
	Templating              struct{ List []variable }
	Panels                  []panel
}

type variable struct {
	Type, Name string
	Refresh    int
	Datasource source
	Definition string
}

type source struct{ Type, UID string }

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               source
	GridPos                  struct{ H, W, X, Y int }
	Targets                  []struct {
		Datasource source
		Expr       string
		RefID      string
	}
	FieldConfig struct {
		Defaults  struct{ Unit string }
		Overrides []struct{ Properties []struct{ ID string } }
	}
}

// fromVariable is how a dashboard names its data source.
const fromVariable = "${datasource}"

// dashboards reads deploy/grafana by name.
func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "deploy", "grafana", "*.json"))
	if err != nil || len(files) < 3 {
		t.Fatalf("%v: %v", files, err)
	}
	all := map[string]dashboard{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[filepath.Base(file)] = d
	}
	return all
}

var (
	selector = regexp.MustCompile(`(audatex_relay_[a-z_]+|\bup)(\{[^}]*\})?(\[[^\]]*\])?`)
	counter  = regexp.MustCompile(`(rate|increase)\($`)
)

// TestDashboardsKeepTheRules holds every dashboard to the rules of Grafana's dashboard linter: the data source and the
// relay are variables, every panel has a title, a description and a unit, rates are over $__rate_interval and only of
// counters, and everything is of the chosen relay. Its rule of a variable for instances is not kept: what a series is
// about moves from one replica to another.
func TestDashboardsKeepTheRules(t *testing.T) {
	t.Parallel()
	uids := map[string]string{}
	for name, d := range dashboards(t) {
		wrong := func(format string, v ...any) { t.Errorf("%s: "+format, append([]any{name}, v...)...) }
		if d.UID == "" || d.Title == "" || d.Description == "" || d.Editable || uids[d.UID] != "" {
			wrong("it has no uid of its own, no title, no description, or can be edited")
		}
		uids[d.UID] = name
		list := d.Templating.List
		if len(list) < 2 || list[0].Type != "datasource" || list[0].Name != "datasource" || list[1].Name != "job" {
			wrong("its first variables are not datasource and job")
		}
		for _, v := range list[1:] {
			if v.Refresh != 2 || v.Datasource.UID != fromVariable || v.Definition == "" {
				wrong("variable %s is not read again when the time changes, or not from the data source", v.Name)
			}
		}
		ids, taken := map[int]bool{}, map[string]bool{}
		for _, p := range d.Panels {
			if ids[p.ID] {
				wrong("two panels have the id %d", p.ID)
			}
			ids[p.ID] = true
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if at := fmt.Sprint(x, ",", y); x >= 24 || taken[at] {
						wrong("%s lies over another panel, or beyond the edge", p.Title)
					} else {
						taken[at] = true
					}
				}
			}
			if p.Type != "row" {
				checkPanel(p, wrong)
			}
		}
	}
}

func checkPanel(p panel, wrong func(string, ...any)) {
	units := p.FieldConfig.Defaults.Unit != ""
	for _, o := range p.FieldConfig.Overrides {
		units = units || len(o.Properties) > 0 && o.Properties[0].ID == "unit"
	}
	if p.Title == "" || p.Description == "" || !units || p.Datasource.UID != fromVariable || len(p.Targets) == 0 {
		wrong("panel %q has no title, description, unit, query, or not the variable's data source", p.Title)
	}
	for _, target := range p.Targets {
		if target.Datasource.UID != fromVariable || target.RefID == "" {
			wrong("panel %q has a query of another data source", p.Title)
		}
		for _, at := range selector.FindAllStringSubmatchIndex(target.Expr, -1) {
			part := func(i int) string {
				if at[i] < 0 {
					return ""
				}
				return target.Expr[at[i]:at[i+1]]
			}
			name, matchers, window := part(2), part(4), part(6)
			if !strings.Contains(matchers, `job=~"$job"`) {
				wrong("panel %q: %s is of every relay", p.Title, name)
			}
			counts := strings.HasSuffix(name, "_total") || strings.HasSuffix(name, "_bucket") || strings.HasSuffix(name, "_count") || strings.HasSuffix(name, "_sum")
			rated := counter.MatchString(target.Expr[:at[0]])
			if counts != rated || rated != (window == "[$__rate_interval]") {
				wrong("panel %q: %s: a rate is over $__rate_interval, of counters, and of nothing else", p.Title, name)
			}
		}
	}
}

// render puts values in the place of a dashboard's variables, as Grafana does.
func render(text string, values map[string]string) string {
	for name, value := range values {
		text = strings.ReplaceAll(text, "$"+name, value)
	}
	return text
}

// TestDashboardsAskForMetricsThatExist compares names, as a panel of trouble is not empty where its metric does not
// exist.
func TestDashboardsAskForMetricsThatExist(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"audatex_relay_build_info": true, "up": true}
	for _, name := range regexp.MustCompile("`(audatex_relay_[a-z_]+)`").FindAllStringSubmatch(string(raw), -1) {
		known[name[1]] = true
	}
	for file, d := range dashboards(t) {
		var asked []string
		for _, v := range d.Templating.List {
			asked = append(asked, v.Definition)
		}
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				asked = append(asked, target.Expr)
			}
		}
		for _, expression := range asked {
			for _, m := range selector.FindAllStringSubmatch(expression, -1) {
				if name := strings.TrimSuffix(m[1], "_bucket"); !known[name] {
					t.Errorf("%s: there is no metric %s", file, name)
				}
			}
		}
	}
}
