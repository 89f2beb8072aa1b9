package topology_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/topology"
)

func check(t *testing.T, js jetstream.JetStream, table topology.Topology) []topology.Finding {
	t.Helper()
	findings, err := table.Check(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	return findings
}

func names(t *testing.T, js jetstream.JetStream) (names []string) {
	t.Helper()
	list := js.StreamNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// contains is strings.Contains with .* for anything.
func contains(s, pattern string) bool {
	parts := strings.Split(pattern, ".*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(strings.Join(parts, ".*")).MatchString(s)
}

func equalJSON(t *testing.T, a, b any) bool {
	t.Helper()
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	if errX != nil || errY != nil {
		t.Fatal(errX, errY)
	}
	return string(x) == string(y)
}
