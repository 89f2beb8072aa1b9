package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/topology"
)

// pace is how much shorter than in production leases and the NATS servers' elections are: without
// that, most of the short suite would be waiting for them. Their proportions stay. With
// RELAY_FAULT_ROUNDS everything is as in production.
func pace() time.Duration {
	if os.Getenv("RELAY_FAULT_ROUNDS") != "" {
		return 1
	}
	return natstest.Elections()
}

// leaseTTL is how long a lease of the relays lives that this run builds.
func leaseTTL() time.Duration { return topology.LeaseTTL / pace() }

// paced are the relay's own times.
func paced() []place {
	return []place{
		{"internal/topology/topology.go", "LeaseTTL = 15 * time.Second\n",
			fmt.Sprintf("LeaseTTL = 15 * time.Second / %d\n", pace())},
		{"internal/shard/member.go", "renewEvery = 4 * time.Second\n",
			fmt.Sprintf("renewEvery = 4 * time.Second / %d\n", pace())},
	}
}

// overlay writes files of the module, by their paths, and a file by which the Go tool takes them in
// place of the real ones. It returns the path of that file.
func overlay(t testing.TB, sources map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	for file, source := range sources {
		path, err := filepath.Abs(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		other := filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(other, source, 0o600); err != nil {
			t.Fatal(err)
		}
		replace[path] = other
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
