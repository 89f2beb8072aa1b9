package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
)

// runbook is where the page of every alert is.
const runbook = "https://github.com/audatex-relay/relay/blob/main/docs/runbook.md#"

// lintFiles checks the rules against scrapes.
func lintFiles(scrapes []string, out io.Writer) error {
	if len(scrapes) == 0 {
		return errors.New("lint needs a scrape of a relay")
	}
	rules, err := readRules()
	if err != nil {
		return err
	}
	known := newFamilies()
	for _, name := range scrapes {
		scrape, err := os.Open(name) //nolint:gosec // named by the caller
		if err != nil {
			return err
		}
		err = errors.Join(known.add(scrape), scrape.Close())
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	problems := lint(rules, known)
	for _, problem := range problems {
		_, _ = fmt.Fprintln(out, problem)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%d problems in %d rules", len(problems), len(rules))
	}
	_, _ = fmt.Fprintf(out, "%d rules are held to %d metrics\n", len(rules), len(known))
	return nil
}

// lint returns what is wrong with the rules: an alert that fires without a comparison or at once, a metric or a label
// that no relay has, a rate of what is no counter, a text that names a label which the alert does not have.
func lint(rules []rule, known families) []string {
	for _, r := range rules { // an expression may use what is recorded in another file
		if r.Record != "" {
			known.recorded(r.Record, labelsOf(r, known))
		}
	}
	var problems []string
	alerts := map[string]bool{}
	for _, r := range rules {
		report := func(format string, args ...any) {
			problems = append(problems, fmt.Sprintf("%s: %s: %s", r.File, r.name(), fmt.Sprintf(format, args...)))
		}
		checkMetrics(r.Tree, known, report)
		switch {
		case r.Record != "" && strings.Count(r.Record, ":") != 2:
			report("a record is called level:metric:operation")
		case r.Record != "":
		case alerts[r.Alert]:
			report("two alerts have this name")
		default:
			alerts[r.Alert] = true
			checkAlert(r, labelsOf(r, known), report)
		}
	}
	return problems
}

// labelsOf returns the labels of what a rule makes.
func labelsOf(r rule, known families) map[string]bool {
	labels := resultLabels(r.Tree, known)
	for label := range r.Labels {
		labels[label] = true
	}
	return labels
}

// recorded adds the result of a recording rule, which is a gauge. Rules further down use it.
func (f families) recorded(name string, labels map[string]bool) {
	f.join(name, dto.MetricType_GAUGE, labels)
}

var templateLabel = regexp.MustCompile(`\$labels\.([a-zA-Z_]+)`)

// checkAlert checks what only alerts have.
func checkAlert(r rule, labels map[string]bool, report func(string, ...any)) {
	if !compares(r.Tree) {
		report("the expression does not compare: %s", r.Expr)
	}
	if r.For < model.Duration(1) {
		report("it has no for, so one odd sample wakes somebody")
	}
	if severity := r.Labels["severity"]; severity != "page" && severity != "ticket" {
		report("the severity is page or ticket, not %q", severity)
	}
	for _, name := range []string{"summary", "description"} {
		if r.Annotations[name] == "" {
			report("it has no %s", name)
		}
	}
	if want := runbook + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
		report("its runbook_url is not %s", want)
	}
	for _, text := range r.Annotations {
		for _, used := range templateLabel.FindAllStringSubmatch(text, -1) {
			if !labels[used[1]] {
				report("its text names the label %s, which it does not have", used[1])
			}
		}
	}
	for _, who := range []string{"callback", "connection"} {
		if labels[who] && !strings.Contains(r.Annotations["description"], "$labels."+who) {
			report("its description does not name the %s", who)
		}
	}
	if labels["callback"] && !strings.Contains(r.Annotations["description"], "$labels.client") {
		report("its description does not name the client")
	}
}

// compares reports whether an expression has a result only while a comparison holds.
func compares(e parser.Expr) bool {
	switch e := e.(type) {
	case *parser.ParenExpr:
		return compares(e.Expr)
	case *parser.BinaryExpr:
		switch {
		case e.Op.IsComparisonOperator():
			return !e.ReturnBool
		case e.Op == parser.LOR:
			return compares(e.LHS) && compares(e.RHS)
		case e.Op == parser.LAND, e.Op == parser.LUNLESS:
			return compares(e.LHS)
		}
	case *parser.Call:
		return e.Func.Name == "absent"
	}
	return false
}

// Functions that are meant for counters, and those that are meant for anything else.
var (
	ofCounters = []string{"rate", "irate", "increase", "resets"}
	ofGauges   = []string{"delta", "idelta", "deriv", "predict_linear"}
)

// checkMetrics checks every metric that an expression names, its labels, and what is done with it.
func checkMetrics(e parser.Expr, known families, report func(string, ...any)) {
	parser.Inspect(e, func(node parser.Node, path []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			metric, ok := known[node.Name]
			if !ok {
				report("no relay has the metric %s", node.Name)
				return nil
			}
			for _, matcher := range node.LabelMatchers {
				if matcher.Name != model.MetricNameLabel && !metric.Labels[matcher.Name] {
					report("%s has no label %s", node.Name, matcher.Name)
				}
			}
			checkFunctions(node.Name, metric, path, report)
		case *parser.AggregateExpr:
			checkLabels(node.Grouping, resultLabels(node.Expr, known), report)
		case *parser.BinaryExpr:
			if node.VectorMatching != nil {
				checkLabels(node.VectorMatching.MatchingLabels, resultLabels(node.LHS, known), report)
				checkLabels(node.VectorMatching.MatchingLabels, resultLabels(node.RHS, known), report)
			}
		}
		return nil
	})
}

// checkFunctions checks that a counter is a counter where one is needed.
func checkFunctions(name string, metric family, path []parser.Node, report func(string, ...any)) {
	for _, above := range path {
		call, ok := above.(*parser.Call)
		switch {
		case !ok:
		case slices.Contains(ofCounters, call.Func.Name) && metric.Type != dto.MetricType_COUNTER:
			report("%s of %s, which is no counter", call.Func.Name, name)
		case slices.Contains(ofGauges, call.Func.Name) && metric.Type == dto.MetricType_COUNTER:
			report("%s of %s, which is a counter", call.Func.Name, name)
		}
	}
}

func checkLabels(names []string, has map[string]bool, report func(string, ...any)) {
	for _, name := range names {
		if !has[name] {
			report("there is no label %s to group or match by", name)
		}
	}
}

// resultLabels returns the labels that the series of an expression's result have.
func resultLabels(e parser.Expr, known families) map[string]bool {
	labels := map[string]bool{}
	switch e := e.(type) {
	case *parser.ParenExpr:
		return resultLabels(e.Expr, known)
	case *parser.UnaryExpr:
		return resultLabels(e.Expr, known)
	case *parser.MatrixSelector:
		return resultLabels(e.VectorSelector, known)
	case *parser.SubqueryExpr:
		return resultLabels(e.Expr, known)
	case *parser.StepInvariantExpr:
		return resultLabels(e.Expr, known)
	case *parser.VectorSelector:
		for name := range known[e.Name].Labels {
			labels[name] = true
		}
	case *parser.AggregateExpr:
		inner := resultLabels(e.Expr, known)
		for name := range inner {
			labels[name] = slices.Contains(e.Grouping, name) != e.Without
		}
	case *parser.Call:
		for _, argument := range e.Args {
			if argument.Type() == parser.ValueTypeVector || argument.Type() == parser.ValueTypeMatrix {
				return resultLabels(argument, known)
			}
		}
	case *parser.BinaryExpr:
		labels = resultLabels(e.LHS, known)
		if e.LHS.Type() == parser.ValueTypeScalar {
			return resultLabels(e.RHS, known)
		}
	}
	return labels
}
