package night

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// house is a relay of one or more replicas with a vendor, receivers and traffic.
type house struct {
	t       testing.TB
	job     string // of Prometheus
	admin   string
	token   string // of /metrics
	client  *http.Client
	sandbox *sandbox.Sandbox
	vendor  *front
	rotated atomic.Bool // the vendor has another secret for the relay's client
	by      *authority
	sites   []string
	grants  map[string]string // of a site's connection

	replicas  []*replica
	receivers map[string]*receiver
	key       struct{ ID, Key string } // of the client acme
}

// replica is one process of a relay. It may die and start again, at the same addresses.
type replica struct {
	env     map[string]string
	book    harness.Logbook
	process *harness.Process
}

// clientID is the client that the callbacks and the key belong to.
const clientID = "acme"

// newHouse makes a relay with as many replicas. Nothing of it runs yet.
func newHouse(t testing.TB, replicas int, env map[string]string) *house {
	t.Helper()
	relayBinary(t)
	h := &house{
		t: t, admin: "admin-" + rand.Text(), token: "metrics-" + rand.Text(), client: harness.NewClient(),
		by:    newAuthority(t),
		sites: []string{"leeds", "york"}, grants: map[string]string{}, receivers: map[string]*receiver{},
	}
	t.Cleanup(h.client.CloseIdleConnections)
	secret := "secret-" + rand.Text()
	h.sandbox = sandbox.New(sandbox.Config{ClientID: "night", ClientSecret: secret})
	h.vendor = newFront(t, h.rotating(h.sandbox.Handler()), nil)
	for range replicas {
		r := &replica{env: map[string]string{
			"PATH": os.Getenv("PATH"), "TMPDIR": t.TempDir(),
			"RELAY_HTTP_ADDR": "127.0.0.1:0", "RELAY_METRICS_ADDR": "127.0.0.1:0", "RELAY_METRICS_TOKEN": h.token,
			"RELAY_ADMIN_TOKEN":       h.admin,
			"RELAY_AUDATEX_BASE_URL":  "http://" + h.vendor.addr + sandbox.APIPath,
			"RELAY_AUDATEX_AUTH_URL":  "http://" + h.vendor.addr + sandbox.AuthorizePath,
			"RELAY_AUDATEX_TOKEN_URL": "http://" + h.vendor.addr + sandbox.TokenPath,
			"RELAY_AUDATEX_CLIENT_ID": "night", "RELAY_AUDATEX_CLIENT_SECRET": secret,
			"RELAY_AUDATEX_RATE": "100000", "RELAY_AUDATEX_TIMEOUT": "3s", "RELAY_POLL_INTERVAL": "1s",
			"RELAY_PUBLIC_URL":           "https://relay.example",
			"RELAY_RETRY_SCHEDULE":       "1s,1s,2s,2s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,5s,1h",
			"RELAY_CALLBACK_ALLOW_CIDRS": "127.0.0.0/8", "RELAY_CALLBACK_CA_FILE": h.by.file,
		}}
		maps.Copy(r.env, env)
		h.replicas = append(h.replicas, r)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for i, r := range h.replicas {
				t.Logf("the end of replica %d's log:\n%s", i, r.book.Tail(15))
			}
		}
	})
	return h
}

// start starts all replicas and waits until they serve.
func (h *house) start() {
	h.t.Helper()
	for i := range h.replicas {
		h.run(i)
	}
}

// run starts one replica, at the addresses that it had before if it had any.
func (h *house) run(i int) {
	h.t.Helper()
	h.begin(i)
	r := h.replicas[i]
	r.process.AwaitServing(h.t, fmt.Sprint("replica ", i))
	r.env["RELAY_HTTP_ADDR"], r.env["RELAY_METRICS_ADDR"] = r.process.At.API, r.process.At.Metrics
}

// begin starts one replica and does not wait for it.
func (h *house) begin(i int) {
	h.t.Helper()
	r := h.replicas[i]
	r.process = harness.StartProcess(h.t, relayBinary(h.t), []string{"serve"}, r.environment(), &r.book)
}

// set changes a setting of a replica, which is read at its next start, and returns what changes it back.
func (r *replica) set(name, value string) (restore func()) {
	had, there := r.env[name]
	r.env[name] = value
	return func() {
		if r.env[name] = had; !there {
			delete(r.env, name)
		}
	}
}

// restart ends a replica as an upgrade does, and starts it again.
func (h *house) restart(i int) {
	h.t.Helper()
	if err := h.replicas[i].process.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		h.t.Fatal(err)
	}
	<-h.replicas[i].process.Exited
	h.client.CloseIdleConnections()
	h.run(i)
}

// rotating refuses the relay's client while the vendor has another secret for it.
func (h *house) rotating(vendor http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.rotated.Load() && r.URL.Path == sandbox.TokenPath {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
			return
		}
		vendor.ServeHTTP(w, r)
	})
}

// environment is what the replica is started with.
func (r *replica) environment() []string {
	env := make([]string, 0, len(r.env))
	for _, name := range slices.Sorted(maps.Keys(r.env)) {
		env = append(env, name+"="+r.env[name])
	}
	return env
}

// embedded are the settings of a relay with a store of its own.
func embedded(dir string) map[string]string { return map[string]string{"RELAY_DATA_DIR": dir} }

// clustered are the settings of a relay on a NATS cluster.
func clustered(t testing.TB, cluster *natstest.Cluster) map[string]string {
	t.Helper()
	keys, err := exec.CommandContext(t.Context(), relayBinary(t), "keys").Output()
	if err != nil {
		t.Fatalf("relay keys: %v", err)
	}
	return map[string]string{
		"RELAY_NATS_URL": cluster.URL(), "RELAY_STREAM_REPLICAS": "3",
		"RELAY_ENCRYPTION_KEYS": strings.TrimSpace(string(keys)),
	}
}

// kill ends a replica as a power cut would.
func (h *house) kill(i int) {
	h.t.Helper()
	if err := h.replicas[i].process.Cmd.Process.Signal(syscall.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	<-h.replicas[i].process.Exited
	h.client.CloseIdleConnections()
}

// supervise starts the first replica again once it has ended, as whoever supervises it does: a NATS server that was
// short of room while it wrote does not go on by itself.
func (h *house) supervise() {
	h.t.Helper()
	select {
	case <-h.replicas[0].process.Exited:
		h.run(0)
	case <-time.After(patience):
		h.t.Error("the relay neither works again nor ends")
	}
}

// targets are where the replicas serve their metrics.
func (h *house) targets() []string {
	var all []string
	for _, r := range h.replicas {
		all = append(all, r.process.At.Metrics)
	}
	return all
}

// api speaks to the first replica as the administrator.
func (h *house) api() harness.Caller {
	return harness.Caller{Base: "http://" + h.replicas[0].process.At.API, Token: h.admin, Client: h.client}
}

// connect registers a connection for a site, and waits until the vendor queues notifications for it.
func (h *house) connect(site string) {
	h.t.Helper()
	before := len(h.sandbox.Subscriptions())
	grant, err := h.sandbox.Grant(sandbox.Consent{Sites: []string{vendorSite(site)}})
	if err != nil {
		h.t.Fatal(err)
	}
	h.grants[site] = grant.ID
	h.api().Must(h.t, http.MethodPut, "/v1/connections/"+site, map[string]any{
		"level": "site", "site": site, "refreshToken": grant.RefreshToken,
	}, nil)
	harness.AwaitSubscriptions(h.t, h.sandbox, before+1)
}

// consent gives a site's consent again.
func (h *house) consent(site string) {
	h.t.Helper()
	grant, err := h.sandbox.Grant(sandbox.Consent{Sites: []string{vendorSite(site)}})
	if err != nil {
		h.t.Fatal(err)
	}
	h.grants[site] = grant.ID
	h.api().Must(h.t, http.MethodPatch, "/v1/connections/"+site,
		map[string]any{"refreshToken": grant.RefreshToken}, nil)
}

// vendorSite is the vendor's own id of a site.
func vendorSite(site string) string { return "V-" + site }

// furnish connects the sites and makes the client, with a key that ends after a time.
func (h *house) furnish(keyEnds time.Duration) {
	h.t.Helper()
	for _, site := range h.sites {
		h.connect(site)
	}
	h.api().Must(h.t, http.MethodPut, "/v1/clients/"+clientID, map[string]any{"allSites": true}, nil)
	h.api().Must(h.t, http.MethodPost, "/v1/clients/"+clientID+"/keys",
		map[string]any{"role": "write", "expiresAt": time.Now().Add(keyEnds).UTC().Format(time.RFC3339)}, &h.key)
}

// callback makes a receiver and its callback, as the client does.
func (h *house) callback(id string, r *receiver) *receiver {
	h.t.Helper()
	h.receivers[id] = r
	caller := h.api()
	caller.Token = h.key.Key
	caller.Must(h.t, http.MethodPut, "/v1/callbacks/"+id,
		map[string]any{"url": r.url(), "timeoutSeconds": 2, "concurrency": 4}, nil)
	return r
}

// keepBusy lets orders be made and changed until the test ends.
func (h *house) keepBusy(every time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		var orders []string
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if len(orders) > 0 && n%2 == 1 {
				_, _ = h.sandbox.AdvanceOrder(orders[n%len(orders)]) // it may have ended
				continue
			}
			order, err := h.sandbox.CreateOrder(vendorSite(h.sites[n/2%len(h.sites)]), sandbox.OrderOptions{})
			if err != nil {
				h.t.Errorf("an order: %v", err)
				return
			}
			orders = append(orders, order.ID)
		}
	})
	h.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// scrape returns what a replica shows.
func (h *house) scrape(i int) []byte {
	h.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet,
		"http://"+h.replicas[i].process.At.Metrics+"/metrics", http.NoBody)
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.token)
	res, err := h.client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		h.t.Fatalf("/metrics: %s %v", res.Status, err)
	}
	return body
}
