package night

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/e2e/prom"
)

// factor is by how much the times of all rules are shorter here: an hour becomes a minute.
const factor = 60

// settles is how long a fault is watched after its last alert, or at all if it should lead to none.
const settles = 10 * time.Second

// patience is how long an alert may take, and how long all may take to end.
const patience = 3 * time.Minute

// look is how often Prometheus is asked.
const look = 200 * time.Millisecond

// pass lets time go by: what the alerts do in it is what is looked at.
func pass(d time.Duration) { <-time.After(d) }

// fault is something that is done to a relay.
type fault struct {
	name   string
	inject func() (mend func())
	fires  []string // must
	may    []string // what follows from it, and may fire as well
	late   bool     // it delays events that the relay has received
}

// delays reports whether an alert is on the burn rate of the objective, and the fault delays events on their way.
func (f fault) delays(alert string) bool { return f.late && lingers(alert) }

// watch is a Prometheus and an Alertmanager beside the relays.
type watch struct {
	prom  *prom.Server
	inbox *inbox
}

// seen is what a fault led to.
type seen struct {
	fault  fault
	after  map[string]time.Duration // until an alert fired
	told   map[string]string        // by which receiver the Alertmanager sent it
	quiet  time.Duration            // from the mending until no alert of the fault was left
	detail map[string]string        // the alerts' descriptions
}

// newWatch starts both, with the rules and the configuration that ship, in shorter times.
func newWatch(t *testing.T, houses map[string]*house) *watch {
	t.Helper()
	scaled := t.TempDir()
	if out, err := rulesProgram(t)("scale", "-factor", fmt.Sprint(factor), "-out", scaled); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w := &watch{inbox: &inbox{told: map[string]string{}}}
	manager := startAlertmanager(t, newFront(t, w.inbox, nil).addr)
	var jobs []prom.Job
	for _, name := range slices.Sorted(maps.Keys(houses)) {
		jobs = append(jobs, prom.Job{Name: name, Targets: houses[name].targets(), Token: houses[name].token})
	}
	w.prom = prom.Start(t, prom.Config{Jobs: jobs, Rules: []string{filepath.Join(scaled, "*.yaml")}, Alertmanager: manager})
	for name, h := range houses {
		w.prom.AwaitUp(t, name, len(h.replicas))
	}
	return w
}

// times are those of the Alertmanager's configuration.
var times = regexp.MustCompile(`(group_wait|group_interval|repeat_interval): \S+`)

// startAlertmanager starts one with the configuration that ships, its receivers' addresses replaced, and returns its own.
func startAlertmanager(t *testing.T, receiver string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(rules(t), "alertmanager.yml"))
	if err != nil {
		t.Fatal(err)
	}
	config := times.ReplaceAllString(string(text), "$1: 1s")
	config = strings.ReplaceAll(config, "http://on-call.example/alerts", "http://"+receiver+"/page")
	config = strings.ReplaceAll(config, "http://tickets.example/alerts", "http://"+receiver+"/ticket")
	dir, addr := t.TempDir(), harness.Listen(t)
	address := addr.Addr().String()
	_ = addr.Close()
	file := filepath.Join(dir, "alertmanager.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := alertmanager(t, "--config.file="+file, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--cluster.listen-address=")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = &log, &log, harness.DiesWithTest()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone
		_ = cmd.Wait()         // it was killed
		if t.Failed() {
			t.Logf("the end of the Alertmanager's log:\n%s", log.Bytes()[max(0, log.Len()-2000):])
		}
	})
	client := harness.NewClient()
	t.Cleanup(client.CloseIdleConnections)
	harness.Eventually(t, "the Alertmanager is ready", func() string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/-/ready", http.NoBody)
		if err != nil {
			return err.Error()
		}
		res, err := client.Do(req)
		if err != nil {
			return err.Error()
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return res.Status
		}
		return ""
	})
	return address
}

// templates is where Debian's Alertmanager has its texts, wherever the program is.
const templates = "/usr/share/prometheus/alertmanager"

// alertmanager returns the command. If Debian's package was unpacked and not installed, the program gets a view of the
// file system in which its texts are in their place.
func alertmanager(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	program := prom.Program(t, "prometheus-alertmanager")
	if _, err := os.Stat(templates); err == nil {
		return exec.Command(program, args...)
	}
	unpacked, err := filepath.Abs(filepath.Join(filepath.Dir(program), "..", "share", "prometheus", "alertmanager"))
	if err != nil {
		t.Fatal(err)
	}
	const view = `mount -t tmpfs tmpfs /usr/share && mkdir -p "$1" && mount --bind "$0" "$1" && shift && exec "$@"`
	return exec.Command("unshare", append([]string{"--mount", "sh", "-c", view, unpacked, templates, program}, args...)...)
}

// inbox is what the Alertmanager's receivers have got.
type inbox struct {
	mu   sync.Mutex
	told map[string]string // by alert: the receiver
}

// ServeHTTP implements http.Handler.
func (i *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var message struct {
		Alerts []struct {
			Status string
			Labels map[string]string
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&message); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, a := range message.Alerts {
		if a.Status == "firing" {
			i.told[a.Labels["alertname"]] = strings.Trim(r.URL.Path, "/")
		}
	}
}

// empty forgets what has come, and returns it.
func (i *inbox) empty() map[string]string {
	i.mu.Lock()
	defer i.mu.Unlock()
	told := i.told
	i.told = map[string]string{}
	return told
}

// firing returns the alerts that fire now, by name, each with its description.
func (w *watch) firing(t *testing.T) map[string]string {
	t.Helper()
	alerts, err := w.prom.Alerts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now := map[string]string{}
	for _, a := range alerts {
		if a.State == "firing" && !elsewhere(a.Labels) {
			now[a.Labels["alertname"]] = a.Annotations["description"]
		}
	}
	return now
}

// lingers are alerts on the burn rate: their windows are minutes here, and they end when these have passed.
func lingers(alert string) bool { return strings.HasPrefix(alert, "RelayDeliverySLO") }

// awaitQuiet waits until no alert fires but those that linger.
func (w *watch) awaitQuiet(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	for since := (time.Time{}); ; pass(look) {
		now := w.firing(t)
		maps.DeleteFunc(now, func(name, _ string) bool { return lingers(name) })
		switch {
		case len(now) > 0:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > 5*time.Second:
			return time.Since(began) - 5*time.Second
		}
		if time.Since(began) > patience {
			t.Fatalf("these do not end: %v", now)
		}
	}
}

// elsewhere reports whether an alert is about the machine and not about a fault: the disk that the data of the relays is
// on, which others may fill, and rates over the first minutes of a relay's life.
func elsewhere(labels map[string]string) bool {
	switch labels["alertname"] {
	case "RelayStoreFullWithinHours", "RelayStoreFullWithinDays":
		return true
	case "RelayDiskNearlyFull":
		return labels["job"] != "relay-small"
	}
	return false
}

// try does one fault, and returns what it led to.
func (w *watch) try(t *testing.T, f fault) seen {
	t.Helper()
	w.awaitQuiet(t)
	w.inbox.empty()
	s := seen{fault: f, after: map[string]time.Duration{}, detail: map[string]string{}}
	before := w.firing(t) // lingers
	began := time.Now()
	mend := f.inject()
	missing := slices.Clone(f.fires)
	for last := began; ; pass(look) {
		for name, description := range w.firing(t) {
			_, known := s.after[name]
			if _, lingered := before[name]; !known && !lingered {
				s.after[name], s.detail[name], last = time.Since(began), description, time.Now()
			}
			missing = slices.DeleteFunc(missing, func(n string) bool { return n == name })
		}
		if time.Since(began) > patience || len(missing) == 0 && time.Since(last) > settles {
			break
		}
	}
	s.told = w.inbox.empty()
	mend()
	s.quiet = w.awaitQuiet(t)
	for _, name := range missing {
		t.Errorf("%s: %s does not fire", f.name, name)
	}
	for name, after := range s.after {
		if !slices.Contains(f.fires, name) && !slices.Contains(f.may, name) && !f.delays(name) {
			t.Errorf("%s: %s fires after %s: %s", f.name, name, after.Round(time.Second), s.detail[name])
		}
	}
	return s
}

// table returns what all faults led to, as a table in Markdown.
func table(all []seen) string {
	var b strings.Builder
	b.WriteString("| fault | alert | after | sent to | it says | quiet after mending |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, s := range all {
		names := slices.SortedFunc(maps.Keys(s.after), func(a, b string) int { return int(s.after[a] - s.after[b]) })
		if len(names) == 0 {
			fmt.Fprintf(&b, "| %s | none | | | | |\n", s.fault.name)
		}
		for _, name := range names {
			told := s.told[name]
			if told == "" {
				told = "nobody (inhibited)"
			}
			fmt.Fprintf(&b, "| %s | %s | %.0f s | %s | %s | %.0f s |\n",
				s.fault.name, name, s.after[name].Seconds(), told, s.detail[name], s.quiet.Seconds())
		}
	}
	return b.String()
}
