package main

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// language parses expressions as a Prometheus does in which nothing experimental is switched on.
var language = parser.NewParser(parser.Options{})

// rule is a rule with its parsed expression and the file it is from.
type rule struct {
	rulefmt.Rule

	File string
	Tree parser.Expr
}

// name returns what the rule is called, whichever kind it is.
func (r rule) name() string {
	if r.Alert != "" {
		return r.Alert
	}
	return r.Record
}

// readRules returns all rules below rules/, in the order of files and lines.
func readRules() ([]rule, error) {
	files, err := filepath.Glob("rules/*.yaml")
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no rules are found in rules/: %w", err)
	}
	var all []rule
	for _, file := range files {
		groups, problems := rulefmt.ParseFile(file, false, model.LegacyValidation, language,
			slog.New(slog.DiscardHandler))
		if len(problems) > 0 {
			return nil, errors.Join(problems...)
		}
		for _, group := range groups.Groups {
			for _, r := range group.Rules {
				tree, err := language.ParseExpr(r.Expr)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", file, r.Alert+r.Record, err)
				}
				all = append(all, rule{r, file, tree})
			}
		}
	}
	return all, nil
}
