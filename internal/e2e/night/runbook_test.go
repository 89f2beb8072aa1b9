package night

import (
	"cmp"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/audatex-relay/relay/internal/e2e/prom"
)

// page is what the runbook has under one heading.
type page struct {
	title, text string
	shell       []string // its commands
	queries     []string
}

var (
	heading = regexp.MustCompile(`(?m)^(##|###) (.+)$`)
	block   = regexp.MustCompile("(?ms)^```(sh|promql)\n(.*?)^```")
)

// runbook returns its beginning, and the pages of alerts.
func runbook(t *testing.T) (beginning page, alerts []page) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := heading.FindAllSubmatchIndex(text, -1)
	for i, at := range found {
		end := len(text)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		p := page{title: string(text[at[4]:at[5]]), text: string(text[at[1]:end])}
		for _, b := range block.FindAllStringSubmatch(p.text, -1) {
			if b[1] == "sh" {
				p.shell = append(p.shell, b[2])
			} else {
				p.queries = append(p.queries, strings.TrimSpace(b[2]))
			}
		}
		switch {
		case string(text[at[2]:at[3]]) == "###":
			alerts = append(alerts, p)
		case p.title == "Before you begin":
			beginning = p
		}
	}
	return beginning, alerts
}

// TestEveryAlertHasItsPage: and every page its alert, with all four parts.
func TestEveryAlertHasItsPage(t *testing.T) {
	t.Parallel()
	var named []string
	files, err := filepath.Glob(filepath.Join(rules(t), "rules", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var document struct {
			Groups []struct {
				Rules []struct{ Alert string }
			}
		}
		if err := yaml.Unmarshal(text, &document); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, g := range document.Groups {
			for _, r := range g.Rules {
				if r.Alert != "" {
					named = append(named, r.Alert)
				}
			}
		}
	}
	_, pages := runbook(t)
	var titles []string
	for _, p := range pages {
		titles = append(titles, p.title)
		for _, part := range []string{"**Meaning.**", "**Impact.**", "**Diagnosis.**", "**Mitigation.**"} {
			if strings.Count(p.text, part) != 1 {
				t.Errorf("the page %s needs %s once", p.title, part)
			}
		}
		if len(p.queries) == 0 {
			t.Errorf("the page %s has no query", p.title)
		}
	}
	slices.Sort(named)
	slices.Sort(titles)
	if !slices.Equal(named, titles) || len(named) < 25 {
		t.Errorf("the alerts are\n%v\nand the pages\n%v", named, titles)
	}
}

// TestTheRunbookReadsEveryPage: its function all prints the items of all pages of a list, also after an empty one, and
// fails if one cannot be read.
func TestTheRunbookReadsEveryPage(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"bash", "curl", "jq"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("the commands need %s: %v", name, err)
		}
	}
	pages := map[string]string{
		"": `{"items":[{"id":"a"},{"id":"b"}],"next":"p2"}`, "p2": `{"items":[],"next":"p3"}`,
		"p3": `{"items":[{"id":"c"}]}`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		page, there := pages[q.Get("after")]
		if !there || q.Get("state") != "failing" || q.Get("limit") != "500" || r.URL.Path != "/v1/connections" {
			http.Error(w, r.URL.String(), http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, page) // the caller sees what is missing
	}))
	defer server.Close()
	beginning, _ := runbook(t)
	prologue := strings.Replace(beginning.shell[0], "http://127.0.0.1:8080", server.URL, 1)
	run := func(list string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c",
			"RELAY_ADMIN_TOKEN=t\n"+prologue+"all '"+list+"'")
		out, err := cmd.Output()
		return string(out), err
	}
	if out, err := run("/v1/connections?state=failing"); err != nil ||
		out != `{"id":"a"}`+"\n"+`{"id":"b"}`+"\n"+`{"id":"c"}`+"\n" {
		t.Errorf("all prints %q: %v", out, err)
	}
	if out, err := run("/v1/elsewhere"); err == nil {
		t.Errorf("all prints %q of a list that is not there", out)
	}
}

// callbacksOfPages are the callbacks that a page's commands are tried on, where they change one.
var callbacksOfPages = map[string]string{
	"RelayReceiverFailing": "failing", "RelayReceiverCircuitOpen": "failing", "RelayCallbackDisabled": "gone",
	"RelayAttemptsExhausted": "paused", "RelayReceiverCertificateExpires": "ending",
}

// printedByPages is what the commands of a page must print, in their order in all that it prints.
var printedByPages = map[string]*regexp.Regexp{
	// the role of the old one
	"RelayAPIKeyExpires": regexp.MustCompile(`(?s)"role":"write".*"key": "\S+".*"role": "write"`),
}

// tryRunbook tries every query and every command of the runbook.
func (h *house) tryRunbook(t *testing.T, s *prom.Server, began time.Time) {
	t.Helper()
	for _, name := range []string{"bash", "curl", "jq"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("the commands need %s: %v", name, err)
		}
	}
	beginning, pages := runbook(t)
	queries := 0
	for _, p := range pages {
		for _, query := range p.queries {
			queries++
			h.tryQuery(t, s, p.title, query, began)
		}
	}
	commands := 0
	for _, p := range append([]page{beginning}, pages...) {
		var printed strings.Builder
		chosen := map[string]string{"CALLBACK": cmp.Or(callbacksOfPages[p.title], "orders")}
		for _, command := range p.shell {
			commands++
			cmd := h.command(t, beginning, 0, chosen, command)
			out, err := cmd.CombinedOutput()
			printed.Write(out)
			if strings.HasPrefix(command, "relay doctor") && cmd.ProcessState.ExitCode() == 1 &&
				strings.Contains(string(out), "to mend") {
				continue // it has found what is wrong
			}
			if err != nil || len(strings.TrimSpace(string(out))) == 0 && command != beginning.shell[0] {
				t.Errorf("%s: this prints nothing or fails (%v):\n%s\n%s", p.title, err, command, out)
			}
		}
		if want := printedByPages[p.title]; want != nil && !want.MatchString(printed.String()) {
			t.Errorf("%s: its commands do not print %s:\n%s", p.title, want, printed.String())
		}
	}
	if queries < 50 || commands < 30 {
		t.Errorf("only %d queries and %d commands were found", queries, commands)
	}
}

// metricName matches the relay's metrics and what is recorded of them.
var metricName = regexp.MustCompile(`(?:[a-z_]+:)?(?:audatex_relay|slo)_[a-z_]+(?::[a-z0-9_]+)?`)

// tryQuery fails unless Prometheus evaluates a query, and knows every metric that it names.
func (h *house) tryQuery(t *testing.T, s *prom.Server, title, query string, began time.Time) {
	t.Helper()
	if _, err := s.Query(t.Context(), query); err != nil {
		t.Errorf("%s: %v", title, err)
	}
	for _, name := range metricName.FindAllString(query, -1) {
		if series, err := s.Series(t.Context(), name, began); err != nil || len(series) == 0 {
			t.Errorf("%s: no series is called %s: %v", title, name, err)
		}
	}
}
