// Package docs holds the documents for those who run the relay, and tests of all documents of the project. No document
// may name a path, a metric or an operation that does not exist; the commands that documents show are run by the tests
// of internal/e2e, their Go programs by those of internal/natsd. Begin reading at TestDocumentsNameWhatTheProgramHas.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// widest is how many characters a line of prose may have. Tables, code and lines without a space can be longer.
const widest = 120

// pages returns all Markdown files of the project with their text, by path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != ".." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules" ||
			path == filepath.Join("..", "try")):
			return fs.SkipDir
		case filepath.Ext(path) == ".md":
			text, err := os.ReadFile(path)
			found[path] = string(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// prose returns the lines outside blocks of code, each with its number.
func prose(text string) map[int]string {
	lines, code := map[int]string{}, false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			code = !code
		} else if !code {
			lines[i+1] = line
		}
	}
	return lines
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	all, checked := pages(t), 0
	for path, text := range all {
		// The whole text at once: the words of a link may be on two lines.
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			checked++
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", path, m[1], err)
			} else if anchor != "" && !strings.Contains(anchors(all[target]), "#"+anchor+"\n") {
				t.Errorf("%s: the link %s leads to a heading that does not exist", path, m[1])
			}
		}
	}
	if checked < 40 {
		t.Errorf("only %d links were found", checked)
	}
}

// anchors returns the anchors of a page's headings, as GitHub makes them, each between # and a line end.
func anchors(text string) string {
	var all strings.Builder
	for _, line := range prose(text) {
		heading := strings.TrimLeft(line, "#")
		if heading == line || !strings.HasPrefix(heading, " ") {
			continue
		}
		all.WriteByte('#')
		for _, r := range strings.ToLower(strings.TrimSpace(heading)) {
			switch {
			case r == ' ':
				all.WriteByte('-')
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				all.WriteRune(r)
			}
		}
		all.WriteByte('\n')
	}
	return all.String()
}

func TestLinesOfProseAreShort(t *testing.T) {
	t.Parallel()
	for path, text := range pages(t) {
		for n, line := range prose(text) {
			trimmed := strings.TrimSpace(line)
			if utf8.RuneCountInString(line) > widest && !strings.HasPrefix(trimmed, "|") &&
				strings.ContainsRune(strings.TrimLeft(trimmed, "-* "), ' ') {
				t.Errorf("%s:%d has %d characters", path, n, utf8.RuneCountInString(line))
			}
		}
	}
}

var named = regexp.MustCompile("`([a-z0-9_]+(?:/[A-Za-z0-9_.-]+)*)`")

// TestTheArchitectureNamesWhatExists: every path with a slash exists, below internal/ or at the top, and every package
// is described.
func TestTheArchitectureNamesWhatExists(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	house, _, _ := strings.Cut(string(text), "\n## Dependencies\n") // behind that are names of modules
	said := map[string]bool{}
	for _, m := range named.FindAllStringSubmatch(house, -1) {
		said[m[1]] = true
		_, below := os.Stat(filepath.Join("..", "internal", m[1]))
		_, top := os.Stat(filepath.Join("..", m[1]))
		if strings.Contains(m[1], "/") && below != nil && top != nil && m[1] != "net/http" {
			t.Errorf("%s does not exist", m[1])
		}
	}
	packages, err := os.ReadDir(filepath.Join("..", "internal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packages {
		if p.IsDir() && !said[p.Name()] {
			t.Errorf("internal/%s is not described", p.Name())
		}
	}
}

var (
	metric    = regexp.MustCompile(`audatex_relay_[a-z_]*[a-z]`)
	operation = regexp.MustCompile("`(GET|POST|PUT|PATCH|DELETE) (/v1/[^`?\\s]*)")
	path      = regexp.MustCompile(`(?m)^  (/[^:\s]+):((?:\n(?:    .*)?)*)`)
	parameter = regexp.MustCompile(`\{[^}]*\}`)
)

// TestDocumentsNameWhatTheProgramHas: metrics and operations of the API that documents name exist.
func TestDocumentsNameWhatTheProgramHas(t *testing.T) {
	t.Parallel()
	var program strings.Builder
	for _, dir := range []string{"internal", "cmd"} {
		err := filepath.WalkDir(filepath.Join("..", dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			program.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	recorded, err := os.ReadFile(filepath.Join("..", "deploy", "prometheus", "rules", "recording.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	program.Write(recorded) // queries name what is recorded as well
	source := program.String()
	contract, err := os.ReadFile(filepath.Join("..", "api", "openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, m := range path.FindAllStringSubmatch(string(contract), -1) {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			has[method+" "+parameter.ReplaceAllString(m[1], "{}")] = strings.Contains(m[2],
				"\n    "+strings.ToLower(method)+":")
		}
	}
	metrics, operations := 0, 0
	for path, text := range pages(t) {
		for _, name := range metric.FindAllString(text, -1) {
			name = strings.TrimSuffix(name, "_bucket") // of a histogram
			if metrics++; !strings.Contains(source, name) {
				t.Errorf("%s: no metric is called %s", path, name)
			}
		}
		for _, m := range operation.FindAllStringSubmatch(text, -1) {
			if operations++; !has[m[1]+" "+parameter.ReplaceAllString(m[2], "{}")] {
				t.Errorf("%s: the API has no %s %s", path, m[1], m[2])
			}
		}
	}
	if metrics < 20 || operations < 30 {
		t.Errorf("only %d metrics and %d operations were found", metrics, operations)
	}
}
