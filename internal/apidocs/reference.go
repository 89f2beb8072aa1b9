package apidocs

import (
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/audatex-relay/relay/internal/yamljson"
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
	r := reference{Title: yamljson.Text(yamljson.Get(d.root, "info", "title")),
		Text: yamljson.Text(yamljson.Get(d.root, "info", "description"))}
	byTag := map[string][]operation{}
	for path, item := range yamljson.Members(yamljson.Get(d.root, "paths")) {
		for method, op := range yamljson.Members(item) {
			if methods[method] {
				tag := yamljson.Text(items(yamljson.Get(op, "tags"))[0])
				byTag[tag] = append(byTag[tag], d.operation(path, method, item, op))
			}
		}
	}
	for _, tag := range items(yamljson.Get(d.root, "tags")) {
		name := yamljson.Text(yamljson.Get(tag, "name"))
		r.Groups = append(r.Groups, group{name, yamljson.Text(yamljson.Get(tag, "description")), byTag[name]})
	}
	event := yamljson.Get(d.root, "webhooks", "event")
	r.Webhook = d.operation("the callback's URL", "post", event, yamljson.Get(event, "post"))
	for typ := range yamljson.Members(d.eventTypes()) {
		r.Events = append(r.Events, typ)
	}
	for _, content := range yamljson.Members(yamljson.Get(d.root, "components", "responses", "AnyProblem", "content")) {
		for slug, example := range yamljson.Members(yamljson.Get(content, "examples")) {
			status, title := yamljson.Text(yamljson.Get(example, "value", "status")),
				yamljson.Text(yamljson.Get(example, "value", "title"))
			r.Problems = append(r.Problems, problemLink{slug, status, title})
		}
	}
	for name, n := range yamljson.Members(yamljson.Get(d.root, "components", "schemas")) {
		s := d.describe(n, false, 0)
		s.Name = name
		r.Schemas = append(r.Schemas, s)
	}
	return r
}

func (d document) eventTypes() *yaml.Node {
	return yamljson.Get(d.root, "components", "schemas", "Event", "discriminator", "mapping")
}

func (d document) operation(path, method string, item, n *yaml.Node) operation {
	op := operation{
		ID: yamljson.Text(yamljson.Get(n, "operationId")), Method: strings.ToUpper(method), Path: path,
		Summary: yamljson.Text(yamljson.Get(n, "summary")), Text: yamljson.Text(yamljson.Get(n, "description")),
		Access: d.access(n),
	}
	for _, sample := range items(yamljson.Get(n, "x-codeSamples")) {
		op.Command = yamljson.Text(yamljson.Get(sample, "source"))
	}
	for _, list := range []*yaml.Node{yamljson.Get(item, "parameters"), yamljson.Get(n, "parameters")} {
		for _, p := range items(list) {
			p, _ = d.resolve(p)
			shown := parameter{
				yamljson.Text(yamljson.Get(p, "name")), yamljson.Text(yamljson.Get(p, "in")),
				yamljson.Text(yamljson.Get(p, "required")) == "true", d.describe(yamljson.Get(p, "schema"), false, 0),
			}
			if text := yamljson.Get(p, "description"); text != nil {
				shown.Text = text.Value
			}
			shown.Fields = nil
			op.Parameters = append(op.Parameters, shown)
		}
	}
	if request, _ := d.resolve(yamljson.Get(n, "requestBody")); request != nil {
		op.Request = d.body(request)
	}
	for status, r := range yamljson.Members(yamljson.Get(n, "responses")) {
		r, _ = d.resolve(r)
		shown := response{Status: status, Text: yamljson.Text(yamljson.Get(r, "description"))}
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
	for mediaType, content := range yamljson.Members(yamljson.Get(n, "content")) {
		if b == nil {
			b = &body{Schema: d.describe(yamljson.Get(content, "schema"), false, 0)}
			example := yamljson.Get(content, "example")
			for _, first := range yamljson.Members(yamljson.Get(content, "examples")) {
				if example = yamljson.Get(first, "value"); example != nil {
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
	security := yamljson.Get(n, "security")
	if security == nil {
		security = yamljson.Get(d.root, "security")
	}
	switch {
	case len(items(security)) == 0:
		return "everybody"
	case yamljson.Get(items(security)[0], "admin") != nil:
		return "the admin token"
	}
	return "API keys and the admin token"
}
