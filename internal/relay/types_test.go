package relay

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

func TestTypesThatCannotMatchAreRefusedWithTheNearestName(t *testing.T) {
	t.Parallel()
	for wrong, nearest := range map[string]string{
		"parts.order.updated":              TypeOrderUpdated,
		"order.created":                    TypeOrderCreated,
		"created":                          TypeOrderCreated,
		"parts.order.*":                    "audatex.parts.order.*",
		"order.*":                          "audatex.parts.order.*",
		"relay.*":                          "audatex.relay.*",
		"consent-required":                 "audatex.relay.consent-required",
		"audatex.part.order.*":             "audatex.parts.order.*",
		"audatex.parts.orders.updated":     TypeOrderUpdated,
		"audatex.parts.order.update":       TypeOrderUpdated,
		"audatex.parts.order.deleted":      TypeOrderCreated,
		"Audatex.Parts.Order.Updated":      TypeOrderUpdated,
		"AUDATEX.PARTS.ORDER.CREATED":      TypeOrderCreated,
		"audatex.parts.order.updated ":     TypeOrderUpdated,
		"audatex.parts.order.updated.":     TypeOrderUpdated,
		"audatex.parts.order.updated.*":    TypeOrderUpdated,
		"audatex.parts.order":              "audatex.parts.order.*",
		"audatex.parts.order.":             "audatex.parts.order.*",
		"audatex.parts.order.>":            "audatex.parts.order.*",
		"audatex.parts.order.**":           "audatex.parts.order.*",
		"audatex.parts.*.updated":          TypeOrderUpdated,
		"*.parts.order.updated":            TypeOrderUpdated,
		"audatex.relay.callback_disabled":  "audatex.relay.callback-disabled",
		"audatex.relay.consent-required.*": "audatex.relay.consent-required",
		"audatex.relay.consentrequired":    "audatex.relay.consent-required",
		"audatex":                          "audatex.*",
		"**":                               "*",
		"parts":                            "audatex.parts.*",
	} {
		if err := CheckType(wrong); err == nil || !strings.Contains(err.Error(), `did you mean "`+nearest+`"`) {
			t.Errorf("%q: %v, want %q named", wrong, err, nearest)
		}
	}
	for _, wrong := range []string{"", strings.Repeat("a", maxType+1), "\x00", "é", strings.Repeat(".", maxType)} {
		if CheckType(wrong) == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
	for _, right := range []string{"*", "audatex.*", "audatex.parts.*", "audatex.parts.order.*", "audatex.relay.*",
		TypeOrderCreated, TypeOrderUpdated} {
		if err := CheckType(right); err != nil {
			t.Error(err)
		}
	}
	for _, k := range Kinds() {
		if err := CheckType(OperationalPrefix + string(k)); err != nil {
			t.Error(err)
		}
	}
}

// A filter that is taken matches something: one of the types there are.
func TestEveryTypeThatIsTakenMatchesAnEvent(t *testing.T) {
	t.Parallel()
	types := []string{TypeOrderCreated, TypeOrderUpdated}
	for _, k := range Kinds() {
		types = append(types, OperationalPrefix+string(k))
	}
	for _, choice := range typeChoices() {
		matched := false
		for _, typ := range types {
			matched = matched || Filter{
				Types: []string{choice}}.Matches(Traits{Site: "leeds", Type: typ, Order: "order"})
		}
		if !matched {
			t.Errorf("%s matches no event", choice)
		}
	}
}

// Kinds lists every constant of that type.
func TestKindsAreAllListed(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "kinds.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Kind" {
				for _, v := range spec.Values {
					declared[strings.Trim(v.(*ast.BasicLit).Value, `"`)] = true
				}
			}
		}
		return true
	})
	for _, k := range Kinds() {
		if !declared[string(k)] {
			t.Errorf("%s is no constant", k)
		}
		delete(declared, string(k))
	}
	for k := range declared {
		t.Errorf("%s is missing in Kinds", k)
	}
}
