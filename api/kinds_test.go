package api

import (
	"os"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

// The documents, and what operators of a cluster copy, name every kind of operational event there is. Those of the
// permissions name the private ones only, in each list.
func TestKindsAreDocumented(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	openapi, schema, asyncapi := read("openapi.yaml"), read("schemas/operational-event-v1.json"), read("asyncapi.yaml")
	nats := read("../docs/nats.md")
	for _, k := range relay.Kinds() {
		for name, named := range map[string]bool{
			"openapi.yaml":              strings.Contains(openapi, "- "+relay.OperationalPrefix+string(k)+"\n"),
			"operational-event-v1.json": strings.Contains(schema, string(k)),
			"asyncapi.yaml":             strings.Contains(asyncapi, "- "+string(k)+"\n"),
			"docs/nats.md, as private":  strings.Contains(nats, "`"+string(k)+"`") || !k.Private(),
		} {
			if !named {
				t.Errorf("%s is not in %s", k, name)
			}
		}
		for _, name := range []string{"subscribers.conf", "readers.conf"} {
			conf := read("../deploy/nats/" + name)
			lists, want := strings.Count(conf, `relay.callback-disabled.*"`), 0
			if k.Private() {
				want = lists
			}
			if n := strings.Count(conf, `"audatex.*.relay.`+string(k)+`.*"`); n != want {
				t.Errorf("%s is denied in %d of %d lists of %s, want %d", k, n, lists, name, want)
			}
		}
	}
}
