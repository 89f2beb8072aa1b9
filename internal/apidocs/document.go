package apidocs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/audatex-relay/relay/internal/yamljson"
)

// document is an OpenAPI document as a tree that keeps the order of its members.
type document struct{ root *yaml.Node }

func parse(raw []byte) (document, error) {
	var n yaml.Node
	if err := yaml.Unmarshal(raw, &n); err != nil {
		return document{}, fmt.Errorf("parse the OpenAPI document: %w", err)
	}
	if len(n.Content) != 1 {
		return document{}, fmt.Errorf("parse the OpenAPI document: it is empty")
	}
	return document{root: n.Content[0]}, nil
}

func items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}

// resolve follows references; name is the name of the last one's target, or "".
func (d document) resolve(n *yaml.Node) (target *yaml.Node, name string) {
	for {
		ref := yamljson.Get(n, "$ref")
		if ref == nil {
			return n, name
		}
		path := strings.Split(strings.TrimPrefix(ref.Value, "#/"), "/")
		name = path[len(path)-1]
		if n = yamljson.Get(d.root, path...); n == nil {
			return nil, name
		}
	}
}

func indentedJSON(n *yaml.Node) string {
	var b bytes.Buffer
	if err := json.Indent(&b, yamljson.Compact(n), "", "  "); err != nil { // Compact makes JSON
		panic(err)
	}
	return b.String()
}
