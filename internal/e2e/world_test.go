package e2e

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

// world is one relay with everything around it. The relay may die and start again; all else goes
// on.
type world struct {
	t         *testing.T
	dir       string // the relay's data
	env       map[string]string
	openFiles int // the relay's limit of open files, 0: the test's own
	admin     string
	book      harness.Logbook
	client    *http.Client
	sandbox   *sandbox.Sandbox
	vendor    *harness.Tracked
	sites     []string
	receivers []*harness.Receiver

	mu     sync.Mutex
	run    int
	relay  *harness.Process
	grants map[string][]string // of a site's connection, in the order in which they were given

	firstTokens map[string]string // the refresh tokens that the connections were made with
}

// newWorld makes the vendor and the settings; nothing of the relay runs yet. wrap may stand between
// it and the vendor.
func newWorld(t *testing.T, sites int, vendor sandbox.Config, wrap func(http.Handler) http.Handler) *world {
	t.Helper()
	w := &world{
		t: t, dir: filepath.Join(t.TempDir(), "data"), client: harness.NewClient(), admin: "admin-" + rand.Text(),
		grants: map[string][]string{}, firstTokens: map[string]string{},
	}
	vendor.ClientID, vendor.ClientSecret = "e2e-client", "client-secret-"+rand.Text()
	w.sandbox = sandbox.New(vendor)
	handler := w.sandbox.Handler()
	if wrap != nil {
		handler = wrap(handler)
	}
	w.vendor = harness.ServeTracked(t, harness.Listen(t), handler)
	for n := range sites {
		w.sites = append(w.sites, fmt.Sprintf("site-%02d", n+1))
	}
	w.env = map[string]string{
		"PATH": os.Getenv("PATH"), "TMPDIR": t.TempDir(),
		"RELAY_HTTP_ADDR": "127.0.0.1:0", "RELAY_METRICS_ADDR": "127.0.0.1:0", "RELAY_NATS_LISTEN": "127.0.0.1:0",
		"RELAY_DATA_DIR": w.dir, "RELAY_ADMIN_TOKEN": w.admin, "RELAY_LOG_LEVEL": "debug",
		"RELAY_AUDATEX_BASE_URL":      "http://" + w.vendor.Addr + sandbox.APIPath,
		"RELAY_AUDATEX_AUTH_URL":      "http://" + w.vendor.Addr + sandbox.AuthorizePath,
		"RELAY_AUDATEX_TOKEN_URL":     "http://" + w.vendor.Addr + sandbox.TokenPath,
		"RELAY_AUDATEX_CLIENT_ID":     vendor.ClientID,
		"RELAY_AUDATEX_CLIENT_SECRET": vendor.ClientSecret,
		"RELAY_AUDATEX_RATE":          "10000000", "RELAY_POLL_INTERVAL": "100ms",
		"RELAY_RETRY_SCHEDULE":       "50ms,100ms,200ms,400ms,800ms,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1h,1h",
		"RELAY_CALLBACK_ALLOW_CIDRS": "127.0.0.0/8", "RELAY_SHUTDOWN_GRACE": "20s",
	}
	t.Cleanup(func() {
		w.client.CloseIdleConnections()
		if t.Failed() {
			t.Logf("the end of the relay's log:\n%s", w.book.Tail(40))
		}
	})
	return w
}

// begin starts the relay without waiting for it.
func (w *world) begin() *harness.Process {
	w.t.Helper()
	env := make([]string, 0, len(w.env))
	for _, name := range slices.Sorted(maps.Keys(w.env)) {
		env = append(env, name+"="+w.env[name])
	}
	program, args := relayBinary(w.t), []string{"serve"}
	if w.openFiles > 0 {
		args = []string{"-c", fmt.Sprintf(`ulimit -n %d && exec "$0" serve`, w.openFiles), program}
		program = "/bin/sh"
	}
	p := harness.StartProcess(w.t, program, args, env, &w.book)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.relay = p
	return p
}

// start starts the relay and waits until it serves.
func (w *world) start() *harness.Process {
	w.t.Helper()
	p := w.begin()
	p.AwaitServing(w.t, "the relay")
	return p
}

// end sends a signal, waits until the relay is gone and everything it left on the wire is dealt
// with, and begins the next run. It returns the exit code.
func (w *world) end(signal syscall.Signal) int {
	w.t.Helper()
	w.mu.Lock()
	p := w.relay
	w.mu.Unlock()
	if err := p.Cmd.Process.Signal(signal); err != nil {
		w.t.Fatalf("the relay was gone before it was to end: %v\n%s", err, w.book.Tail(40))
	}
	code := p.ExitCode(w.t)
	w.client.CloseIdleConnections()
	w.vendor.Settle(w.t)
	for _, r := range w.receivers {
		if r.Server != nil {
			r.Server.Settle(w.t)
		}
	}
	w.mu.Lock()
	w.run++
	w.mu.Unlock()
	return code
}

// currentRun returns how often the relay has ended.
func (w *world) currentRun() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.run
}

// api speaks to the present run as the administrator; it must serve.
func (w *world) api() harness.Caller { return w.as(w.admin) }

// as speaks to the present run with a token.
func (w *world) as(token string) harness.Caller {
	w.mu.Lock()
	defer w.mu.Unlock()
	return harness.Caller{Base: "http://" + w.relay.At.API, Token: token, Client: w.client}
}

// serving reports whether the present run serves.
func (w *world) serving() bool {
	w.mu.Lock()
	p := w.relay
	w.mu.Unlock()
	select {
	case <-p.Exited:
		return false
	default:
	}
	select {
	case <-p.Serves:
		return true
	default:
		return false
	}
}

// grant gives a site's consent at the vendor's and returns the refresh token.
func (w *world) grant(site string) (string, error) {
	g, err := w.sandbox.Grant(sandbox.Consent{Sites: []string{vendorSite(site)}})
	if err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.grants[site] = append(w.grants[site], g.ID)
	return g.RefreshToken, nil
}

// vendorSite is the vendor's own id of a site.
func vendorSite(site string) string { return "V" + site[len("site-"):] }

// connect registers a connection for every site and waits until the vendor queues notifications for
// all of them.
func (w *world) connect() {
	w.t.Helper()
	for _, site := range w.sites {
		token, err := w.grant(site)
		if err != nil {
			w.t.Fatal(err)
		}
		w.firstTokens[site] = token
		w.api().Must(w.t, http.MethodPut, "/v1/connections/"+site,
			map[string]any{"level": "site", "site": site, "refreshToken": token}, nil)
	}
	harness.AwaitSubscriptions(w.t, w.sandbox, len(w.sites))
}

// createOrders has the vendor create orders, at all sites in turn, and returns their ids.
func (w *world) createOrders(orders int) (ids []string) {
	w.t.Helper()
	for n := range orders {
		o, err := w.sandbox.CreateOrder(vendorSite(w.sites[n%len(w.sites)]), sandbox.OrderOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		ids = append(ids, o.ID)
	}
	return ids
}

// newReceiver starts a receiver.
func (w *world) newReceiver(id string, behave relaytest.Behaviour, settings map[string]any) *harness.Receiver {
	r := harness.NewReceiver(id, behave)
	r.Run, r.Settings = w.currentRun, settings
	r.Server = harness.ServeTracked(w.t, harness.Listen(w.t), r)
	w.receivers = append(w.receivers, r)
	return r
}

// newDeadReceiver makes a receiver at which connections are refused until wake.
func (w *world) newDeadReceiver(id string, settings map[string]any) (r *harness.Receiver, wake func()) {
	r = harness.NewReceiver(id, relaytest.Healthy)
	addr, listen := reserve(w.t)
	r.Run, r.Settings, r.Reserved = w.currentRun, settings, addr
	w.receivers = append(w.receivers, r)
	return r, func() { r.Server = harness.ServeTracked(w.t, listen(), r) }
}

// register makes the callbacks of all receivers.
func (w *world) register() {
	w.t.Helper()
	for _, r := range w.receivers {
		w.api().Must(w.t, http.MethodPut, "/v1/callbacks/"+r.ID, r.NewCallback(w.t), nil)
	}
}

// apiKey makes a client that sees the sites (none: all) and a key of it.
func (w *world) apiKey(client string, sites []string) (id, key string) {
	w.t.Helper()
	settings := map[string]any{"allSites": true}
	if len(sites) > 0 {
		settings = map[string]any{"sites": sites}
	}
	w.api().Must(w.t, http.MethodPut, "/v1/clients/"+client, settings, nil)
	var made struct{ ID, Key string }
	w.api().Must(w.t, http.MethodPost, "/v1/clients/"+client+"/keys", map[string]any{}, &made)
	return made.ID, made.Key
}
