package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/template"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// objective is what slo.yaml holds: a share of events that must be good, and when it counts as missed.
type objective struct {
	Name      string
	Metric    string
	Good      string
	Objective float64 // in percent
	LeastLate int     `yaml:"leastLate"`
	Alerts    []burnAlert
}

// burnAlert fires when one of its pairs of windows burns the budget faster than its factor allows.
type burnAlert struct {
	Alert, Severity, For, Summary string
	Windows                       []burnWindows
}

// burnWindows are a long window, in which enough was lost, and a short one, in which it is still being lost.
type burnWindows struct {
	Long, Short string
	Factor      float64
}

var objectiveTemplate = template.Must(template.New("slo").Funcs(template.FuncMap{"lower": strings.ToLower}).Parse(
	`# Code generated from slo.yaml by "go run . slo"; DO NOT EDIT.
groups:
  - name: relay-slo-{{.Name}}
    rules:
{{- range .Windows}}
      - record: job:slo_errors_per_request:ratio_rate{{.}}
        expr: >-
          1 - sum by (job) (rate({{$.Metric}}{ {{- $.Good}}}[{{.}}]))
          / sum by (job) (rate({{$.Metric}}[{{.}}]))
        labels: { slo: {{$.Name}} }
{{- end}}
{{- range $alert := .Alerts}}
      - alert: {{.Alert}}
        expr: >-
{{- range $i, $w := .Windows}}
          {{if $i}}or {{end}}(job:slo_errors_per_request:ratio_rate{{$w.Long}}{slo="{{$.Name}}"} > {{$w.Factor}} * {{$.Budget}}
          and job:slo_errors_per_request:ratio_rate{{$w.Short}}{slo="{{$.Name}}"} > {{$w.Factor}} * {{$.Budget}}
          and on (job) sum by (job) (increase({{$.Metric}}{ {{- $.Bad}}}[{{$w.Long}}])) >= {{$.LeastLate}})
{{- end}}
        for: {{.For}}
        labels: { severity: {{.Severity}} }
        annotations:
          summary: {{.Summary}}
          description: >-
            {{"{{ $value | humanizePercentage }}"}} of the events that {{"{{ $labels.job }}"}} delivered to receivers
            that do not fail were late. The objective allows {{$.Allowed}} %.
          runbook_url: https://github.com/audatex-relay/relay/blob/main/docs/runbook.md#{{lower .Alert}}
{{- end}}
`))

// objectiveRules returns the recording rules and alerts of an objective.
//
// Public generators of such rules know no least number of events, and the one in wide use brings Kubernetes' client
// along: what is wanted here is one template.
func objectiveRules(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var o objective
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&o); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if o.Objective <= 0 || o.Objective >= 100 || len(o.Alerts) == 0 {
		return nil, fmt.Errorf("%s: the objective must be above 0 and below 100, and there must be alerts", file)
	}
	windows, err := o.windows()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var made bytes.Buffer
	err = objectiveTemplate.Execute(&made, struct {
		objective
		Windows              []string
		Bad, Budget, Allowed string
	}{o, windows, strings.Replace(o.Good, "=", "!=", 1), decimal((100 - o.Objective) / 100),
		decimal(100 - o.Objective)})
	return made.Bytes(), err
}

// windows returns every window of the alerts once, the shortest first.
func (o objective) windows() ([]string, error) {
	all := map[model.Duration]string{}
	for _, a := range o.Alerts {
		for _, w := range a.Windows {
			for _, name := range []string{w.Short, w.Long} {
				length, err := model.ParseDuration(name)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", a.Alert, err)
				}
				all[length] = name
			}
		}
	}
	lengths := make([]model.Duration, 0, len(all))
	for length := range all {
		lengths = append(lengths, length)
	}
	slices.Sort(lengths)
	names := make([]string, len(lengths))
	for i, length := range lengths {
		names[i] = all[length]
	}
	return names, nil
}

// decimal writes a number without the dust of binary fractions.
func decimal(f float64) string {
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.6f", f), "0"), ".")
}
