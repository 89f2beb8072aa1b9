package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// relayProgram is the relay, built once.
var relayProgram string

// chromium is the browser, "" if there is none; axe is the source of axe-core, "" if it is not given.
var chromium, axe string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if err := find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if chromium == "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "relay-browser-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		relayProgram = filepath.Join(dir, "relay")
		err = harness.Build(context.Background(), "../../..", "./cmd/relay", relayProgram)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
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
