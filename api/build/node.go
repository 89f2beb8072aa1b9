package main

import (
	"fmt"
	"os"

	"go.yaml.in/yaml/v4"

	"github.com/audatex-relay/relay/internal/yamljson"
)

// node is a place in a document. Documents stay trees of nodes, so that the order of their members
// is what their authors chose.
type node = *yaml.Node

// parse returns the root of a YAML or JSON document, without comments and aliases.
func parse(path string) (node, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return clone(doc.Content[0]), nil
}

// clone returns a copy without comments. Aliases are replaced by what they stand for.
func clone(n node) node {
	if n.Kind == yaml.AliasNode {
		return clone(n.Alias)
	}
	c := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, Style: n.Style &^ yaml.TaggedStyle}
	for _, child := range n.Content {
		c.Content = append(c.Content, clone(child))
	}
	return c
}

// block returns a copy in block style, for what came from JSON.
func block(n node) node {
	n = clone(n)
	walk(n, func(n node) { n.Style = 0 })
	return n
}

// walk calls visit for a node and everything below it, the outermost first.
func walk(n node, visit func(node)) {
	visit(n)
	for _, child := range n.Content {
		walk(child, visit)
	}
}

// index returns where a mapping has a member's name; the value follows it.
func index(n node, name string) int {
	at := 0
	for there := range yamljson.Members(n) {
		if there == name {
			return at
		}
		at += 2
	}
	return -1
}

// set gives a member of a mapping a value. A new member is the last one.
func set(n node, name string, value node) {
	if at := index(n, name); at >= 0 {
		n.Content[at+1] = value
		return
	}
	n.Content = append(n.Content, text(name), value)
}

// setAfter is set for a new member that should follow another one.
func setAfter(n node, before, name string, value node) {
	remove(n, name)
	at := index(n, before)
	if at < 0 {
		set(n, name, value)
		return
	}
	rest := append([]node{text(name), value}, n.Content[at+2:]...)
	n.Content = append(n.Content[:at+2:at+2], rest...)
}

func remove(n node, name string) {
	if at := index(n, name); at >= 0 {
		n.Content = append(n.Content[:at:at], n.Content[at+2:]...)
	}
}

// members calls visit for each member of a mapping in order.
func members(n node, visit func(name string, value node)) {
	for name, value := range yamljson.Members(n) {
		visit(name, value)
	}
}

func text(s string) node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

func list(items ...node) node { return &yaml.Node{Kind: yaml.SequenceNode, Content: items} }

// object returns a mapping of names and nodes in turn.
func object(pairs ...any) node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for i, of := range pairs {
		if s, ok := of.(string); ok {
			n.Content = append(n.Content, text(s))
		} else if i%2 == 1 {
			n.Content = append(n.Content, of.(node))
		}
	}
	return n
}

func ref(schema string) node { return object("$ref", "#/components/schemas/"+schema) }

// resolve follows references within a document.
func resolve(doc, n node) node {
	for {
		to := yamljson.Get(n, "$ref")
		if to == nil {
			return n
		}
		target := doc
		for _, name := range pointer(to.Value) {
			target = yamljson.Get(target, name)
		}
		if target == nil {
			return n
		}
		n = target
	}
}

// compact returns a node as JSON on one line.
func compact(n node) string { return string(yamljson.Compact(n)) }
