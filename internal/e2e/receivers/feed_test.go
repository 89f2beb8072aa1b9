package receivers

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// TestTheExamplesReadTheFeed: each example reads what happens, goes on where it was after it was killed, and ends when
// its key does.
func TestTheExamplesReadTheFeed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			p := newProgram(t, l)
			w.api.Must(t, http.MethodPut, "/v1/clients/"+l.name, map[string]any{"sites": []string{l.name}}, nil)
			var key struct{ ID, Key string }
			w.api.Must(t, http.MethodPost, "/v1/clients/"+l.name+"/keys", map[string]any{"role": "read"}, &key)
			read := func(key string) *harness.Process {
				return p.run(l.feed(p.built, filepath.Join(p.data, "next")), "RELAY_URL="+w.api.Base, "RELAY_KEY="+key)
			}
			if code := read("not-a-key").ExitCode(t); code != 1 {
				t.Errorf("with a wrong key it ends with %d", code)
			}
			order, err := w.sandbox.CreateOrder(vendorSite(i), sandbox.OrderOptions{Reference: "PO-" + l.name})
			if err != nil {
				t.Fatal(err)
			}
			change := func(status string) {
				t.Helper()
				if _, err := w.sandbox.ChangeOrder(order.ID, sandbox.Change{Status: status}); err != nil {
					t.Fatal(err)
				}
			}
			line := func(kind, status string) string {
				return fmt.Sprintf("audatex.parts.order.%s %s PO-%s %s", kind, l.name, l.name, status)
			}
			read(key.Key)
			p.handles(1, line("created", "New"))
			change("Confirmed")
			p.handles(2, line("updated", "Confirmed"))
			p.kill()
			change("Dispatched")
			last := read(key.Key)
			p.handles(3, line("updated", "Dispatched"))
			w.api.Must(t, http.MethodDelete, "/v1/clients/"+l.name+"/keys/"+key.ID, nil, nil)
			if code := last.ExitCode(t); code != 1 {
				t.Errorf("after its key was revoked it ends with %d", code)
			}
		})
	}
}
