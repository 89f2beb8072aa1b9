package night

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
)

// root is the directory of the project.
var root = filepath.Join("..", "..", "..")

// programs has the relay under test.
var programs harness.Programs

func TestMain(m *testing.M) {
	natstest.Waiting(3)
	os.Exit(harness.FindLeaks(programs.Run(m), natstest.Leftovers()...))
}

// relayBinary returns the path of the program.
func relayBinary(t testing.TB) string {
	t.Helper()
	return programs.Relay(t, root)
}
