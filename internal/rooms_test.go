// Package internal has no code, only a test of the packages below it. A package that must stay readable in an evening
// may not grow over its number of lines, and no type in it over its number of fields. Begin reading at
// TestRoomsKeepTheirSize.
package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A newcomer can still read these packages in an evening, and no type in them has so many fields that they must be
// several things at once. Lines are those of the files as they are, with comments and without tests.
func TestRoomsKeepTheirSize(t *testing.T) {
	t.Parallel()
	const mostFields = 20
	for dir, mostLines := range map[string]int{
		"../cmd/relay": 2150, "dispatcher": 3100, "delivery": 0, "capacity": 0, "logreader": 0, "backlog": 0,
		"store": 0, "resolver": 0,
	} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has no files: %v", dir, err)
		}
		lines := 0
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			lines += strings.Count(string(text), "\n")
			for name, n := range fields(t, file, text) {
				if n > mostFields {
					t.Errorf("%s: %s has %d fields, more than %d", file, name, n, mostFields)
				}
			}
		}
		if mostLines > 0 && lines > mostLines {
			t.Errorf("%s has %d lines, more than %d", dir, lines, mostLines)
		}
	}
}

// fields counts the fields of a file's structs. An embedded struct counts as one.
func fields(t *testing.T, file string, text []byte) map[string]int {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		declared, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := declared.Type.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				counts[declared.Name.Name] += max(len(f.Names), 1)
			}
		}
		return true
	})
	return counts
}
