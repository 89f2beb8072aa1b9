package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Whoever types README's commands from top to bottom has every variable set before it is used.
func TestReadmeSetsVariablesBeforeUsingThem(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	variable := regexp.MustCompile(`\b([A-Za-z_][A-Za-z0-9_]*)=|\$\{?([A-Za-z_][A-Za-z0-9_]*)`)
	set, used := map[string]bool{}, 0
	for i, block := range strings.Split(string(page), "```") {
		shell, ok := strings.CutPrefix(block, "sh\n")
		if i%2 == 0 || !ok {
			continue
		}
		for line := range strings.Lines(shell) {
			line, _, _ = strings.Cut(line, "# ")
			for _, m := range variable.FindAllStringSubmatch(line, -1) {
				if m[1] != "" {
					set[m[1]] = true
					continue
				}
				if used++; !set[m[2]] {
					t.Errorf("$%s is used before it is set: %s", m[2], line)
				}
			}
		}
	}
	if used < 4 {
		t.Errorf("only %d variables were found", used)
	}
}
