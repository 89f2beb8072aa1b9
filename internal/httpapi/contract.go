package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-openapi/jsonpointer"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/audatex-relay/relay/api"
)

// accessTo is who may call an operation, according to its security in the contract.
type accessTo int

const (
	accessKeys   accessTo = iota // keys and the admin token
	accessManage                 // keys of the role manage and the admin token
	accessAdmin                  // the admin token
	accessPublic                 // everybody
)

// operation is one method of one path of the contract, prepared for checking requests.
type operation struct {
	id         string
	access     accessTo
	changes    bool // it needs a key that may make changes
	once       bool // it takes an Idempotency-Key
	ownTimeout bool // x-timeout: it asks the vendor or a receiver, or waits for events, with bounds of its own
	waits      bool // x-waits: it takes a place among the requests that wait for the vendor or a receiver
	parameters []parameter
	bodies     map[string]*jsonschema.Schema // by media type; nil: the operation takes no body
	needsBody  bool
}

// parameter is one of an operation's parameters.
type parameter struct {
	name, in string
	required bool
	array    bool
	typ      string // of the parameter, or of an array's items
	schema   *jsonschema.Schema
}

// contract is the compiled OpenAPI document.
type contract struct {
	operations map[string]operation          // by "GET /v1/callbacks/{id}"
	settings   map[string]*jsonschema.Schema // the schemas of patched settings
	nothing    *jsonschema.Schema            // of the body of a change that takes none
	patterns   map[string]string             // descriptions of regular expressions
	event      *jsonschema.Schema            // of every event
	compiler   *jsonschema.Compiler
}

// document is the part of an OpenAPI document that is used here.
type document struct {
	Security []map[string][]string
	Paths    map[string]map[string]json.RawMessage
}

type operationObject struct {
	OperationID string
	Security    []map[string][]string
	Parameters  []json.RawMessage
	RequestBody json.RawMessage
	Timeout     string `json:"x-timeout"`
	Waits       bool   `json:"x-waits"`
}

// contractURL is the document's address in its references. Nothing is ever fetched.
const contractURL = "mem:///openapi.yaml"

// embedded returns the contract, which is compiled once per process and never changed.
var embedded = sync.OnceValues(readContract)

// readContract compiles the embedded contract. An error is a bug.
func readContract() (*contract, error) {
	var tree any
	err := yaml.Unmarshal(api.OpenAPI, &tree)
	if err != nil {
		return nil, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	raw, err := json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	c := &contract{
		operations: map[string]operation{}, settings: map[string]*jsonschema.Schema{},
		patterns: map[string]string{}, compiler: jsonschema.NewCompiler(),
	}
	c.compiler.DefaultDraft(jsonschema.Draft2020)
	c.compiler.AssertFormat()
	c.compiler.RegisterFormat(&jsonschema.Format{Name: "date-time", Validate: checkTime})
	if err := c.add(contractURL, raw); err != nil {
		return nil, err
	}
	names, err := fs.Glob(api.Schemas, "schemas/*.json")
	if err != nil {
		return nil, fmt.Errorf("list the schemas: %w", err)
	}
	for _, name := range names {
		b, err := api.Schemas.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if err := c.add("mem:///"+name, b); err != nil {
			return nil, err
		}
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	if err := c.word(tree); err != nil {
		return nil, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	for p, methods := range doc.Paths {
		for method, object := range methods {
			if method == "parameters" {
				continue
			}
			op, err := c.operation(doc, tree, p, method, object)
			if err != nil {
				return nil, fmt.Errorf("read %s %s of the OpenAPI document: %w", method, p, err)
			}
			c.operations[strings.ToUpper(method)+" "+p] = op
		}
	}
	for _, name := range []string{"CallbackSettings", "ConnectionSettings"} {
		if c.settings[name], err = c.compile("/components/schemas/" + name); err != nil {
			return nil, fmt.Errorf("read schema %s of the OpenAPI document: %w", name, err)
		}
	}
	if err := c.add("mem:///nothing", []byte(`{"type":"object","additionalProperties":false}`)); err != nil {
		return nil, err
	}
	if c.nothing, err = c.compiler.Compile("mem:///nothing"); err != nil {
		return nil, fmt.Errorf("read the schema of no body: %w", err)
	}
	if c.event, err = c.compiler.Compile("mem:///schemas/event-v1.json"); err != nil {
		return nil, fmt.Errorf("read the schema of events: %w", err)
	}
	return c, nil
}

// checkTime accepts the date-times that time.Time can parse. RFC 3339 allows a little more (small
// letters, leap seconds), which the schema's own check accepts, and the handler could not parse.
func checkTime(v any) error {
	text, ok := v.(string)
	if !ok {
		return nil
	}
	_, err := time.Parse(time.RFC3339, text)
	return err
}

func (c *contract) add(url string, raw []byte) error {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err == nil {
		err = c.compiler.AddResource(url, doc)
	}
	if err != nil {
		return fmt.Errorf("add %s: %w", url, err)
	}
	return nil
}

func (c *contract) operation(doc document, tree any, p, method string, object json.RawMessage) (operation, error) {
	var o operationObject
	if err := json.Unmarshal(object, &o); err != nil {
		return operation{}, err
	}
	op := operation{id: o.OperationID, changes: method != "get", ownTimeout: o.Timeout == "own", waits: o.Waits}
	if o.Timeout != "" && !op.ownTimeout {
		return operation{}, fmt.Errorf("%s: x-timeout is %q, not own", o.OperationID, o.Timeout)
	}
	security := doc.Security
	if o.Security != nil {
		security = o.Security
	}
	switch {
	case len(security) == 0:
		op.access = accessPublic
	case security[0]["admin"] != nil:
		op.access = accessAdmin
	case security[0]["manage"] != nil:
		op.access = accessManage
	}
	place := "/paths/" + jsonpointer.Escape(p)
	shared, _ := lookUp(tree, place+"/parameters").([]any)
	for i := range shared {
		if err := c.parameter(&op, tree, fmt.Sprintf("%s/parameters/%d", place, i)); err != nil {
			return operation{}, err
		}
	}
	place += "/" + method
	for i := range o.Parameters {
		if err := c.parameter(&op, tree, fmt.Sprintf("%s/parameters/%d", place, i)); err != nil {
			return operation{}, err
		}
	}
	op.once = slices.ContainsFunc(op.parameters, func(p parameter) bool {
		return p.in == "header" && p.name == idempotencyHeader
	})
	if o.RequestBody == nil {
		return op, nil
	}
	place = follow(tree, place+"/requestBody")
	body, _ := lookUp(tree, place).(map[string]any)
	op.needsBody, _ = body["required"].(bool)
	op.bodies = map[string]*jsonschema.Schema{}
	content, _ := body["content"].(map[string]any)
	for mediaType := range content {
		schema, err := c.compile(place + "/content/" + jsonpointer.Escape(mediaType) + "/schema")
		if err != nil {
			return operation{}, err
		}
		op.bodies[mediaType] = schema
	}
	return op, nil
}

// word records the document's description of each pattern: people are not shown regular
// expressions.
func (c *contract) word(tree any) error {
	switch at := tree.(type) {
	case map[string]any:
		if pattern, ok := at["pattern"].(string); ok {
			words, _ := at["x-words"].(string)
			if words == "" || c.patterns[pattern] != "" && c.patterns[pattern] != words {
				return fmt.Errorf("the pattern %s has no x-words, or has two", pattern)
			}
			c.patterns[pattern] = words
		}
		for _, inside := range at {
			if err := c.word(inside); err != nil {
				return err
			}
		}
	case []any:
		for _, inside := range at {
			if err := c.word(inside); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *contract) parameter(op *operation, tree any, place string) error {
	place = follow(tree, place)
	object, _ := lookUp(tree, place).(map[string]any)
	schema, err := c.compile(place + "/schema")
	if err != nil {
		return err
	}
	p := parameter{schema: schema}
	p.name, _ = object["name"].(string)
	p.in, _ = object["in"].(string)
	p.required, _ = object["required"].(bool)
	p.typ = typeOf(tree, place+"/schema")
	if p.typ == "array" {
		p.array, p.typ = true, typeOf(tree, follow(tree, place+"/schema")+"/items")
	}
	op.parameters = append(op.parameters, p)
	return nil
}

func (c *contract) compile(pointer string) (*jsonschema.Schema, error) {
	return c.compiler.Compile(contractURL + "#" + pointer)
}

// follow returns the target of a reference within the document, or the place itself.
func follow(tree any, place string) string {
	for {
		object, _ := lookUp(tree, place).(map[string]any)
		ref, _ := object["$ref"].(string)
		local, ok := strings.CutPrefix(ref, "#")
		if !ok {
			return place
		}
		place = local
	}
}

func typeOf(tree any, place string) string {
	object, _ := lookUp(tree, follow(tree, place)).(map[string]any)
	typ, _ := object["type"].(string)
	return typ
}

// lookUp returns what a JSON Pointer points at, or nil.
func lookUp(tree any, pointer string) any {
	p, err := jsonpointer.New(pointer)
	if err != nil {
		return nil
	}
	there, _, _ := p.Get(tree) // an error means that there is nothing
	return there
}

// schemaNamed returns an event schema, or nil if there is none with that name.
func schemaNamed(name string) []byte {
	if name != path.Base(name) {
		return nil
	}
	b, err := api.Schemas.ReadFile("schemas/" + name)
	if err != nil {
		return nil
	}
	return b
}
