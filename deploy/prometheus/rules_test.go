package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestTheObjectivesRulesAreCurrent: rules/slo.yaml is what slo.yaml makes.
func TestTheObjectivesRulesAreCurrent(t *testing.T) {
	t.Parallel()
	made, err := objectiveRules("slo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile("rules/slo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(made, kept) {
		t.Error("rules/slo.yaml is out of date: go run . slo")
	}
}

// TestEveryAlertHasBothCases: among the cases that promtool runs, each alert has one in which it fires and one in which
// it stays silent though there are series.
func TestEveryAlertHasBothCases(t *testing.T) {
	t.Parallel()
	rules, err := readRules()
	if err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]int{}, map[string]int{}
	files, err := filepath.Glob("tests/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var cases struct {
			Tests []struct {
				Name   string
				Series []any `yaml:"input_series"`
				Alerts []struct {
					Name     string `yaml:"alertname"`
					Expected []any  `yaml:"exp_alerts"`
				} `yaml:"alert_rule_test"`
			}
		}
		if err := yaml.Unmarshal(text, &cases); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, c := range cases.Tests {
			for _, alert := range c.Alerts {
				if !strings.HasPrefix(c.Name, alert.Name+" ") {
					t.Errorf("%s: the case %q is about %s", file, c.Name, alert.Name)
				}
				if len(alert.Expected) > 0 {
					fires[alert.Name]++
				} else if len(c.Series) > 0 {
					silent[alert.Name]++
				}
			}
		}
	}
	for _, r := range rules {
		if r.Alert != "" && (fires[r.Alert] == 0 || silent[r.Alert] == 0) {
			t.Errorf("%s has %d cases in which it fires and %d in which it is silent",
				r.Alert, fires[r.Alert], silent[r.Alert])
		}
	}
	if len(fires) < 25 {
		t.Errorf("only %d alerts have cases", len(fires))
	}
}

// TestWhatFollowsIsNotSent: the Alertmanager sends no ticket for each connection or callback while a page covers all of
// them, and no page about what a store that fails leads to. What it is configured not to send are alerts that there
// are.
func TestWhatFollowsIsNotSent(t *testing.T) {
	t.Parallel()
	rules, err := readRules()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, r := range rules {
		known[r.Alert] = true
	}
	text, err := os.ReadFile("alertmanager.yml")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Inhibit []struct {
			Source []string `yaml:"source_matchers"`
			Target []string `yaml:"target_matchers"`
		} `yaml:"inhibit_rules"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	alerts := func(matchers []string) []string {
		_, names, _ := strings.Cut(strings.Join(matchers, ","), `"`)
		all := strings.Split(strings.TrimSuffix(names, `"`), "|")
		for _, name := range all {
			if !known[name] {
				t.Errorf("alertmanager.yml names %s, which is no alert", name)
			}
		}
		return all
	}
	inhibited := map[[2]string]bool{}
	for _, rule := range config.Inhibit {
		for _, page := range alerts(rule.Source) {
			for _, other := range alerts(rule.Target) {
				inhibited[[2]string{page, other}] = true
			}
		}
	}
	for _, pair := range [][2]string{
		{"RelayPollsLate", "RelayConnectionPollsLate"},
		{"RelayNotificationsWaiting", "RelayConnectionNotificationsWaiting"},
		{"RelayMostReceiversFail", "RelayReceiverFailing"}, {"RelayMostReceiversFail", "RelayReceiverCircuitOpen"},
		{"RelayStoreFailing", "RelayPollsLate"}, {"RelayStoreFailing", "RelayShardWithoutOwner"},
		{"RelayStoreFailing", "RelayReplicasMissing"},
	} {
		if !inhibited[pair] {
			t.Errorf("%s is sent beside %s", pair[1], pair[0])
		}
	}
}

const oneScrape = `# TYPE audatex_relay_polls_total counter
audatex_relay_polls_total{outcome="ok"} 1
# TYPE audatex_relay_callback_backlog gauge
audatex_relay_callback_backlog{callback="a",client="b"} 1
# TYPE audatex_relay_took_seconds histogram
audatex_relay_took_seconds_bucket{le="+Inf"} 1
audatex_relay_took_seconds_sum 1
audatex_relay_took_seconds_count 1
`

// TestTheLinterFindsWhatIsWrong: each change of a good alert is found, and the good one is not.
func TestTheLinterFindsWhatIsWrong(t *testing.T) {
	const good = `groups: [{name: g, rules: [{alert: Good, expr: 'max by (job, callback, client) (audatex_relay_callback_backlog) > 5',
  for: 1m, labels: {severity: page}, annotations: {summary: s, description: 'd {{ $labels.callback }} {{ $labels.client }}',
  runbook_url: 'https://github.com/audatex-relay/relay/blob/main/docs/runbook.md#good'}}]}]`
	for _, c := range []struct{ from, to, want string }{
		{"", "", ""},
		{" > 5", "", "does not compare"},
		{" > 5", " > bool 5", "does not compare"},
		{" > 5", " > 5 or vector(1)", "does not compare"},
		{"for: 1m, ", "", "has no for"},
		{"page", "critical", "page or ticket"},
		{"summary: s, ", "", "no summary"},
		{"#good", "#else", "runbook_url"},
		{"callback_backlog", "callback_backlogs", "no relay has the metric"},
		{"(audatex", "(rate(audatex", "which is no counter"},
		{"audatex_relay_callback_backlog", "deriv(audatex_relay_took_seconds_count[5m])", "which is a counter"},
		{"backlog)", "backlog{site=\"x\"})", "has no label site"},
		{"client) (", "client, site) (", "no label site to group"},
		{" > 5", " > on (site) up", "no label site to group or match"},
		{"$labels.client", "$labels.key", "which it does not have"},
		{"d {{ $labels.callback }}", "d", "does not name the callback"},
		{" {{ $labels.client }}", "", "does not name the client"},
	} {
		text := strings.Replace(good, c.from, c.to, 1)
		if strings.HasPrefix(c.to, "(rate(") {
			text = strings.Replace(text, "backlog)", "backlog[5m]))", 1)
		}
		t.Chdir(t.TempDir())
		if err := os.Mkdir("rules", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("rules/a.yaml", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		rules, err := readRules()
		if err != nil {
			t.Errorf("%s: %v", c.to, err)
			continue
		}
		known := newFamilies()
		if err := known.add(strings.NewReader(oneScrape)); err != nil {
			t.Fatal(err)
		}
		problems := strings.Join(lint(rules, known), "\n")
		if (c.want == "") != (problems == "") || !strings.Contains(problems, c.want) {
			t.Errorf("with %q in place of %q: want %q, found %q", c.to, c.from, c.want, problems)
		}
	}
}

// TestScalingShortensTimesAndNothingElse.
func TestScalingShortensTimesAndNothingElse(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		`max_over_time(a[1d]) > 5`:                              `max_over_time(a[24m]) > 5`,
		`min by (job) (audatex_relay_age_seconds) > 900`:        `min by (job) (audatex_relay_age_seconds) > 15`,
		`audatex_relay_store_full_in_seconds < 3600`:            `audatex_relay_store_full_in_seconds < 3600`,
		`count(audatex_relay_age_seconds > 120) / count(a) > 2`: `count(audatex_relay_age_seconds > 2) / count(a) > 2`,
		`changes(audatex_relay_start_seconds[1h]) > 3`:          `changes(audatex_relay_start_seconds[1m]) > 3`,
		`rate(a[10s] offset 1h) > 0.5`:                          `rate(a[1s] offset 1m) > 0.5`,
	} {
		tree, err := language.ParseExpr(from)
		if err != nil {
			t.Fatal(err)
		}
		if scaleTree(tree, 60); tree.String() != want {
			t.Errorf("%s becomes %s, not %s", from, tree, want)
		}
	}
	rules, err := readRules()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := scaleFiles(60, dir); err != nil {
		t.Fatal(err)
	}
	if files, err := filepath.Glob(filepath.Join(dir, "*.yaml")); err != nil || len(files) != 3 || len(rules) < 30 {
		t.Errorf("%d rules are written to %v: %v", len(rules), files, err)
	}
}

// TestTheObjectiveIsRefusedIfItMakesNoSense.
func TestTheObjectiveIsRefusedIfItMakesNoSense(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("slo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{{"objective: 99.9", "objective: 100"}, {"good:", "bad:"},
		{"long: 1h", "long: hour"}} {
		file := filepath.Join(t.TempDir(), "slo.yaml")
		changed := strings.Replace(string(text), change[0], change[1], 1)
		if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := objectiveRules(file); err == nil {
			t.Errorf("%s is accepted", change[1])
		}
	}
	if names, err := (objective{
		Alerts: []burnAlert{{Windows: []burnWindows{{"1d", "2h", 1}, {"6h", "30m", 1}}}}}).windows(); err != nil ||
		!slices.Equal(names, []string{"30m", "2h", "6h", "1d"}) {
		t.Errorf("the windows are %v: %v", names, err)
	}
}
