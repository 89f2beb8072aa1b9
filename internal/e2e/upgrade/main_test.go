// Package upgrade tests that one release of the relay can be replaced by another, under load and on the same store.
// Nothing may be lost, no order may lose its order, and the mark of the formats may rise only when the last relay of
// the old release has gone. Begin reading at roll_test.go.
package upgrade

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/topology"
)

// root is the module's root, seen from the package.
var root = filepath.Join("..", "..", "..")

// programs are the releases, by the version of the formats they write.
var programs harness.Programs

func TestMain(m *testing.M) {
	natstest.Waiting(4)
	os.Exit(harness.FindLeaks(programs.Run(m), natstest.Leftovers()...))
}

// release returns the path of the program, as if its formats were of the version given.
func release(t *testing.T, formats int) string {
	t.Helper()
	return programs.Made(t, strconv.Itoa(formats), func(path string) error {
		var flags []string
		if formats != topology.Formats {
			flags = []string{"-ldflags",
				fmt.Sprintf("-X github.com/audatex-relay/relay/internal/topology.formatsForTests=%d", formats)}
		}
		return harness.Build(t.Context(), root, "./cmd/relay", path, flags...)
	})
}
