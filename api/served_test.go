package api

import (
	"bytes"
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// servedDocument returns the served OpenAPI document as an independent library reads it, and as plain values.
func servedDocument(t *testing.T) (*openapi3.T, map[string]any) {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(ServedOpenAPI) // it follows no reference to another file
	if err != nil {
		t.Fatal(err)
	}
	return doc, values(t, ServedOpenAPI)
}

func values(t *testing.T, document []byte) map[string]any {
	t.Helper()
	var tree map[string]any
	if err := yaml.Unmarshal(document, &tree); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return parsed.(map[string]any)
}

func TestServedOpenAPIIsValid(t *testing.T) {
	t.Parallel()
	doc, _ := servedDocument(t)
	// Examples are held against their schemas below: this library takes a value of any type as one that cannot be null.
	if err := doc.Validate(context.Background(), openapi3.DisableExamplesValidation()); err != nil {
		t.Error(err)
	}
	if len(doc.Servers) != 1 || doc.Servers[0].URL != PublicURL {
		t.Errorf("its servers are %v, not the address that the relay replaces", doc.Servers)
	}
}

var outside = regexp.MustCompile(`\$ref: ["']?[^"'#\s]`)

func TestServedDocumentsReferToNothingOutside(t *testing.T) {
	t.Parallel()
	for name, document := range map[string][]byte{"openapi.yaml": ServedOpenAPI, "asyncapi.yaml": ServedAsyncAPI} {
		if found := outside.Find(document); found != nil {
			t.Errorf("%s refers to something outside: %s", name, found)
		}
		if own := regexp.MustCompile(`x-(go|timeout|waits)[a-z-]*:`).Find(document); own != nil {
			t.Errorf("%s has %s, which is the relay's own", name, own)
		}
	}
}

// Every operation has an example of what is sent and of what comes back, and its command is complete. What is missing
// belongs into api/examples; then go generate ./api.
func TestEveryOperationHasExamples(t *testing.T) {
	t.Parallel()
	doc, tree := servedDocument(t)
	fits := newFitting(t, tree)
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			place := []string{"paths", path, strings.ToLower(method)}
			if op.RequestBody != nil {
				for mediaType, content := range op.RequestBody.Value.Content {
					fits.example(op.OperationID+": the request", content,
						append(place, "requestBody", "content", mediaType)...)
				}
			}
			for status, response := range op.Responses.Map() {
				if strings.HasPrefix(status, "2") {
					for mediaType, content := range response.Value.Content {
						fits.example(op.OperationID+": the answer "+status, content,
							append(place, "responses", status, "content", mediaType)...)
					}
				}
			}
			samples, _ := op.Extensions["x-codeSamples"].([]any)
			if len(samples) != 1 {
				t.Errorf("%s has no command", op.OperationID)
				continue
			}
			command, _ := samples[0].(map[string]any)["source"].(string)
			if missing := regexp.MustCompile(`curl[^\n]*?(\{\w+\})`).FindStringSubmatch(command); missing != nil {
				t.Errorf("%s: its example has no value for %s under path", op.OperationID, missing[1])
			}
		}
	}
}

// Every type of event is described, has an example that fits both its typed schema and the one that the relay's own
// code is held against, and there is no example of a type that there is not.
func TestEveryTypeOfEventHasAnExample(t *testing.T) {
	t.Parallel()
	doc, tree := servedDocument(t)
	fits := newFitting(t, tree)
	typed := fits.compile("components", "schemas", "Event")
	own, err := jsonschema.NewCompiler().Compile("schemas/event-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	mapping := doc.Components.Schemas["Event"].Value.Discriminator.Mapping
	for _, content := range doc.Webhooks["event"].Post.RequestBody.Value.Content {
		for typ, example := range content.Examples {
			if _, ok := mapping[typ]; !ok {
				t.Errorf("there is an example of an event of the type %s, and no such type", typ)
			}
			value := plain(t, example.Value.Value)
			if got := value.(map[string]any)["type"]; got != typ {
				t.Errorf("the example of %s is of the type %v", typ, got)
			}
			for what, schema := range map[string]*jsonschema.Schema{"the served schema": typed, "event-v1.json": own} {
				if err := schema.Validate(value); err != nil {
					t.Errorf("%s and %s: %v", typ, what, err)
				}
			}
		}
		for typ := range mapping {
			if content.Examples[typ] == nil {
				t.Errorf("there is no example of an event of the type %s: add it to api/examples/events.yaml", typ)
			}
		}
	}
}

// Generators emit these themselves, at least some in some language.
var emitted = []string{
	"Client", "ClientInterface", "ClientOption", "ClientWithResponses", "ClientWithResponsesInterface",
	"HttpRequestDoer", "RequestEditorFn", "Error", "Request", "Response", "Object", "String", "Number", "Date", "Map",
	"Set", "Configuration", "ApiClient", "ApiException", "ApiResponse", "Paths", "Components", "Operations", "Webhooks",
}

func TestSchemasHaveNamesThatGeneratorsCanUse(t *testing.T) {
	t.Parallel()
	doc, _ := servedDocument(t)
	names := map[string]bool{}
	for name := range doc.Components.Schemas {
		names[name] = true
		if slices.Contains(emitted, name) {
			t.Errorf("generators have a %s of their own: call the schema something else", name)
		}
	}
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			id := strings.ToUpper(op.OperationID[:1]) + op.OperationID[1:]
			for _, made := range []string{id + "Params", id + "Response", id + "Request",
				id + "JSONBody", id + "JSONRequestBody"} {
				if names[made] {
					t.Errorf("generators make a %s of the operation %s: call the schema something else",
						made, op.OperationID)
				}
			}
		}
	}
}

// openapi-typescript takes a member with a default as one that is always there, which is wrong for what is sent.
func TestNoMemberHasADefault(t *testing.T) {
	t.Parallel()
	doc, _ := servedDocument(t)
	for name, schema := range doc.Components.Schemas {
		for member, of := range schema.Value.Properties {
			if of.Value.Default != nil && of.Ref == "" {
				t.Errorf("%s.%s has a default", name, member)
			}
		}
	}
}

// What is committed was made from what is committed; .ci/run generated checks the same, and this check is faster.
func TestServedDocumentsAreCurrent(t *testing.T) {
	t.Parallel()
	source, served := values(t, OpenAPI), values(t, ServedOpenAPI)
	for path, item := range source["paths"].(map[string]any) {
		for method := range item.(map[string]any) {
			if other, ok := served["paths"].(map[string]any)[path].(map[string]any); !ok || other[method] == nil {
				t.Errorf("%s %s is not in the served document: run go generate ./api", method, path)
			}
		}
	}
	for path := range served["paths"].(map[string]any) {
		if source["paths"].(map[string]any)[path] == nil {
			t.Errorf("%s is in the served document only: run go generate ./api", path)
		}
	}
}

// fitting holds examples against the schemas of a document.
type fitting struct {
	t        *testing.T
	compiler *jsonschema.Compiler
}

func newFitting(t *testing.T, tree map[string]any) fitting {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource("mem:///openapi.json", tree); err != nil {
		t.Fatal(err)
	}
	return fitting{t, c}
}

func (f fitting) compile(place ...string) *jsonschema.Schema {
	f.t.Helper()
	pointer := ""
	for _, name := range place {
		pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", "+", "%2B").Replace(name)
	}
	schema, err := f.compiler.Compile("mem:///openapi.json#" + pointer)
	if err != nil {
		f.t.Fatal(err)
	}
	return schema
}

func (f fitting) example(what string, content *openapi3.MediaType, place ...string) {
	f.t.Helper()
	var examples []any
	if content.Example != nil {
		examples = append(examples, content.Example)
	}
	for _, example := range content.Examples {
		examples = append(examples, example.Value.Value)
	}
	if len(examples) == 0 {
		f.t.Errorf("%s has no example: add it to api/examples", what)
		return
	}
	if content.Schema == nil { // what is no JSON
		return
	}
	schema := f.compile(append(place, "schema")...)
	for _, example := range examples {
		if err := schema.Validate(plain(f.t, example)); err != nil {
			f.t.Errorf("%s: the example does not fit: %v", what, err)
		}
	}
}

// plain returns a value as the validator reads JSON.
func plain(t *testing.T, value any) any {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}
