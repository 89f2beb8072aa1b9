package upgrade

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/topology"
)

// before is what a callback had got when the earlier release stopped.
type before struct {
	Secret    string          `json:"secret"`
	Delivered map[string]bool `json:"delivered"`
}

// unpack writes the stored directory (testdata/README.md) and answers what its callbacks had got.
func unpack(t *testing.T, dir string) map[string]before {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "stored.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	plain, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for files := tar.NewReader(plain); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o700)
		} else {
			var raw []byte
			if raw, err = io.ReadAll(files); err == nil {
				err = os.WriteFile(path, raw, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var had map[string]before
	if err := json.Unmarshal(raw, &had); err != nil {
		t.Fatal(err)
	}
	return had
}

// The directory that the release before formats were marked has left, in the middle of retries: every delivery that was pending arrives,
// in order, nothing that had arrived comes again, and the mark is raised.
func TestWhatTheReleaseBeforeTheMarkStored(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	had := unpack(t, dir)
	var book harness.Logbook
	p := harness.StartProcess(t, release(t, topology.Formats), []string{"serve"}, []string{
		"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(), "RELAY_DATA_DIR=" + dir, "RELAY_HTTP_ADDR=127.0.0.1:0", "RELAY_METRICS_ADDR=127.0.0.1:0",
		"RELAY_ADMIN_TOKEN=an-admin-token-for-tests", "RELAY_AUDATEX_CLIENT_ID=gone", "RELAY_AUDATEX_CLIENT_SECRET=gone", "RELAY_AUDATEX_BASE_URL=http://127.0.0.1:1",
		"RELAY_AUDATEX_AUTH_URL=http://127.0.0.1:1", "RELAY_AUDATEX_TOKEN_URL=http://127.0.0.1:1", "RELAY_CALLBACK_ALLOW_CIDRS=127.0.0.0/8",
		// What was stored is as old as this test: no log and no schedule may have run out meanwhile.
		"RELAY_RETENTION=36500d", "RELAY_RETRY_SCHEDULE=500ms,1h,1h",
	}, &book)
	select {
	case <-p.Serves:
	case <-p.Exited:
		t.Fatalf("the relay does not start on it: %v\n%s", p.Err, book.Tail(30))
	}
	client := harness.NewClient()
	t.Cleanup(client.CloseIdleConnections)
	api := harness.Caller{Base: "http://" + p.At.API, Token: "an-admin-token-for-tests", Client: client}
	type event struct{ ID, Type, Subject, Site string }
	log, err := harness.Items[event](api, "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	receivers := map[string]*harness.Receiver{}
	pending := map[string]map[string]bool{}
	for id, had := range had {
		r := &harness.Receiver{ID: id, Behave: harness.Healthy, Secret: had.Secret, Bodies: map[string][]byte{}}
		if r.Webhook, err = standardwebhooks.NewWebhook(had.Secret); err != nil {
			t.Fatal(err)
		}
		r.Server = harness.ServeTracked(t, harness.Listen(t), r)
		receivers[id], pending[id] = r, map[string]bool{}
		for _, e := range log {
			if strings.HasPrefix(e.Type, "audatex.parts.") && (id != "picky" || e.Site != "site-03") && !had.Delivered[e.ID] {
				pending[id][e.ID] = true
			}
		}
		var cb map[string]any
		api.Must(t, http.MethodPatch, "/v1/callbacks/"+id, map[string]any{"url": "http://" + r.Address() + "/hook"}, &cb)
		api.Must(t, http.MethodPost, "/v1/callbacks/"+id+"/resume", nil, nil)
	}
	if len(pending["healthy"]) != 0 || len(pending["picky"]) == 0 || len(pending["dead"]) != 54 {
		t.Fatalf("the directory is not what it was: %d events, pending %d, %d, %d", len(log), len(pending["healthy"]), len(pending["picky"]), len(pending["dead"]))
	}
	harness.Eventually(t, "what was pending arrives", func() string {
		for id, r := range receivers {
			got := map[string]bool{}
			for _, a := range r.All() {
				got[a.Event] = true
			}
			for event := range pending[id] {
				if !got[event] {
					return fmt.Sprintf("%s has %d of %d, not %s", id, len(got), len(pending[id]), event)
				}
			}
		}
		return ""
	})
	for id, r := range receivers {
		r.CheckClean(t)
		r.CheckOrdered(t)
		for _, a := range r.All() {
			if !pending[id][a.Event] {
				t.Errorf("%s got %s again", id, a.Event)
			}
		}
	}
	if unresolved, err := harness.Items[map[string]any](api, "/v1/unresolved"); err != nil || len(unresolved) != 1 {
		t.Errorf("unresolved: %v, %v", unresolved, err)
	}
	harness.Eventually(t, "the mark is raised", func() string {
		if !strings.Contains(string(book.Text()), "every relay knows the new formats") {
			return "the log does not say so"
		}
		return ""
	})
	if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.ExitCode(t); code != 0 {
		t.Errorf("exit code %d\n%s", code, book.Tail(20))
	}
}
