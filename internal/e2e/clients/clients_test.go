package clients

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// tools is the variable that names a copy of tools/clients with its packages installed.
const tools = "RELAY_CLIENTS"

const admin = "an-admin-token-for-generated-clients"

// root is the top of the repository.
var root = filepath.Join("..", "..", "..")

// world is a relay, what it serves as its document, and a receiver.
type world struct {
	url, document, receiver string
}

func newWorld(t *testing.T) world {
	t.Helper()
	program := filepath.Join(t.TempDir(), "relay")
	if err := harness.Build(t.Context(), root, "./cmd/relay", program); err != nil {
		t.Fatal(err)
	}
	relay := harness.StartProcess(t, program, []string{"serve"}, []string{
		"PATH=" + os.Getenv("PATH"), "RELAY_HTTP_ADDR=127.0.0.1:0", "RELAY_METRICS_ADDR=127.0.0.1:0",
		"RELAY_DATA_DIR=" + filepath.Join(t.TempDir(), "data"), "RELAY_ADMIN_TOKEN=" + admin,
		"RELAY_AUDATEX_CLIENT_ID=clients", "RELAY_AUDATEX_CLIENT_SECRET=a-secret-for-generated-clients",
		"RELAY_CALLBACK_ALLOW_CIDRS=127.0.0.0/8",
	}, &harness.Logbook{})
	relay.AwaitServing(t, "the relay")
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(receiver.Close)
	w := world{url: "http://" + relay.At.API, receiver: receiver.URL, document: filepath.Join(t.TempDir(), "openapi.json")}
	client := harness.NewClient()
	t.Cleanup(client.CloseIdleConnections)
	answer, err := (harness.Caller{Base: w.url, Client: client}).Call(http.MethodGet, "/openapi.json", nil)
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("the document: %d %v", answer.Status, err)
	}
	if err := os.WriteFile(w.document, answer.Body, 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// run runs a command that must succeed.
func (w world) run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	command := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...)
	command.Dir = dir
	command.Env = append(os.Environ(), "RELAY_URL="+w.url, "RELAY_ADMIN_TOKEN="+admin, "RECEIVER_URL="+w.receiver,
		"REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_UPDATE_NOTICE=true")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func TestGeneratedClients(t *testing.T) {
	t.Parallel()
	node := os.Getenv(tools)
	if node == "" {
		t.Skipf("%s names no copy of tools/clients with its packages: npm ci, or .ci/run clients", tools)
	}
	w := newWorld(t)
	program := func(name string) string { return filepath.Join(node, "node_modules", ".bin", name) }
	t.Run("lint", func(t *testing.T) {
		t.Parallel()
		w.run(t, node, program("redocly"), "lint", "--config", "redocly.yaml", w.document)
	})
	t.Run("TypeScript", func(t *testing.T) {
		t.Parallel()
		w.run(t, node, program("openapi-typescript"), w.document, "--output", "relay.d.ts")
		w.run(t, node, program("tsc"), "--project", "tsconfig.json")
		w.run(t, node, "node", filepath.Join("out", "call.js"))
	})
	t.Run("Go", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		client, overlay := filepath.Join(dir, "client.go"), filepath.Join(dir, "overlay.json")
		w.run(t, root, "go", "tool", "-modfile=tools/go.mod", "oapi-codegen", "-generate", "types,client", "-package",
			"main", "-o", client, w.document)
		place, err := filepath.Abs(filepath.Join("testdata", "call", "client.go"))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(map[string]any{"Replace": map[string]string{place: client}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(overlay, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		w.run(t, ".", "go", "run", "-overlay", overlay, "./testdata/call")
	})
}
