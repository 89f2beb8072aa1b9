package apidocs

import "strings"

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
	ref := textOf(get(d.eventTypes(), typ))
	target := get(d.root, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	e := event{Type: typ, Schema: d.describe(target, true, 0), Order: strings.HasPrefix(typ, "audatex.parts.")}
	for i, f := range e.Schema.Fields {
		if f.Name == "type" {
			e.Schema.Fields[i].Limits = []string{"`" + typ + "`"}
		}
	}
	for _, content := range members(get(d.root, "webhooks", "event", "post", "requestBody", "content")) {
		if value := get(content, "examples", typ, "value"); value != nil {
			e.Example = indentedJSON(value)
			e.Text = textOf(get(value, "data", "message"))
			file := textOf(get(value, "dataschema"))
			e.SchemaFile = file[strings.LastIndexByte(file, '/')+1:]
			break
		}
	}
	return e
}
