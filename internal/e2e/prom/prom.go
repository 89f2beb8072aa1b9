package prom

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// Config is what a Prometheus is started with.
type Config struct {
	Jobs         []Job
	Rules        []string // files of rules, or patterns of their names
	Alertmanager string   // its host and port, "" for none
	Interval     time.Duration
}

// Job is a job of the configuration: its name, and where its targets serve /metrics (host and port).
type Job struct {
	Name    string
	Targets []string
	Token   string // the bearer token that the targets ask for, "" for none
}

// Server is a running Prometheus.
type Server struct {
	URL string // http://127.0.0.1:…

	client caller
	log    lines
}

// interval is how often targets are scraped and rules are evaluated, unless the configuration has another value.
const interval = time.Second

// Program returns the path of one of Prometheus' programs: prometheus, promtool, prometheus-alertmanager. It skips the
// test if there is none, and fails it if RELAY_PROMETHEUS_WANTED is set.
func Program(t testing.TB, name string) string {
	t.Helper()
	if dir := os.Getenv("RELAY_PROMETHEUS"); dir != "" {
		return filepath.Join(dir, name)
	}
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("RELAY_PROMETHEUS_WANTED") != "" {
		t.Fatalf("no %s: %v", name, err)
	}
	t.Skipf("no %s in PATH, and RELAY_PROMETHEUS names no directory that has it", name)
	return ""
}

// Start starts a Prometheus that ends with the test, and waits until it takes requests.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	program, dir := Program(t, "prometheus"), t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, c.document(t), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), program,
		"--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0",
		"--log.format=json", "--web.enable-lifecycle", "--storage.tsdb.retention.time=1d")
	cmd.SysProcAttr = harness.DiesWithTest()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &Server{}
	listening, exited := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(exited)
		s.log.read(stderr, listening)
		_ = cmd.Wait() // it is killed
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone
		<-exited
		s.client.close()
		if t.Failed() {
			t.Logf("what Prometheus has logged:\n%s", s.log.text())
		}
	})
	select {
	case address := <-listening:
		s.URL = "http://" + address
		s.client = newCaller(s.URL)
	case <-exited:
		t.Fatalf("Prometheus ended instead of listening:\n%s", s.log.text())
	}
	harness.Eventually(t, "Prometheus is ready", func() string {
		if _, err := s.client.get(t.Context(), "/-/ready", nil); err != nil {
			return err.Error()
		}
		return ""
	})
	return s
}

// document writes the configuration.
func (c Config) document(t testing.TB) []byte {
	t.Helper()
	type object = map[string]any
	every := interval
	if c.Interval > 0 {
		every = c.Interval
	}
	document := object{"global": object{"scrape_interval": every.String(), "scrape_timeout": every.String(),
		"evaluation_interval": every.String()}}
	scrape := []any{}
	for _, j := range c.Jobs {
		job := object{"job_name": j.Name, "static_configs": []any{object{"targets": j.Targets}}}
		if j.Token != "" {
			job["authorization"] = object{"credentials": j.Token}
		}
		scrape = append(scrape, job)
	}
	document["scrape_configs"] = scrape
	var rules []string
	for _, pattern := range c.Rules {
		path, err := filepath.Abs(pattern) // they are relative to the configuration's directory
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, path)
	}
	document["rule_files"] = rules
	if c.Alertmanager != "" {
		document["alerting"] = object{
			"alertmanagers": []any{object{"static_configs": []any{object{"targets": []string{c.Alertmanager}}}}}}
	}
	text, err := yaml.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// lines keeps what the program logs.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

// read takes the log until it ends and reports the address in the line that names it.
func (l *lines) read(r io.Reader, listening chan<- string) {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		l.mu.Lock()
		l.all.Write(line)
		l.mu.Unlock()
		var said struct{ Msg, Address string }
		if json.Unmarshal(line, &said) == nil && said.Msg == "Listening on" {
			select {
			case listening <- said.Address:
			default:
			}
		}
		if err != nil {
			return
		}
	}
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// Check has promtool check a file, with the words of its command: "check", "rules".
func Check(t testing.TB, words ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Program(t, "promtool"), words...) //nolint:gosec // the tests' own words
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(words, " "), err, out)
	}
}

// AwaitUp waits until n targets of the job have been scraped with success, twice each, so that rates have two samples.
func (s *Server) AwaitUp(t testing.TB, job string, n int) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("%d targets of job %s are up", n, job), func() string {
		got, err := s.Query(t.Context(),
			fmt.Sprintf(`count(count_over_time(up{job=%q}[1m]) > 1 and up{job=%[1]q} == 1) or vector(0)`, job))
		switch {
		case err != nil:
			return err.Error()
		case len(got) != 1 || got[0].Value != float64(n):
			return fmt.Sprint(got)
		}
		return ""
	})
}
