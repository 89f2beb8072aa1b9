package apidocs

import (
	"strings"

	"go.yaml.in/yaml/v4"
)

// reference is the document as it is shown.
type reference struct {
	Title, Text string
	Groups      []group
	Webhook     operation
	Events      []string
	Problems    []problemLink
	Schemas     []schema
}

// group is the operations of one tag.
type group struct {
	Name, Text string
	Operations []operation
}

// operation is one method of a path.
type operation struct {
	ID, Method, Path, Summary, Text string
	Access                          string
	Parameters                      []parameter
	Request                         *body
	Responses                       []response
	Command                         string
}

type parameter struct {
	Name, In string
	Required bool
	schema
}

// body is a request's or a response's.
type body struct {
	Types   []string
	Schema  schema
	Example string
}

type response struct {
	Status, Text string
	Body         *body
}

type problemLink struct{ Slug, Status, Title string }

// methods are the members of a path that are operations.
var methods = map[string]bool{"get": true, "put": true, "post": true, "patch": true, "delete": true}

// reference returns the whole document.
func (d document) reference() reference {
	r := reference{Title: textOf(get(d.root, "info", "title")), Text: textOf(get(d.root, "info", "description"))}
	byTag := map[string][]operation{}
	for path, item := range members(get(d.root, "paths")) {
		for method, op := range members(item) {
			if methods[method] {
				tag := textOf(items(get(op, "tags"))[0])
				byTag[tag] = append(byTag[tag], d.operation(path, method, item, op))
			}
		}
	}
	for _, tag := range items(get(d.root, "tags")) {
		name := textOf(get(tag, "name"))
		r.Groups = append(r.Groups, group{name, textOf(get(tag, "description")), byTag[name]})
	}
	event := get(d.root, "webhooks", "event")
	r.Webhook = d.operation("the callback's URL", "post", event, get(event, "post"))
	for typ := range members(d.eventTypes()) {
		r.Events = append(r.Events, typ)
	}
	for _, content := range members(get(d.root, "components", "responses", "AnyProblem", "content")) {
		for slug, example := range members(get(content, "examples")) {
			status, title := textOf(get(example, "value", "status")), textOf(get(example, "value", "title"))
			r.Problems = append(r.Problems, problemLink{slug, status, title})
		}
	}
	for name, n := range members(get(d.root, "components", "schemas")) {
		s := d.describe(n, false, 0)
		s.Name = name
		r.Schemas = append(r.Schemas, s)
	}
	return r
}

func (d document) eventTypes() *yaml.Node {
	return get(d.root, "components", "schemas", "Event", "discriminator", "mapping")
}

func (d document) operation(path, method string, item, n *yaml.Node) operation {
	op := operation{
		ID: textOf(get(n, "operationId")), Method: strings.ToUpper(method), Path: path,
		Summary: textOf(get(n, "summary")), Text: textOf(get(n, "description")), Access: d.access(n),
	}
	for _, sample := range items(get(n, "x-codeSamples")) {
		op.Command = textOf(get(sample, "source"))
	}
	for _, list := range []*yaml.Node{get(item, "parameters"), get(n, "parameters")} {
		for _, p := range items(list) {
			p, _ = d.resolve(p)
			shown := parameter{textOf(get(p, "name")), textOf(get(p, "in")), textOf(get(p, "required")) == "true",
				d.describe(get(p, "schema"), false, 0)}
			if text := get(p, "description"); text != nil {
				shown.Text = text.Value
			}
			shown.Fields = nil
			op.Parameters = append(op.Parameters, shown)
		}
	}
	if request, _ := d.resolve(get(n, "requestBody")); request != nil {
		op.Request = d.body(request)
	}
	for status, r := range members(get(n, "responses")) {
		r, _ = d.resolve(r)
		shown := response{Status: status, Text: textOf(get(r, "description"))}
		if status != "default" {
			shown.Body = d.body(r)
		}
		op.Responses = append(op.Responses, shown)
	}
	return op
}

// body returns the content of a request or a response, or nil. All media types have the same schema, but for pages.
func (d document) body(n *yaml.Node) *body {
	var b *body
	for mediaType, content := range members(get(n, "content")) {
		if b == nil {
			b = &body{Schema: d.describe(get(content, "schema"), false, 0)}
			example := get(content, "example")
			for _, first := range members(get(content, "examples")) {
				if example = get(first, "value"); example != nil {
					break
				}
			}
			if example != nil && strings.Contains(mediaType, "json") {
				b.Example = indentedJSON(example)
			}
		}
		b.Types = append(b.Types, mediaType)
	}
	return b
}

// access returns who may call an operation.
func (d document) access(n *yaml.Node) string {
	security := get(n, "security")
	if security == nil {
		security = get(d.root, "security")
	}
	switch {
	case len(items(security)) == 0:
		return "everybody"
	case get(items(security)[0], "admin") != nil:
		return "the admin token"
	}
	return "API keys and the admin token"
}
