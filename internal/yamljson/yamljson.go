// Package yamljson writes YAML nodes as JSON. Members keep their order, and numbers the digits in which their
// author wrote them. Begin with Compact.
package yamljson

import (
	"bytes"
	"encoding/json"

	"go.yaml.in/yaml/v4"
)

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
