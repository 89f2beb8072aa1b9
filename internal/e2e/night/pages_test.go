package night

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/prom"
)

// command is one of the runbook, as whoever is called at night pastes it: after the beginning's own lines, with the
// addresses of one replica, and with what the alert's labels name.
func (h *house) command(t *testing.T, beginning page, replica int, chosen map[string]string, text string) *exec.Cmd {
	t.Helper()
	at := h.replicas[replica].env
	prologue := strings.NewReplacer("http://127.0.0.1:8080", "http://"+at["RELAY_HTTP_ADDR"], "http://127.0.0.1:9464",
		"http://"+at["RELAY_METRICS_ADDR"]).Replace(beginning.shell[0])
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		prologue += name + "='" + chosen[name] + "'\n"
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", prologue+text)
	cmd.Dir = t.TempDir()
	cmd.Env = append(h.replicas[replica].environment(), "PATH="+filepath.Dir(relayBinary(t))+":"+os.Getenv("PATH"))
	return cmd
}

// walk follows the page of an alert, while it fires and with its labels, and returns all that appeared. What a
// command cannot do is a part of that: a relay that is dead does not respond.
func (w *watch) walk(t *testing.T, labels map[string]string) string {
	t.Helper()
	beginning, pages := runbook(t)
	i := slices.IndexFunc(pages, func(p page) bool { return p.title == labels["alertname"] })
	if i < 0 {
		t.Fatalf("%s has no page", labels["alertname"])
	}
	var b strings.Builder
	for _, query := range pages[i].queries {
		samples, err := w.prom.Query(t.Context(), query)
		if err != nil {
			t.Errorf("%s: %v", labels["alertname"], err)
		}
		for _, s := range samples {
			b.WriteString(series(s) + "\n")
		}
	}
	h := w.houses[labels["job"]]
	if h == nil {
		t.Fatalf("%s is of no relay here: %v", labels["alertname"], labels)
	}
	replica := max(slices.IndexFunc(h.replicas,
		func(r *replica) bool { return r.env["RELAY_METRICS_ADDR"] == labels["instance"] }), 0)
	chosen := map[string]string{}
	for _, name := range []string{"callback", "connection", "client"} {
		if labels[name] != "" {
			chosen[strings.ToUpper(name)] = labels[name]
		}
	}
	for _, text := range pages[i].shell {
		out, err := h.command(t, beginning, replica, chosen, text).CombinedOutput()
		fmt.Fprintf(&b, "%s\n", out)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}

// series writes a sample as Prometheus does, without the names of its relay's build.
func series(s prom.Sample) string {
	var labels []string
	for _, name := range slices.Sorted(maps.Keys(s.Labels)) {
		if name != "__name__" {
			labels = append(labels, name+"="+s.Labels[name])
		}
	}
	return fmt.Sprintf("%s{%s} %g", s.Labels["__name__"], strings.Join(labels, ", "), s.Value)
}

// found returns what a page has led to: the first thing in what appeared that an expression finds, "" if there is none.
func found(appeared, wanted string) string {
	thing := regexp.MustCompile(wanted).FindString(appeared)
	return strings.ReplaceAll(strings.Join(strings.Fields(thing), " "), "|", `\|`)
}

// smallest are the questions for which the trouble is a small answer.
var smallest = []int{2, 7}

// answers returns what the panel of each question shows of a relay: the lines, by their labels.
func (w *watch) answers(t *testing.T, job string) map[int]map[string]float64 {
	t.Helper()
	all := map[int]map[string]float64{}
	for i, p := range w.questions {
		samples, err := w.prom.Query(t.Context(), prom.Render(p.Targets[0].Expr, map[string]string{"job": job}))
		if err != nil {
			t.Fatal(err)
		}
		all[i+1] = map[string]float64{}
		for _, s := range samples {
			all[i+1][s.Name()] = s.Value
		}
	}
	return all
}

// worse adds later results to those of a fault: of each line what is worst.
func worse(all, now map[int]map[string]float64) {
	for n, lines := range now {
		for line, value := range lines {
			had, known := all[n][line]
			switch {
			case !known || slices.Contains(smallest, n) && had < 0: // -1: nothing came
				all[n][line] = value
			case !slices.Contains(smallest, n):
				all[n][line] = max(had, value)
			case value >= 0:
				all[n][line] = min(had, value)
			}
		}
	}
}

// picture writes the lines of a panel, without the line of nothing beside others.
func picture(lines map[string]float64) []string {
	var all []string
	for _, line := range slices.Sorted(maps.Keys(lines)) {
		if line != "none" || len(lines) == 1 {
			all = append(all, prom.Line(line, lines[line]))
		}
	}
	return all
}

// pictures returns the panels' data of a night in Markdown: of each question what its panel showed before the faults
// that it is asked in, and at the worst while they held.
func pictures(t *testing.T, all []seen) string {
	t.Helper()
	var b strings.Builder
	for i, p := range prom.Questions(t, root) {
		fmt.Fprintf(&b, "\n%s\n\n| fault | while it is quiet | under the fault |\n| --- | --- | --- |\n", p.Title)
		for _, s := range all {
			if s.fault.shows[i+1] != "" {
				show := func(lines map[string]float64) string {
					return cmp.Or(strings.Join(picture(lines), "; "), "nothing")
				}
				fmt.Fprintf(&b, "| %s | %s | %s |\n", s.fault.name, show(s.before[i+1]), show(s.under[i+1]))
			}
		}
	}
	return b.String()
}
