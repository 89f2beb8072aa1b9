package api

import (
	"context"
	"io/fs"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The document and the schemas it refers to are valid, as an independent library reads them.
func TestOpenAPIIsValid(t *testing.T) {
	t.Parallel()
	loader := openapi3.NewLoader()
	loader.IsExternalRefsAllowed = true
	doc, err := loader.LoadFromFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !doc.IsOpenAPI31OrLater() || len(doc.Webhooks) == 0 {
		t.Error("the document is OpenAPI 3.1 and describes what a callback receives as a webhook")
	}
}

func TestSchemasCompile(t *testing.T) {
	t.Parallel()
	names, err := fs.Glob(Schemas, "schemas/*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("schemas: %v, %v", names, err)
	}
	for _, name := range names {
		if _, err := jsonschema.NewCompiler().Compile(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
