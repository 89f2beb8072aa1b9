package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
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

// bodySchemas are the schemas of the bodies of requests and responses, each compiled once:
// kin-openapi compiles them again for every body.
type bodySchemas struct {
	mu       sync.Mutex
	compiler *jsonschema.Compiler
	base     string // the directory of the contract, for the references to files beside it
	compiled map[*openapi3.MediaType]*jsonschema.Schema
}

var bodies = sync.OnceValues(func() (*bodySchemas, error) {
	dir, err := filepath.Abs("../../api")
	if err != nil {
		return nil, err
	}
	a := &bodySchemas{compiler: jsonschema.NewCompiler(), base: "file://" + filepath.ToSlash(dir) + "/",
		compiled: map[*openapi3.MediaType]*jsonschema.Schema{}}
	a.compiler.DefaultDraft(jsonschema.Draft2020)
	a.compiler.AssertFormat()
	return a, a.add("contract.json", spec())
})

func (a *bodySchemas) add(name string, document any) error {
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

func (a *bodySchemas) of(content *openapi3.MediaType) (*jsonschema.Schema, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if schema := a.compiled[content]; schema != nil {
		return schema, nil
	}
	name := fmt.Sprintf("body-%d.json", len(a.compiled))
	if err := a.add(name, content.Schema); err != nil {
		return nil, err
	}
	schema, err := a.compiler.Compile(a.base + name)
	if err == nil {
		a.compiled[content] = schema
	}
	return schema, err
}

// askedAsContract checks the body of a request against the contract's schema for its operation. Numbers
// are read as floats: some tests send exponents with which nobody can calculate exactly.
func askedAsContract(request *openapi3.RequestBody, contentType string, body []byte) error {
	if len(body) > 0 {
		return fitsContract(request.Content, contentType, body, func() (value any, err error) {
			err = json.Unmarshal(body, &value)
			return value, err
		})
	}
	if request.Required {
		return errors.New("a body is missing")
	}
	return nil
}

// answersAsContract checks the body of a response against the contract's schema for its status.
func answersAsContract(response *openapi3.Response, contentType string, body []byte) error {
	return fitsContract(response.Content, contentType, body, func() (any, error) {
		return jsonschema.UnmarshalJSON(bytes.NewReader(body))
	})
}

// fitsContract checks a body against the contract's schema for its media type.
func fitsContract(declared openapi3.Content, contentType string, body []byte, read func() (any, error)) error {
	if len(declared) == 0 {
		return nil
	}
	content := declared.Get(contentType)
	if content == nil {
		return fmt.Errorf("a body of type %q", contentType)
	}
	if content.Schema == nil {
		return nil
	}
	known, err := bodies()
	if err != nil {
		return err
	}
	schema, err := known.of(content)
	if err != nil {
		return err
	}
	mediaType, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	mediaType = strings.TrimSpace(mediaType)
	var value any = string(body)
	switch {
	case strings.HasSuffix(mediaType, "json"):
		value, err = read()
	case strings.HasSuffix(mediaType, "yaml"):
		value, err = readYAML(body)
	}
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// The compiled schemas refuse what the contract does not allow.
func TestBodiesThatDoNotFitTheContractAreNoticed(t *testing.T) {
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
		if err := answersAsContract(livez, c.contentType, []byte(c.body)); (err == nil) != c.fits {
			t.Errorf("%s as %s: %v", c.body, c.contentType, err)
		}
	}
	callback := spec().Paths.Value("/v1/callbacks/{id}").Get.Responses.Status(http.StatusOK).Value
	if err := answersAsContract(callback, "application/json", []byte(`{"id":1}`)); err == nil {
		t.Error("a callback whose id is a number fits")
	}
	settings := spec().Paths.Value("/v1/callbacks/{id}").Put.RequestBody.Value
	for body, fits := range map[string]bool{
		`{"url":"https://bms.example/"}`: true, `{"url":1}`: false, `{"url":"https://bms.example/","more":1}`: false,
		`{`: false, ``: false,
	} {
		if err := askedAsContract(settings, "application/json", []byte(body)); (err == nil) != fits {
			t.Errorf("settings %s: %v", body, err)
		}
	}
}

func readYAML(document []byte) (any, error) {
	var v any
	if err := yaml.Unmarshal(document, &v); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(raw))
}
