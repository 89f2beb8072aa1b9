package httpapi

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/natstest"
)

// TestMain also demands, of a whole run, that every operation of the contract was seen to succeed:
// an operation that no test exercises fails the package.
func TestMain(m *testing.M) {
	natstest.Waiting(6)
	if err := flag.Set("rapid.checks", strconv.Itoa(natstest.Long(25, 100))); err != nil { // each reads a log in pages
		panic(err)
	}
	code := m.Run()
	if code == 0 && flag.Lookup("test.run").Value.String() == "" {
		if missing := succeeded.missing(); len(missing) > 0 {
			fmt.Fprintf(os.Stderr, "no test saw these operations succeed: %v\n", missing)
			code = 1
		}
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func (s *seen) missing() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var missing []string
	for _, op := range s.all {
		if !s.ok[op] {
			missing = append(missing, op)
		}
	}
	slices.Sort(missing)
	return missing
}
