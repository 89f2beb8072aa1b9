package harness

import (
	"context"
	"fmt"
	"os/exec"
)

// Build builds a program of this module or of one it depends on; dir is the module's root. It is
// built without the race detector, which would change the moments that kills hit, and is too slow
// for several processes on few cores.
func Build(ctx context.Context, dir, program, out string, flags ...string) error {
	args := append([]string{"build", "-o", out}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, program)...) //nolint:gosec // the tests' own words
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", program, err, said)
	}
	return nil
}
