package prom

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// fromVariable is how a dashboard names its data source.
const fromVariable = "${datasource}"

// root is the directory of the project.
var root = filepath.Join("..", "..", "..")

var (
	selector = regexp.MustCompile(`(audatex_relay_[a-z_]+|\bup|[ (])(\{[^}]*\})(\[[^\]]*\])?`)
	bare     = regexp.MustCompile(`(audatex_relay_[a-z_]+|\bup)\b([^{a-z_("]|$)`)
	quoted   = regexp.MustCompile(`"[^"]*"`)
	metric   = regexp.MustCompile(`audatex_relay_[a-z_]+|\bup\b`)
	counter  = regexp.MustCompile(`(rate|increase)\($`)
)

// TestDashboardsKeepTheRules holds every dashboard to the rules of Grafana's dashboard linter: the data source and the
// relay are variables, every panel has a title, a description and a unit, rates are over $__rate_interval and only of
// counters, and everything is of the chosen relay. Its rule of a variable for instances is not kept: what a series is
// about moves from one replica to another.
//
// Beyond the linter: one relay is chosen, as two may have callbacks of one name; a number and a table are of now, as
// the last value of a range is still there when the relay is not; nothing stands for what is missing but beside a relay
// that is scraped; and a rate has enough samples where Prometheus scrapes once a minute.
func TestDashboardsKeepTheRules(t *testing.T) {
	t.Parallel()
	uids := map[string]string{}
	for name, d := range Dashboards(t, root) {
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
			if v.Multi {
				wrong("variable %s takes several values", v.Name)
			}
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

func checkPanel(p Panel, wrong func(string, ...any)) {
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
		if target.Instant != (p.Type != "timeseries") {
			wrong("panel %q: a number or a table is of now, and a line is not", p.Title)
		}
		if strings.Contains(target.Expr, "vector(") || strings.Contains(target.Expr, "absent(") {
			wrong("panel %q shows something while no relay is scraped", p.Title)
		}
		if strings.Contains(target.Expr, "$__rate_interval") != (target.Interval == "1m") {
			wrong("panel %q: a rate has a least interval, for a Prometheus that scrapes once a minute", p.Title)
		}
		if m := bare.FindString(quoted.ReplaceAllString(target.Expr, `""`)); m != "" {
			wrong("panel %q: %s is of every relay", p.Title, m)
		}
		for _, at := range selector.FindAllStringSubmatchIndex(target.Expr, -1) {
			checkSelector(p, target.Expr, at, wrong)
		}
	}
}

// checkSelector looks at one selector of an expression, whose parts at has.
func checkSelector(p Panel, expression string, at []int, wrong func(string, ...any)) {
	part := func(i int) string {
		if at[i] < 0 {
			return ""
		}
		return expression[at[i]:at[i+1]]
	}
	name, matchers, window := part(2), part(4), part(6)
	if !strings.Contains(matchers, `job=~"$job"`) {
		wrong("panel %q: %s is of every relay", p.Title, name)
	}
	counts := strings.HasSuffix(name, "_total") || strings.HasSuffix(name, "_bucket") ||
		strings.HasSuffix(name, "_count") || strings.HasSuffix(name, "_sum")
	rated := counter.MatchString(expression[:at[0]])
	windows := []string{"[$__rate_interval]"}
	if p.Type != "timeseries" {
		windows = []string{"[1h]", "[1d]"} // of now, and of a time that the description names
	}
	young := strings.HasPrefix(expression[at[1]:], " and on (job, instance) time() - process_start_time_seconds")
	if counts != rated && !young || rated != slices.Contains(windows, window) {
		wrong("panel %q: %s: a rate is over %q, of counters, and of nothing else", p.Title, name, windows)
	}
}

// TestDashboardsAskForMetricsThatExist compares names, as a panel of trouble is not empty where its metric does not
// exist.
func TestDashboardsAskForMetricsThatExist(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join(root, "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"audatex_relay_build_info": true, "up": true}
	for _, name := range regexp.MustCompile("`(audatex_relay_[a-z_]+)`").FindAllStringSubmatch(string(raw), -1) {
		known[name[1]] = true
	}
	for file, d := range Dashboards(t, root) {
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
			for _, m := range metric.FindAllString(quoted.ReplaceAllString(expression, `""`), -1) {
				if name := strings.TrimSuffix(m, "_bucket"); !known[name] {
					t.Errorf("%s: there is no metric %s", file, name)
				}
			}
		}
	}
}

var (
	onlyInTrouble = regexp.MustCompile("(?m)^\\| `(audatex_relay_[a-z_]+)` \\|[^|]*\\| while \\|")
	ofARule       = regexp.MustCompile(`\b(?:[a-z_]+:)?audatex_relay_[a-z_]+`)
)

// TestWhatIsWrongHasAPanel: whoever was called looks at the dashboards. They show every metric that exists only while
// there is trouble, and every one that an alert is made of.
func TestWhatIsWrongHasAPanel(t *testing.T) {
	t.Parallel()
	metrics, err := os.ReadFile(filepath.Join(root, "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	wanted := map[string]bool{}
	for _, m := range onlyInTrouble.FindAllSubmatch(metrics, -1) {
		wanted[string(m[1])] = true
	}
	files, err := filepath.Glob(filepath.Join(root, "deploy", "prometheus", "rules", "*.yaml"))
	if err != nil || len(files) == 0 || len(wanted) < 10 {
		t.Fatalf("%d files of rules (%v), %d metrics of trouble", len(files), err, len(wanted))
	}
	for _, file := range files {
		rules, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range ofARule.FindAllString(string(rules), -1) {
			if !strings.Contains(name, ":") { // else it is recorded, of others
				wanted[name] = true
			}
		}
	}
	for _, d := range Dashboards(t, root) {
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				for _, name := range metric.FindAllString(target.Expr, -1) {
					delete(wanted, name)
				}
			}
		}
	}
	for name := range wanted {
		t.Errorf("no panel shows %s", name)
	}
}
