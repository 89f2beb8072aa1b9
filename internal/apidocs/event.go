package apidocs

import (
	"strings"

	"github.com/audatex-relay/relay/internal/yamljson"
)

// event is one type of event as its page shows it.
type event struct {
	Type, Text string
	Order      bool // it is about an order
	Schema     schema
	Example    string
	SchemaFile string // of its data, below /schemas/
}

// event returns a type of event with all its fields.
func (d document) event(typ string) event {
	ref := yamljson.Text(yamljson.Get(d.eventTypes(), typ))
	target := yamljson.Get(d.root, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	e := event{Type: typ, Schema: d.describe(target, true, 0), Order: strings.HasPrefix(typ, "audatex.parts.")}
	for i, f := range e.Schema.Fields {
		if f.Name == "type" {
			e.Schema.Fields[i].Limits = []string{"`" + typ + "`"}
		}
	}
	for _, content := range yamljson.Members(
		yamljson.Get(d.root, "webhooks", "event", "post", "requestBody", "content")) {
		if value := yamljson.Get(content, "examples", typ, "value"); value != nil {
			e.Example = indentedJSON(value)
			e.Text = yamljson.Text(yamljson.Get(value, "data", "message"))
			file := yamljson.Text(yamljson.Get(value, "dataschema"))
			e.SchemaFile = file[strings.LastIndexByte(file, '/')+1:]
			break
		}
	}
	return e
}
