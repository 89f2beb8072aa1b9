package browser

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// programs has the relay.
var programs harness.Programs

// chromium is the browser, "" if there is none; axe is the source of axe-core, "" if it is not given.
var chromium, axe string

func TestMain(m *testing.M) {
	if err := find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(programs.Run(m))
}

func relayProgram(t *testing.T) string {
	t.Helper()
	return programs.Relay(t, filepath.Join("..", "..", ".."))
}

// find finds what the tests need.
func find() error {
	wanted := os.Getenv("RELAY_BROWSER_WANTED")
	if wanted == "0" {
		return nil
	}
	for _, name := range []string{os.Getenv("RELAY_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); name != "" && err == nil {
			chromium = path
			break
		}
	}
	if file := os.Getenv("RELAY_AXE"); file != "" {
		source, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read axe-core: %w", err)
		}
		axe = string(source)
	}
	if wanted == "1" && (chromium == "" || axe == "") {
		return errors.New("RELAY_BROWSER_WANTED is set, and there is no Chromium, or RELAY_AXE names no axe-core")
	}
	return nil
}
