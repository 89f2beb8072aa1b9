package receivers

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// programs has the relay.
var programs harness.Programs

func TestMain(m *testing.M) {
	natstest.Waiting(6)
	os.Exit(programs.Run(m))
}

// world is a relay in front of the vendor's double. Each language has a site of its own name.
type world struct {
	api     harness.Caller
	sandbox *sandbox.Sandbox
}

func newWorld(t *testing.T) *world {
	t.Helper()
	const admin, clientID, clientSecret = "an-admin-token-for-receivers", "receivers-client", "a-client-secret-for-receivers"
	w := &world{sandbox: sandbox.New(sandbox.Config{ClientID: clientID, ClientSecret: clientSecret})}
	vendor := harness.ServeTracked(t, harness.Listen(t), w.sandbox.Handler())
	relay := harness.StartProcess(t, programs.Relay(t, filepath.Join("..", "..", "..")), []string{"serve"}, []string{
		"PATH=" + os.Getenv("PATH"), "RELAY_HTTP_ADDR=127.0.0.1:0", "RELAY_METRICS_ADDR=127.0.0.1:0", "RELAY_DATA_DIR=" + filepath.Join(t.TempDir(), "data"),
		"RELAY_ADMIN_TOKEN=" + admin, "RELAY_AUDATEX_CLIENT_ID=" + clientID, "RELAY_AUDATEX_CLIENT_SECRET=" + clientSecret,
		"RELAY_AUDATEX_BASE_URL=http://" + vendor.Addr + sandbox.APIPath, "RELAY_AUDATEX_AUTH_URL=http://" + vendor.Addr + sandbox.AuthorizePath,
		"RELAY_AUDATEX_TOKEN_URL=http://" + vendor.Addr + sandbox.TokenPath, "RELAY_AUDATEX_RATE=10000000", "RELAY_POLL_INTERVAL=100ms",
		"RELAY_RETRY_SCHEDULE=200ms,400ms,800ms,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1h",
		"RELAY_CALLBACK_ALLOW_CIDRS=127.0.0.0/8",
	}, &harness.Logbook{})
	relay.AwaitServing(t, "the relay")
	client := harness.NewClient()
	t.Cleanup(client.CloseIdleConnections)
	w.api = harness.Caller{Base: "http://" + relay.At.API, Token: admin, Client: client}
	for i, l := range languages {
		grant, err := w.sandbox.Grant(sandbox.Consent{Sites: []string{vendorSite(i)}})
		if err != nil {
			t.Fatal(err)
		}
		w.api.Must(t, http.MethodPut, "/v1/connections/"+l.name, map[string]any{"level": "site", "site": l.name, "refreshToken": grant.RefreshToken}, nil)
	}
	harness.AwaitSubscriptions(t, w.sandbox, len(languages))
	return w
}

// vendorSite is the vendor's id of a language's site.
func vendorSite(i int) string { return fmt.Sprint("V", i) }
