package main

import (
	"path/filepath"

	"github.com/audatex-relay/relay/internal/yamljson"
)

// buildAsyncAPI returns the AsyncAPI document with the schemas of events inside.
func buildAsyncAPI(dir string, events eventSchemas) (node, error) {
	doc, err := parse(filepath.Join(dir, "asyncapi.yaml"))
	if err != nil {
		return nil, err
	}
	localRefs(doc)
	set(yamljson.Get(doc, "components"), "schemas", events.selfContained())
	return doc, nil
}
