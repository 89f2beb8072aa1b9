package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// answerSchemas are the schemas of the responses' bodies, each compiled once: kin-openapi compiles
// them again for every body.
type answerSchemas struct {
	mu       sync.Mutex
	compiler *jsonschema.Compiler
	base     string // the directory of the contract, for the references to files beside it
	compiled map[*openapi3.MediaType]*jsonschema.Schema
}

var answers = sync.OnceValues(func() (*answerSchemas, error) {
	dir, err := filepath.Abs("../../api")
	if err != nil {
		return nil, err
	}
	a := &answerSchemas{compiler: jsonschema.NewCompiler(), base: "file://" + filepath.ToSlash(dir) + "/",
		compiled: map[*openapi3.MediaType]*jsonschema.Schema{}}
	a.compiler.DefaultDraft(jsonschema.Draft2020)
	a.compiler.AssertFormat()
	return a, a.add("contract.json", spec())
})

func (a *answerSchemas) add(name string, document any) error {
	raw, err := json.Marshal(document)
	if err != nil {
		return err
	}
	raw = bytes.ReplaceAll(raw, []byte(`"$ref":"#/`), []byte(`"$ref":"contract.json#/`))
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	return a.compiler.AddResource(a.base+name, parsed)
}

func (a *answerSchemas) of(content *openapi3.MediaType) (*jsonschema.Schema, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if schema := a.compiled[content]; schema != nil {
		return schema, nil
	}
	name := fmt.Sprintf("answer-%d.json", len(a.compiled))
	if err := a.add(name, content.Schema); err != nil {
		return nil, err
	}
	schema, err := a.compiler.Compile(a.base + name)
	if err == nil {
		a.compiled[content] = schema
	}
	return schema, err
}

// fitsContract checks a response's body against the contract's schema for its status.
func fitsContract(response *openapi3.Response, contentType string, body []byte) error {
	if len(response.Content) == 0 {
		return nil
	}
	content := response.Content.Get(contentType)
	if content == nil {
		return fmt.Errorf("a body of type %q", contentType)
	}
	if content.Schema == nil {
		return nil
	}
	known, err := answers()
	if err != nil {
		return err
	}
	schema, err := known.of(content)
	if err != nil {
		return err
	}
	mediaType, _, _ := strings.Cut(contentType, ";")
	if strings.HasSuffix(mediaType, "yaml") {
		if body, err = toJSON(body); err != nil {
			return err
		}
	}
	var value any = string(body)
	if strings.HasSuffix(mediaType, "json") || strings.HasSuffix(mediaType, "yaml") {
		if value, err = jsonschema.UnmarshalJSON(bytes.NewReader(body)); err != nil {
			return err
		}
	}
	return schema.Validate(value)
}

// The compiled schemas refuse what the contract does not say.
func TestAnswersThatDoNotFitTheContractAreNoticed(t *testing.T) {
	t.Parallel()
	livez := spec().Paths.Value("/livez").Get.Responses.Status(http.StatusOK).Value
	for _, c := range []struct {
		contentType, body string
		fits              bool
	}{
		{"application/json", `{"status":"ok"}`, true},
		{"application/json", `{"status":"bad"}`, false},
		{"application/json", `{"status":"ok","more":1}`, false},
		{"application/json", `{}`, false},
		{"application/json", `{"status":`, false},
		{"text/plain", `{"status":"ok"}`, false},
	} {
		if err := fitsContract(livez, c.contentType, []byte(c.body)); (err == nil) != c.fits {
			t.Errorf("%s as %s: %v", c.body, c.contentType, err)
		}
	}
	callback := spec().Paths.Value("/v1/callbacks/{id}").Get.Responses.Status(http.StatusOK).Value
	if err := fitsContract(callback, "application/json", []byte(`{"id":1}`)); err == nil {
		t.Error("a callback whose id is a number fits")
	}
}

func toJSON(document []byte) ([]byte, error) {
	var v any
	if err := yaml.Unmarshal(document, &v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}
