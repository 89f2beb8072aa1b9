// Command prometheus keeps the relay's rules for Prometheus: it makes the rules of the service level objective (slo),
// checks all rules (lint), and makes copies whose times are shorter, for a test that injects faults (scale). No rule
// passes that names a metric or label which no scrape of a relay has, and no alert without its page in the runbook.
// Begin reading at lint.go.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

const usage = `usage:
  prometheus slo                            makes rules/slo.yaml of slo.yaml
  prometheus lint SCRAPE...                 checks the rules against scrapes of relays
  prometheus scale -factor F -out DIRECTORY writes the rules with times that are shorter by a factor
`

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run carries out one command in the directory of the rules.
func run(args []string, out io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("no command\n%s", usage)
	}
	switch args[0] {
	case "slo":
		made, err := objectiveRules("slo.yaml")
		if err != nil {
			return err
		}
		return os.WriteFile("rules/slo.yaml", made, 0o644) //nolint:gosec // rules are for everybody to read
	case "lint":
		return lintFiles(args[1:], out)
	case "scale":
		flags := flag.NewFlagSet("scale", flag.ContinueOnError)
		factor := flags.Float64("factor", 60, "by how much the times are shorter")
		dir := flags.String("out", "", "where the rules are written")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if *dir == "" || *factor < 1 {
			return fmt.Errorf("scale needs a directory and a factor of at least 1\n%s", usage)
		}
		return scaleFiles(*factor, *dir)
	}
	return fmt.Errorf("no command %s\n%s", args[0], usage)
}
