// Package yamljson reads YAML documents as trees of nodes, and writes nodes as JSON. Members keep their order, and
// numbers the digits in which their author wrote them. Begin with Get and Compact.
package yamljson

import (
	"bytes"
	"encoding/json"
	"iter"

	"go.yaml.in/yaml/v4"
)

// Members iterates over the members of a mapping in their order. What is no mapping has none.
func Members(n *yaml.Node) iter.Seq2[string, *yaml.Node] {
	return func(yield func(string, *yaml.Node) bool) {
		if n == nil || n.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !yield(n.Content[i].Value, n.Content[i+1]) {
				return
			}
		}
	}
}

// Get returns a member of a mapping, or what is deeper; nil if it is not there.
func Get(n *yaml.Node, names ...string) *yaml.Node {
	for _, name := range names {
		var found *yaml.Node
		for key, value := range Members(n) {
			if key == name {
				found = value
				break
			}
		}
		n = found
	}
	return n
}

// Text returns a scalar's text, "" for no node.
func Text(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	return n.Value
}

// Compact returns a node without aliases as JSON on one line.
func Compact(n *yaml.Node) []byte {
	var b bytes.Buffer
	appendJSON(&b, n)
	return b.Bytes()
}

func appendJSON(b *bytes.Buffer, n *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		separator := byte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			b.WriteByte(separator)
			appendString(b, n.Content[i].Value)
			b.WriteByte(':')
			appendJSON(b, n.Content[i+1])
			separator = ','
		}
		if separator == '{' {
			b.WriteByte('{')
		}
		b.WriteByte('}')
	case yaml.SequenceNode:
		b.WriteByte('[')
		for i, item := range n.Content {
			if i > 0 {
				b.WriteByte(',')
			}
			appendJSON(b, item)
		}
		b.WriteByte(']')
	default:
		switch n.ShortTag() {
		case "!!null":
			b.WriteString("null")
		case "!!bool", "!!int", "!!float":
			b.WriteString(n.Value)
		default:
			appendString(b, n.Value)
		}
	}
}

func appendString(b *bytes.Buffer, s string) {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s)         // a string always encodes,
	b.Truncate(b.Len() - 1) // and ends with a newline
}
