package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/yamljson"
)

// publicURL stands in the documents for the relay's own address, which the relay puts in its place.
const publicURL = "https://relay.example.com"

// buildOpenAPI returns the OpenAPI document as it is served.
func buildOpenAPI(dir string, events eventSchemas) (node, error) {
	doc, err := parse(filepath.Join(dir, "openapi.yaml"))
	if err != nil {
		return nil, err
	}
	examples, err := readExamples(dir)
	if err != nil {
		return nil, err
	}
	setAfter(doc, "info", "servers", list(object("url", publicURL, "description", "This relay.")))
	schemas := yamljson.Get(doc, "components", "schemas")
	kinds := yamljson.Get(schemas, "TestCallback", "properties", "type", "enum")
	if kinds == nil {
		return nil, fmt.Errorf("the schema TestCallback lists no types of events")
	}
	members(events.typed(each.Of(kinds.Content, yamljson.Text)), func(name string, schema node) {
		set(schemas, name, schema)
	})
	members(schemas, func(_ string, schema node) { optional(schema) })
	walk(doc, withoutOwn)
	addExamples(doc, examples)
	withoutUnused(doc)
	return doc, nil
}

// withoutUnused removes the shared requests and responses that are used nowhere any more, as each place has its own
// example.
func withoutUnused(doc node) {
	used := map[string]bool{}
	walk(doc, func(n node) { used[yamljson.Text(yamljson.Get(n, "$ref"))] = true })
	for _, kind := range []string{"requestBodies", "responses"} {
		shared := yamljson.Get(doc, "components", kind)
		var unused []string
		members(shared, func(name string, _ node) {
			if !used["#/components/"+kind+"/"+name] {
				unused = append(unused, name)
			}
		})
		for _, name := range unused {
			remove(shared, name)
		}
		if shared != nil && len(shared.Content) == 0 {
			remove(yamljson.Get(doc, "components"), kind)
		}
	}
}

// optional makes what has a default in a schema's properties optional for generators, some of which
// think that a member with a default is always there. The description names the default.
func optional(schema node) {
	walk(schema, func(n node) {
		members(yamljson.Get(n, "properties"), func(_ string, property node) {
			standard := yamljson.Get(property, "default")
			if standard == nil {
				return
			}
			says := strings.TrimSpace(yamljson.Text(yamljson.Get(property, "description")) +
				" Left out: `" + standard.Value + "`.")
			remove(property, "default")
			set(property, "description", text(says))
		})
	})
}

// withoutOwn removes what only the relay's own code reads.
func withoutOwn(n node) {
	var own []string
	members(n, func(name string, _ node) {
		if strings.HasPrefix(name, "x-go-") || name == "x-timeout" || name == "x-waits" {
			own = append(own, name)
		}
	})
	for _, name := range own {
		remove(n, name)
	}
}

// pointer returns the names in a reference within a document.
func pointer(ref string) []string {
	names := strings.Split(strings.TrimPrefix(ref, "#/"), "/")
	for i, name := range names {
		names[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
	}
	return names
}
