package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/audatex-relay/relay/internal/yamljson"
)

// The schemas of events, under the names that they have in the documents.
const (
	envelope        = "Event"
	orderData       = "PartsOrderData"
	operationalData = "OperationalData"
)

// eventSchemas are the files of api/schemas by their titles.
type eventSchemas map[string]node

var schemaFiles = map[string]string{
	envelope: "event-v1.json", orderData: "parts-order-event-v1.json", operationalData: "operational-event-v1.json",
}

func readEvents(dir string) (eventSchemas, error) {
	schemas := eventSchemas{}
	for title, file := range schemaFiles {
		schema, err := parse(filepath.Join(dir, "schemas", file))
		if err != nil {
			return nil, err
		}
		if got := yamljson.Text(yamljson.Get(schema, "title")); got != title {
			return nil, fmt.Errorf("schemas/%s has the title %q, not %q", file, got, title)
		}
		remove(schema, "$schema")
		schemas[title] = block(schema)
	}
	return schemas, nil
}

// typed returns the components that describe events by their types: Event is one of the others, and
// its discriminator names the one for each type.
func (e eventSchemas) typed(types []string) node {
	components, mapping, choices, details := object(), object(), list(), object()
	for _, t := range types {
		kind, order := strings.CutPrefix(t, "audatex.parts.")
		if !order {
			kind = strings.TrimPrefix(t, "audatex.relay.")
		}
		name, data := camel(kind)+"Event", orderData
		if !order {
			data = camel(kind) + "Data"
			set(details, data, e.operational(kind))
		}
		schema := e.variant(name, ref(data))
		if !order {
			set(schema, "description",
				text("A fact about the relay itself, with what to do about it. Only filters that name "+
					"`audatex.relay.*` get these events."))
		}
		set(yamljson.Get(schema, "properties"), "type", object("type", "string", "enum", list(text(t))))
		set(components, name, schema)
		choices.Content = append(choices.Content, ref(name))
		set(mapping, t, text("#/components/schemas/"+name))
	}

	description := yamljson.Text(yamljson.Get(e[envelope], "description")) +
		" More types may come: skip those that you do not know."
	event := object(
		"title", envelope, "description", description,
		"oneOf", choices, "discriminator", object("propertyName", "type", "mapping", mapping))
	all := object(envelope, event)
	all.Content = append(all.Content, components.Content...)
	hoist(all, orderData, clone(e[orderData]))
	members(details, func(name string, schema node) { hoist(all, name, schema) })
	return all
}

// operational returns the schema of the data of operational events of a kind: what is the same of all,
// and the details that $defs has for the kind.
func (e eventSchemas) operational(kind string) node {
	properties := clone(yamljson.Get(e[operationalData], "properties"))
	set(properties, "kind", object("type", "string", "enum", list(text(kind))))
	required := clone(yamljson.Get(e[operationalData], "required"))
	if typed := yamljson.Get(e[operationalData], "$defs", camel(kind)+"Details"); typed != nil {
		set(properties, "details", clone(typed))
		required.Content = append(required.Content, text("details"))
	}
	return object("title", camel(kind)+"Data", "type", "object", "required", required, "properties", properties)
}

// variant returns the schema of the events whose data is as given.
func (e eventSchemas) variant(name string, data node) node {
	required, properties := clone(yamljson.Get(e[envelope], "required")), clone(yamljson.Get(e[envelope], "properties"))
	set(properties, "data", data)
	return object("title", name, "type", "object", "required", required, "properties", properties)
}

// hoist adds a schema to the components, and each titled object in it as a component of its own, so
// that generators give it a name.
func hoist(components node, name string, schema node) {
	set(components, name, schema)
	var inside func(n node)
	inside = func(n node) {
		for i, child := range n.Content {
			title := yamljson.Text(yamljson.Get(child, "title"))
			if n.Kind != yaml.MappingNode && n.Kind != yaml.SequenceNode || title == "" ||
				child.Kind != yaml.MappingNode {
				inside(child)
				continue
			}
			types := yamljson.Get(child, "type")
			nullable := types != nil && types.Kind == yaml.SequenceNode
			if nullable {
				set(child, "type", text("object"))
			}
			n.Content[i] = ref(title)
			if nullable {
				n.Content[i] = object("oneOf", list(ref(title), object("type", "null")))
			}
			if yamljson.Get(components, title) == nil {
				hoist(components, title, child)
			}
		}
	}
	for i := 1; i < len(schema.Content); i += 2 {
		inside(schema.Content[i])
	}
}

// selfContained returns the schemas as they are, referring to each other within one document.
func (e eventSchemas) selfContained() node {
	all := object()
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range e {
			if !yield(name) {
				return
			}
		}
	}) {
		schema := clone(e[name])
		localRefs(schema)
		walk(schema, func(n node) {
			if to := yamljson.Get(n, "$ref"); to != nil && strings.HasPrefix(to.Value, "#/$defs/") {
				to.Value = "#/components/schemas/" + name + strings.TrimPrefix(to.Value, "#")
			}
		})
		set(all, name, schema)
	}
	return all
}

// localRefs makes references to the files of api/schemas local ones.
func localRefs(n node) {
	walk(n, func(n node) {
		to := yamljson.Get(n, "$ref")
		if to == nil {
			return
		}
		for title, file := range schemaFiles {
			if strings.TrimPrefix(to.Value, "./schemas/") == file {
				to.Value = "#/components/schemas/" + title
			}
		}
	})
}

// camel returns words with dots and hyphens between them as a schema's name.
func camel(words string) string {
	var b strings.Builder
	for _, word := range strings.FieldsFunc(words, func(r rune) bool { return r == '.' || r == '-' }) {
		first, size := utf8.DecodeRuneInString(word)
		b.WriteRune(unicode.ToUpper(first))
		b.WriteString(word[size:])
	}
	return b.String()
}
