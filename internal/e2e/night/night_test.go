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

	of    *house            // the relay that it is done to
	holds time.Duration     // at least
	leads map[string]string // by alert of fires: what its page must lead to, as a regular expression
	shows map[int]string    // by question of the night: a line that its panel must show, likewise
}

// delays reports whether an alert is on the burn rate of the objective, and the fault delays events on their way.
func (f fault) delays(alert string) bool { return f.late && lingers(alert) }

// watch is a Prometheus and an Alertmanager beside the relays.
type watch struct {
	prom   *prom.Server
	inbox  *inbox
	houses map[string]*house // by job

	questions []prom.Panel // of the overview
}

// seen is what a fault led to.
type seen struct {
	fault  fault
	after  map[string]time.Duration // until an alert fired
	told   map[string]string        // by which receiver the Alertmanager sent it
	quiet  time.Duration            // from the mending until no alert of the fault was left
	detail map[string]string        // the alerts' descriptions
	led    map[string]string        // by alert: what its page has led to

	before, under map[int]map[string]float64 // what the panels of the questions showed
}

// newWatch starts both, with the rules and the configuration that ship, in shorter times.
func newWatch(t *testing.T, houses map[string]*house) *watch {
	t.Helper()
	scaled := t.TempDir()
	if out, err := rulesProgram(t)("scale", "-factor", fmt.Sprint(factor), "-out", scaled); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w := &watch{inbox: &inbox{told: map[string]string{}}, houses: houses, questions: prom.Questions(t, root)}
	manager := startAlertmanager(t, newFront(t, w.inbox, nil).addr)
	var jobs []prom.Job
	for _, name := range slices.Sorted(maps.Keys(houses)) {
		houses[name].job = name
		jobs = append(jobs, prom.Job{Name: name, Targets: houses[name].targets(), Token: houses[name].token})
	}
	w.prom = prom.Start(t,
		prom.Config{Jobs: jobs, Rules: []string{filepath.Join(scaled, "*.yaml")}, Alertmanager: manager})
	for name, h := range houses {
		w.prom.AwaitUp(t, name, len(h.replicas))
	}
	return w
}

// times are those of the Alertmanager's configuration.
var times = regexp.MustCompile(`(group_wait|group_interval|repeat_interval): \S+`)

// startAlertmanager starts one with the configuration that ships, its receivers' addresses replaced, and returns its
// own.
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
	cmd := alertmanager(t, "--config.file="+file, "--storage.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--cluster.listen-address=")
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
	return exec.Command("unshare",
		append([]string{"--mount", "sh", "-c", view, unpacked, templates, program}, args...)...)
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

// firing returns the alerts that fire now, by name. Of those that linger only those of a job are meant.
func (w *watch) firing(t *testing.T, job string) map[string]prom.Alert {
	t.Helper()
	alerts, err := w.prom.Alerts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now := map[string]prom.Alert{}
	for _, a := range alerts {
		name := a.Labels["alertname"]
		if a.State == "firing" && !elsewhere(a.Labels) && (!lingers(name) || a.Labels["job"] == job) {
			now[name] = a
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
		now := w.firing(t, "")
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

// elsewhere reports whether an alert is about the machine and not about a fault: the disk that the data of the relays
// is on, which others may fill, and rates over the first minutes of a relay's life.
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
	s := seen{fault: f, after: map[string]time.Duration{}, detail: map[string]string{}, led: map[string]string{},
		before: w.answers(t, f.of.job)}
	before := w.firing(t, f.of.job) // lingers
	began := time.Now()
	mend := f.inject()
	s.under = w.answers(t, f.of.job)
	missing := slices.Clone(f.fires)
	for last, asked := began, began; ; pass(look) {
		for name, alert := range w.firing(t, f.of.job) {
			_, known := s.after[name]
			if _, lingered := before[name]; !known && !lingered {
				s.after[name], s.detail[name], last = time.Since(began), alert.Annotations["description"], time.Now()
			}
			missing = slices.DeleteFunc(missing, func(n string) bool { return n == name })
		}
		if time.Since(asked) > time.Second {
			worse(s.under, w.answers(t, f.of.job))
			asked = time.Now()
		}
		if time.Since(began) > patience ||
			len(missing) == 0 && time.Since(last) > settles && time.Since(began) > f.holds {
			break
		}
	}
	w.open(t, f, s.led)
	s.told = w.inbox.empty()
	mend()
	s.quiet = w.awaitQuiet(t)
	for began := time.Now(); len(s.hidden()) > 0 && time.Since(began) < patience; pass(look) {
		worse(s.under, w.answers(t, f.of.job)) // what is late is delivered after the mending
	}
	for _, name := range missing {
		t.Errorf("%s: %s does not fire", f.name, name)
	}
	for name, after := range s.after {
		if !slices.Contains(f.fires, name) && !slices.Contains(f.may, name) && !f.delays(name) {
			t.Errorf("%s: %s fires after %s: %s", f.name, name, after.Round(time.Second), s.detail[name])
		}
	}
	for n := range f.shows {
		if slices.Equal(picture(s.before[n]), picture(s.under[n])) {
			t.Errorf("%s: the panel of question %d shows the same while it is quiet:\n%q",
				f.name, n, picture(s.under[n]))
		}
	}
	for n, want := range s.hidden() {
		t.Errorf("%s: the panel of question %d does not show %s:\n%q", f.name, n, want, picture(s.under[n]))
	}
	return s
}

// hidden returns what panels should have shown by now, by question.
func (s seen) hidden() map[int]string {
	hidden := maps.Clone(s.fault.shows)
	maps.DeleteFunc(hidden, func(n int, want string) bool {
		return slices.ContainsFunc(picture(s.under[n]), regexp.MustCompile("^("+want+")").MatchString)
	})
	return hidden
}

// open follows the pages of a fault's alerts while it holds, and notes what that leads to.
func (w *watch) open(t *testing.T, f fault, led map[string]string) {
	t.Helper()
	now := w.firing(t, f.of.job)
	for _, name := range f.fires {
		alert, fires := now[name]
		if !fires {
			continue // that is described elsewhere
		}
		appeared := w.walk(t, alert.Labels)
		if led[name] = found(appeared, f.leads[name]); led[name] == "" {
			t.Errorf("%s: the page of %s does not lead to %s:\n%s", f.name, name, f.leads[name], appeared)
		}
	}
}

// table returns what all faults led to, as a table in Markdown.
func table(all []seen) string {
	var b strings.Builder
	b.WriteString("| fault | alert | after | sent to | it says | its page led to | quiet after mending |\n" +
		"| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, s := range all {
		names := slices.SortedFunc(maps.Keys(s.after), func(a, b string) int { return int(s.after[a] - s.after[b]) })
		if len(names) == 0 {
			fmt.Fprintf(&b, "| %s | none | | | | | |\n", s.fault.name)
		}
		for _, name := range names {
			told := s.told[name]
			if told == "" {
				told = "nobody (inhibited)"
			}
			fmt.Fprintf(&b, "| %s | %s | %.0f s | %s | %s | %s | %.0f s |\n",
				s.fault.name, name, s.after[name].Seconds(), told, s.detail[name], s.led[name], s.quiet.Seconds())
		}
	}
	return b.String()
}
