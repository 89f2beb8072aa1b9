package apidocs

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/yamljson"
)

// schema is a schema as it is shown.
type schema struct {
	Name   string // of a component, or ""
	Type   string
	Text   string
	Limits []string
	Fields []field // of an object, or of the items of an array of objects
	Kinds  []kind  // by a discriminator
}

// field is a member of an object.
type field struct {
	Name     string
	Required bool
	schema
}

// kind is one of the schemas that a discriminator chooses.
type kind struct{ Value, Schema string }

// deepest is how deep fields are shown inside one another.
const deepest = 8

// describe returns a schema. Whole means that components inside are shown with their fields, and not by name only.
func (d document) describe(n *yaml.Node, whole bool, depth int) schema {
	target, name := d.resolve(n)
	s := schema{Name: name, Type: d.typeOf(target), Text: yamljson.Text(yamljson.Get(target, "description"))}
	if own := yamljson.Get(n, "description"); own != nil {
		s.Text = own.Value
	}
	s.Limits = limits(target)
	if depth >= deepest || depth > 0 && name != "" && !whole {
		return s
	}
	for value, to := range yamljson.Members(yamljson.Get(target, "discriminator", "mapping")) {
		s.Kinds = append(s.Kinds, kind{value, strings.TrimPrefix(to.Value, "#/components/schemas/")})
	}
	s.Fields = d.fields(target, whole, depth)
	if len(s.Fields) == 0 {
		inner := yamljson.Get(target, "items")
		if inner == nil {
			inner = d.notNull(target)
		}
		if inner == nil {
			return s
		}
		if of, named := d.resolve(inner); named == "" || whole {
			s.Fields = d.fields(of, whole, depth)
		} else if s.Name == "" {
			s.Name = named
		}
	}
	return s
}

func (d document) fields(n *yaml.Node, whole bool, depth int) []field {
	required := each.Of(items(yamljson.Get(n, "required")), yamljson.Text)
	var fields []field
	for name, property := range yamljson.Members(yamljson.Get(n, "properties")) {
		fields = append(fields, field{name, slices.Contains(required, name), d.describe(property, whole, depth+1)})
	}
	return fields
}

// notNull returns the schema of a value that may also be null, or nil.
func (d document) notNull(n *yaml.Node) *yaml.Node {
	if choices := items(yamljson.Get(n, "oneOf")); len(choices) == 2 &&
		yamljson.Text(yamljson.Get(choices[1], "type")) == "null" {
		return choices[0]
	}
	return nil
}

// typeOf returns a schema's type in words.
func (d document) typeOf(n *yaml.Node) string {
	if inner := d.notNull(n); inner != nil {
		target, _ := d.resolve(inner)
		return d.typeOf(target) + " or null"
	}
	typ := yamljson.Get(n, "type")
	switch {
	case typ == nil && yamljson.Get(n, "oneOf") != nil:
		return "object"
	case typ == nil:
		return "any value"
	case typ.Kind == yaml.SequenceNode:
		return strings.Join(each.Of(typ.Content, yamljson.Text), " or ")
	case typ.Value == "array":
		inner, _ := d.resolve(yamljson.Get(n, "items"))
		return "array of " + strings.TrimSuffix(d.typeOf(inner), "s") + "s"
	case yamljson.Text(yamljson.Get(n, "format")) == "date-time":
		return "date-time"
	}
	return typ.Value
}

// limits returns what a schema demands of a value, in words.
func limits(n *yaml.Node) []string {
	var all []string
	add := func(name, format string) {
		if v := yamljson.Get(n, name); v != nil {
			all = append(all, fmt.Sprintf(format, v.Value))
		}
	}
	if values := items(yamljson.Get(n, "enum")); values != nil {
		texts := each.Of(values, func(v *yaml.Node) string { return "`" + v.Value + "`" })
		all = append(all, "one of "+strings.Join(texts, ", "))
	}
	if words := yamljson.Get(n, "x-words"); words != nil {
		all = append(all, words.Value)
	} else {
		add("pattern", "matches `%s`")
	}
	add("minimum", "at least %s")
	add("maximum", "at most %s")
	add("minLength", "at least %s characters")
	add("maxLength", "at most %s characters")
	add("minItems", "at least %s items")
	add("maxItems", "at most %s items")
	add("maxProperties", "at most %s members")
	add("default", "left out: `%s`")
	return all
}

// Component returns the name of the component that a field has the schema of, or "".
func (f field) Component() string { return f.schema.Name }
