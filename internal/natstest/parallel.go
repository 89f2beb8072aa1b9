package natstest

import (
	"flag"
	"fmt"
	"os"
)

// Waiting lets so many tests of a package run in parallel, regardless of the number of cores. It is
// for packages whose tests mostly wait (for a lease to end, for a node to come back). -parallel on
// the command line overrides it. TestMain calls it before it runs the tests.
func Waiting(tests int) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if chosen {
		return
	}
	if err := flag.Set("test.parallel", fmt.Sprint(tests)); err != nil {
		fmt.Fprintln(os.Stderr, "natstest:", err)
		os.Exit(1)
	}
}

// Long chooses how much a test does: few in every run, many where RELAY_LONG is set, as .ci/full
// does.
func Long(few, many int) int {
	if os.Getenv("RELAY_LONG") == "" {
		return few
	}
	return many
}
