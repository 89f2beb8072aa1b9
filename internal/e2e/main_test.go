package e2e

import (
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
)

// programs has the relay under test.
var programs harness.Programs

func TestMain(m *testing.M) {
	natstest.Waiting(6)
	if err := flag.Set("rapid.checks", strconv.Itoa(natstest.Long(20, 100))); err != nil { // each makes a replay
		panic(err)
	}
	os.Exit(harness.FindLeaks(programs.Run(m), natstest.Leftovers()...))
}

// relayBinary returns the path of the program. It is built without the race detector, which would
// change the moments that kills hit.
func relayBinary(t testing.TB) string {
	t.Helper()
	return programs.Relay(t, filepath.Join("..", ".."))
}
