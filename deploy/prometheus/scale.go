package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// notAges are the ends of metrics in seconds that measure how far away something is, not how long it has lasted.
var notAges = []string{"_expires_seconds", "_full_in_seconds", "_skew_seconds"}

// leastFor is the least time that an alert waits. Elections and takeovers are no shorter in a test, and must not alert.
const leastFor = 5 * time.Second

// scaleFiles writes all rules into a directory with every time divided by a factor: for, windows, and the ages that
// expressions compare with. Nothing else differs, so what these rules show holds for the rules that ship.
func scaleFiles(factor float64, dir string) error {
	rules, err := readRules()
	if err != nil {
		return err
	}
	groups := map[string][]rulefmt.Rule{}
	for _, r := range rules {
		scaleTree(r.Tree, factor)
		r.Expr = r.Tree.String()
		if r.Alert != "" {
			r.For = model.Duration(max(shorter(time.Duration(r.For), factor), leastFor))
		}
		groups[r.File] = append(groups[r.File], r.Rule)
	}
	for file, rules := range groups {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		made, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": name, "rules": rules}}})
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		//nolint:gosec // rules are for everybody to read
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), made, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// scaleTree changes the times of an expression.
func scaleTree(e parser.Expr, factor float64) {
	parser.Inspect(e, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.MatrixSelector:
			node.Range = shorter(node.Range, factor)
		case *parser.VectorSelector:
			node.OriginalOffset = shorter(node.OriginalOffset, factor)
		case *parser.BinaryExpr:
			bound, ok := node.RHS.(*parser.NumberLiteral)
			if ok && node.Op.IsComparisonOperator() && comparesAge(node.LHS) {
				bound.Val /= factor
			}
		}
		return nil
	})
}

// comparesAge reports whether an expression is for how long something has lasted.
func comparesAge(e parser.Expr) bool {
	age := false
	parser.Inspect(e, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			name, _, _ := strings.Cut(node.Name, ":max")
			age = age || strings.HasSuffix(name, "_seconds")
			for _, end := range notAges {
				age = age && !strings.HasSuffix(name, end)
			}
		case *parser.AggregateExpr:
			if node.Op == parser.COUNT {
				return fmt.Errorf("a count is no age") // ends the search below it
			}
		case *parser.Call:
			if node.Func.Name == "changes" {
				return fmt.Errorf("a number of changes is no age")
			}
		}
		return nil
	})
	return age
}

// shorter divides a time, and leaves at least a second of it.
func shorter(d time.Duration, factor float64) time.Duration {
	if d <= 0 {
		return d
	}
	return max(time.Duration(float64(d)/factor).Round(time.Second), time.Second)
}
