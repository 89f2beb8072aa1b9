package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/relaytest"
)

// world is a cluster with everything around it. Relays and NATS servers come and go; all else goes
// on.
type world struct {
	t         *testing.T
	options   options
	admin     string
	client    *http.Client
	bus       *bus
	links     *links
	vendor    *vendor
	replicas  []*replica
	sites     []string
	receivers []*harness.Receiver
	history   *history
	owners    sync.Map // by nonce: the replica and its run

	mu     sync.Mutex
	grants map[string][]string // of a site's connection, in the order in which they were given
	hurts  []hurt
}

// options of a world.
type options struct {
	replicas int     // that run
	sites    int     // each with a connection
	probes   int     // callbacks on as many different shards, besides the six kinds of newReceivers
	broken   *mutant // built in place of the relay
	vendor   sandbox.Config
	faults   []sandbox.Faults // the vendor's own
	env      map[string]string
}

// hurt is one thing that was done to the cluster.
type hurt struct {
	kind    string
	replica int // -1: none in particular
	began   time.Time
	dead    time.Time // of a kill: when the process was no more
	ended   time.Time // when it was undone, as far as the test does that
}

// newWorld makes all of it; nothing of the relays runs yet.
func newWorld(t *testing.T, o options) *world {
	t.Helper()
	w := &world{
		t: t, options: o, client: harness.NewClient(), admin: "admin-" + rand.Text(), grants: map[string][]string{},
	}
	for n := range o.replicas {
		relayOf(t, n, o.broken) // before the clock of anything runs
	}
	w.bus = newBus(t)
	w.links = newLinks(t, w.bus)
	o.vendor.ClientID, o.vendor.ClientSecret = "cluster-client", "client-secret-"+rand.Text()
	w.vendor = newVendor(t, o.vendor)
	if err := w.vendor.SetFaults(o.faults...); err != nil {
		t.Fatal(err)
	}
	for n := range o.sites {
		w.sites = append(w.sites, fmt.Sprintf("site-%02d", n+1))
	}
	keys := w.newKeys()
	for n := range o.replicas {
		front := "http://" + w.vendor.fronts[n].Addr
		env := map[string]string{
			"PATH": os.Getenv("PATH"), "TMPDIR": t.TempDir(),
			"RELAY_HTTP_ADDR": "127.0.0.1:0", "RELAY_METRICS_ADDR": "127.0.0.1:0",
			"RELAY_PUBLIC_URL": "http://relay.example",
			"RELAY_NATS_URL":   w.links.urls(n), "RELAY_STREAM_REPLICAS": "3", "RELAY_ENCRYPTION_KEYS": keys,
			"RELAY_ADMIN_TOKEN": w.admin, "RELAY_LOG_LEVEL": "debug",
			"RELAY_AUDATEX_BASE_URL":      front + sandbox.APIPath,
			"RELAY_AUDATEX_AUTH_URL":      front + sandbox.AuthorizePath,
			"RELAY_AUDATEX_TOKEN_URL":     front + sandbox.TokenPath,
			"RELAY_AUDATEX_CLIENT_ID":     o.vendor.ClientID,
			"RELAY_AUDATEX_CLIENT_SECRET": o.vendor.ClientSecret,
			// Two seconds for a call of the vendor's: a successor waits for a poll that may be
			// under way for as long as it may take.
			"RELAY_AUDATEX_TIMEOUT": "2s",
			"RELAY_AUDATEX_RATE":    "10000000", "RELAY_POLL_INTERVAL": "500ms",
			"RELAY_RETRY_SCHEDULE":       "100ms,200ms,400ms,800ms,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1h",
			"RELAY_CALLBACK_ALLOW_CIDRS": "127.0.0.0/8", "RELAY_SHUTDOWN_GRACE": "20s",
		}
		maps.Copy(env, o.env)
		w.replicas = append(w.replicas, &replica{t: t, number: n, program: relayOf(t, n, o.broken), env: env})
	}
	t.Cleanup(func() {
		w.client.CloseIdleConnections()
		w.tellLogs()
	})
	return w
}

// tellLogs keeps the logs of all processes in the directory RELAY_FAULT_LOGS, or logs the ends of
// the relays' logs if the test has failed.
func (w *world) tellLogs() {
	dir := os.Getenv("RELAY_FAULT_LOGS")
	if dir == "" {
		if !w.t.Failed() {
			return
		}
		for _, r := range w.replicas {
			w.t.Logf("the end of replica %d's log (RELAY_FAULT_LOGS names a directory for all of it):\n%s",
				r.number, r.book.Tail(15))
		}
		return
	}
	dir = filepath.Join(dir, strings.ReplaceAll(w.t.Name(), "/", "-")+time.Now().Format("-150405"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Error(err)
		return
	}
	files := map[string][]byte{}
	for _, r := range w.replicas {
		files[fmt.Sprintf("relay-%d.log", r.number)] = r.book.Text()
	}
	for _, n := range w.bus.nodes {
		files[n.name+".log"] = n.book.Text()
	}
	for name, text := range files {
		if err := os.WriteFile(dir+"/"+name, text, 0o600); err != nil {
			w.t.Error(err)
		}
	}
}

// newKeys has the relay make a keyset, as an operator would.
func (w *world) newKeys() string {
	w.t.Helper()
	out, err := exec.CommandContext(context.Background(), relayOf(w.t, 0, w.options.broken), "keys").Output()
	if err != nil {
		w.t.Fatalf("relay keys: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// newReceivers makes a callback of every kind, and probes.
func (w *world) newReceivers() {
	w.receiver("quick", relaytest.Healthy,
		map[string]any{"concurrency": 8, "types": []string{"audatex.parts.order.*", "audatex.relay.*"}})
	w.receiver("single", relaytest.Healthy, map[string]any{"concurrency": 1})
	w.receiver("slow", relaytest.Slow(150*time.Millisecond), map[string]any{"concurrency": 16})
	w.receiver("steady", relaytest.Slow(20*time.Millisecond), map[string]any{"concurrency": 4})
	w.receiver("flaky", relaytest.OneInTen, map[string]any{"concurrency": 4})
	w.receiver("half", relaytest.Slow(10*time.Millisecond),
		map[string]any{"concurrency": 4, "sites": w.sites[:len(w.sites)/2]})
	w.newProbes()
}

// newProbes makes quick callbacks on shards of their own, to see how long nobody delivers there.
func (w *world) newProbes() {
	taken := map[int]bool{}
	for _, r := range w.receivers {
		taken[relay.ShardOf(r.ID)] = true
	}
	for n, made := 0, 0; made < w.options.probes; n++ {
		if id := fmt.Sprintf("probe-%d", n); !taken[relay.ShardOf(id)] {
			taken[relay.ShardOf(id)] = true
			w.receiver(id, relaytest.Healthy, nil)
			made++
		}
	}
}

func (w *world) receiver(id string, behave relaytest.Behaviour, settings map[string]any) {
	r := harness.NewReceiver(id, behave)
	r.Settings = settings
	r.Server = harness.ServeTracked(w.t, harness.Listen(w.t), r)
	w.receivers = append(w.receivers, r)
}

// start starts all relays, sets everything up and lets some traffic through.
func (w *world) start() {
	w.t.Helper()
	for _, r := range w.replicas {
		r.begin()
	}
	for _, r := range w.replicas {
		r.awaitServing()
	}
	w.history = watch(w.t, w.bus)
	w.connect()
	w.register()
}

// connect registers a connection for every site and waits until the vendor queues notifications for
// all of them.
func (w *world) connect() {
	w.t.Helper()
	for _, site := range w.sites {
		token, err := w.grant(site)
		if err != nil {
			w.t.Fatal(err)
		}
		w.put("/v1/connections/"+site, map[string]any{"level": "site", "site": site, "refreshToken": token})
	}
	harness.AwaitSubscriptions(w.t, w.vendor.Sandbox, len(w.sites))
}

// register makes the callbacks of all receivers.
func (w *world) register() {
	w.t.Helper()
	for _, r := range w.receivers {
		settings := r.NewCallback(w.t)
		settings["timeoutSeconds"] = 20
		w.put("/v1/callbacks/"+r.ID, settings)
	}
}

// put makes something over the API of any relay, as the administrator. What is not taken now is
// sent again, when the response asks for it.
func (w *world) put(path string, body any) {
	w.t.Helper()
	harness.Eventually(w.t, "PUT "+path, func() string {
		api, ok := w.anyAPI()
		if !ok {
			return "no relay serves"
		}
		a, err := api.Call(http.MethodPut, path, body)
		switch {
		case err != nil:
			return err.Error()
		case a.Status == http.StatusServiceUnavailable:
			return string(a.Body)
		case a.Status/100 != 2:
			w.t.Fatalf("PUT %s: %d %s", path, a.Status, a.Body)
		}
		return ""
	})
}

// anyAPI returns a relay that serves, if there is one.
func (w *world) anyAPI() (harness.Caller, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.replicas {
		if r.serving() {
			return harness.Caller{Base: "http://" + r.process.At.API, Token: w.admin, Client: w.client}, true
		}
	}
	return harness.Caller{}, false
}

// change does something to a replica; nobody looks for a replica that serves meanwhile.
func (w *world) change(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
}

// grant gives a site's consent at the vendor's and returns the refresh token.
func (w *world) grant(site string) (string, error) {
	g, err := w.vendor.Grant(sandbox.Consent{Sites: []string{vendorSite(site)}})
	if err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.grants[site] = append(w.grants[site], g.ID)
	return g.RefreshToken, nil
}

// pass lets time go by: what the cluster does in it is what is looked at.
func pass(d time.Duration) { <-time.After(d) }
