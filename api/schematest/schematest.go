// Package schematest checks in tests that what the relay publishes is what its documents describe. The details of an
// operational event must fit the schema of their kind, and have no member that the schema does not name. Begin with
// Details.
package schematest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/audatex-relay/relay/api"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const file = "schemas/operational-event-v1.json"

// described is the schema of the data of operational events, and the names of the details of each kind.
type described struct {
	schema *jsonschema.Schema
	names  map[string]map[string]json.RawMessage // by the place of a kind's details in the schema
	places map[relay.Kind]string
}

var read = sync.OnceValues(func() (*described, error) {
	raw, err := api.Schemas.ReadFile(file)
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("mem:///"+file, doc); err != nil {
		return nil, err
	}
	d := &described{names: map[string]map[string]json.RawMessage{}, places: map[relay.Kind]string{}}
	if d.schema, err = c.Compile("mem:///" + file); err != nil {
		return nil, err
	}
	var parts struct {
		AllOf []struct {
			If struct {
				Properties struct{ Kind struct{ Const relay.Kind } }
			}
			Then struct {
				Properties struct {
					Details struct {
						Ref string `json:"$ref"`
					}
				}
			}
		}
		Defs map[string]struct {
			Properties map[string]json.RawMessage
		} `json:"$defs"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return nil, err
	}
	for _, p := range parts.AllOf {
		d.places[p.If.Properties.Kind.Const] = p.Then.Properties.Details.Ref
	}
	for name, of := range parts.Defs {
		d.names["#/$defs/"+name] = of.Properties
	}
	return d, nil
})

// Details reports an error of the test if the details of an event of a kind are not as the schema describes them.
func Details(t testing.TB, kind relay.Kind, details map[string]any) {
	t.Helper()
	if err := check(relay.Operational{Kind: kind, Message: "It happened.", Details: details}); err != nil {
		t.Errorf("an event %s has details that its schema does not describe: %v", kind, err)
	}
}

// Log does the same for every operational event in a log.
func Log(t testing.TB, s *store.Store) {
	t.Helper()
	for from, more := uint64(1), true; more; {
		var events []store.Stored
		var err error
		if events, more, err = s.Events.Scan(context.Background(), from,
			[]string{"audatex.*.relay.>"}, 500); err != nil {
			t.Fatalf("read the log: %v", err)
		}
		for _, stored := range events {
			from = stored.Seq + 1
			var ev struct{ Data relay.Operational }
			if err := json.Unmarshal(stored.Body, &ev); err != nil {
				t.Errorf("event %d: %v", stored.Seq, err)
				continue
			}
			if err := check(ev.Data); err != nil {
				t.Errorf("an event %s in the log has details that its schema does not describe: %v", ev.Data.Kind, err)
			}
		}
		more = more && len(events) > 0
	}
}

func check(data relay.Operational) error {
	d, err := read()
	if err != nil {
		return err
	}
	names, known := d.names[d.places[data.Kind]]
	if !known {
		return fmt.Errorf("%s describes no details of this kind", file)
	}
	for name := range data.Details {
		if _, named := names[name]; !named {
			return fmt.Errorf("%s describes no member %q", d.places[data.Kind], name)
		}
	}
	raw, err := relay.Encode(data)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	return d.schema.Validate(value)
}
