package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// logged is one call in the source that writes into the log, but for debugging.
type logged struct {
	message string   // with … for what the source does not hold
	levels  []string // INFO, WARN, ERROR
	fields  []string // keys that the call itself names, sorted
	at      string   // file and line
}

// notLogging are the packages whose messages no operator of a relay sees.
var notLogging = []string{"e2e", "sandbox", "demo", "natstest", "recorded"}

// sourceMessages returns every message of the program's log.
func sourceMessages(t *testing.T) []logged {
	t.Helper()
	packages := map[string][]*ast.File{}
	files := token.NewFileSet()
	for _, root := range []string{filepath.Join("..", "cmd"), filepath.Join("..", "internal")} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && (slices.Contains(notLogging, entry.Name()) || entry.Name() == "testdata"):
				return fs.SkipDir
			case filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") ||
				strings.HasSuffix(path, ".gen.go"):
				return nil
			}
			file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			packages[filepath.Dir(path)] = append(packages[filepath.Dir(path)], file)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var all []logged
	for _, p := range packages {
		for _, file := range p {
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
					all = append(all, source{t, files, p, f, 0}.messages()...)
				}
			}
		}
	}
	return all
}

// source is a function of the program, with its package.
type source struct {
	t     *testing.T
	files *token.FileSet
	all   []*ast.File
	f     *ast.FuncDecl
	depth int // of names that stand for names
}

// methods are those of a logger, where their message stands, and which level they have.
var methods = map[string]struct {
	message int
	level   string
}{
	"Warn": {0, "WARN"}, "WarnContext": {1, "WARN"}, "Error": {0, "ERROR"}, "ErrorContext": {1, "ERROR"},
	"Log": {2, ""}, "LogAttrs": {2, ""}, "Info": {0, "INFO"}, "InfoContext": {1, "INFO"},
}

func (s source) messages() []logged {
	var all []logged
	ast.Inspect(s.f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		selector, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		m, ok := methods[selector.Sel.Name]
		if x, named := selector.X.(*ast.Ident); !ok || len(call.Args) <= m.message || named && x.Name == "http" {
			return true
		}
		// a method that takes a logger
		if x, named := call.Args[m.message].(*ast.Ident); named && len(call.Args) == 1 && x.Name == "log" {
			return true
		}
		levels := []string{m.level}
		if m.level == "" {
			levels = s.levels(call.Args[1])
		}
		if len(levels) == 0 {
			return true
		}
		for _, message := range s.texts(call.Args[m.message]) {
			all = append(all,
				logged{message, levels, s.fields(call.Args[m.message+1:]), s.files.Position(call.Pos()).String()})
		}
		return true
	})
	return all
}

// levels returns which levels an expression may have.
func (s source) levels(level ast.Expr) []string {
	var in ast.Node = level
	if _, variable := level.(*ast.Ident); variable {
		in = s.f
	}
	var found []string
	ast.Inspect(in, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if name, ok := strings.CutPrefix(selector.Sel.Name, "Level"); ok &&
				(name == "Info" || name == "Warn" || name == "Error") {
				found = append(found, strings.ToUpper(name))
			}
		}
		return true
	})
	slices.Sort(found)
	return slices.Compact(found)
}

var verb = regexp.MustCompile(`%[a-z]`)

// texts returns what a message may be: the literals of which it is made, and … for the rest.
func (s source) texts(e ast.Expr) []string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		if err != nil {
			s.t.Fatal(err)
		}
		return []string{text}
	case *ast.BinaryExpr:
		var all []string
		for _, left := range s.texts(e.X) {
			for _, right := range s.texts(e.Y) {
				all = append(all, strings.ReplaceAll(left+right, "……", "…"))
			}
		}
		return all
	case *ast.CallExpr:
		if selector, ok := e.Fun.(*ast.SelectorExpr); ok && selector.Sel.Name == "Sprintf" {
			return []string{verb.ReplaceAllString(s.texts(e.Args[0])[0], "…")}
		}
	case *ast.Ident:
		if texts := s.named(e.Name); len(texts) > 0 {
			return texts
		}
	}
	return []string{"…"}
}

// named returns the texts of a variable of the function, or what the package's calls pass as this parameter of it.
func (s source) named(name string) []string {
	var texts []string
	ast.Inspect(s.f, func(n ast.Node) bool {
		if a, ok := n.(*ast.AssignStmt); ok && len(a.Lhs) == len(a.Rhs) {
			for i, left := range a.Lhs {
				if x, ok := left.(*ast.Ident); ok && x.Name == name {
					texts = append(texts, s.literal(a.Rhs[i])...)
				}
			}
		}
		return true
	})
	at := 0
	for _, parameter := range s.f.Type.Params.List {
		for _, n := range parameter.Names {
			if n.Name == name {
				texts = append(texts, s.passed(at)...)
			}
			at++
		}
	}
	slices.Sort(texts)
	return slices.Compact(texts)
}

// passed returns what the package's calls of the function pass as a parameter.
func (s source) passed(at int) []string {
	var texts []string
	for _, file := range s.all {
		for _, d := range file.Decls {
			caller, ok := d.(*ast.FuncDecl)
			if !ok || caller.Body == nil || caller == s.f {
				continue
			}
			by := s
			by.f = caller
			ast.Inspect(caller, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok && called(call) == s.f.Name.Name && len(call.Args) > at {
					texts = append(texts, by.literal(call.Args[at])...)
				}
				return true
			})
		}
	}
	return texts
}

// literal returns the texts of a literal or of a name for one, none for anything else.
func (s source) literal(e ast.Expr) []string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING && len(e.Value) > len(`""`) {
			return s.texts(e)
		}
	case *ast.Ident:
		if s.depth++; s.depth < 4 {
			return s.named(e.Name)
		}
	}
	return nil
}

func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); !ok || x.Name != "fmt" {
			return f.Sel.Name
		}
	}
	return ""
}

// fields returns the keys that the call names.
func (s source) fields(args []ast.Expr) []string {
	var keys []string
	add := func(e ast.Expr) {
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			keys = append(keys, s.texts(lit)...)
		}
	}
	for i := 0; i < len(args); i++ {
		if call, ok := args[i].(*ast.CallExpr); ok { // slog.String("key", …)
			if len(call.Args) > 0 {
				add(call.Args[0])
			}
			continue
		}
		add(args[i]) // a key; what follows is its value
		i++
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
