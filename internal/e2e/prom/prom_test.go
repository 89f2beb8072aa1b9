package prom

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
)

func TestMain(m *testing.M) {
	natstest.Waiting(4)
	os.Exit(m.Run())
}

func TestScrapesQueriesAndAlerts(t *testing.T) {
	t.Parallel()
	Program(t, "prometheus")
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer a-token" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = fmt.Fprint(w, "# TYPE orders gauge\norders{site=\"leeds\"} 7\norders{site=\"york\"} 5\n")
	}))
	t.Cleanup(target.Close)
	rules := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(rules, []byte("groups:\n- name: orders\n  rules:\n  - alert: Many\n    expr: orders > 6\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	Check(t, "check", "rules", rules)
	address := strings.TrimPrefix(target.URL, "http://")
	s := Start(t, Config{Jobs: []Job{{"relay", []string{address}, "a-token"}, {"stranger", []string{address}, ""}},
		Rules: []string{rules}})
	s.AwaitUp(t, "relay", 1)

	ctx := t.Context()
	if got, err := s.Query(ctx, `sum(orders)`); err != nil || len(got) != 1 || got[0].Value != 12 {
		t.Errorf("a vector: %v %v", got, err)
	}
	if got, err := s.Query(ctx, `scalar(orders{site="york"})`); err != nil || len(got) != 1 || got[0].Value != 5 {
		t.Errorf("a scalar: %v %v", got, err)
	}
	if _, err := s.Query(ctx, `sum(`); err == nil || !strings.Contains(err.Error(), "parse error") {
		t.Errorf("what cannot be parsed: %v", err)
	}
	if got, err := s.LabelValues(ctx, "site", "orders"); err != nil || fmt.Sprint(got) != "[leeds york]" {
		t.Errorf("the values of a label: %v %v", got, err)
	}
	if got, err := s.Series(ctx, `orders{job="stranger"}`, time.Now().Add(-time.Hour)); err != nil || len(got) != 0 {
		t.Errorf("a target that refuses has series: %v %v", got, err)
	}
	harness.Eventually(t, "the alert fires", func() string {
		alerts, err := s.Alerts(ctx)
		if err != nil || len(alerts) != 1 || alerts[0].State != "firing" || alerts[0].Labels["site"] != "leeds" {
			return fmt.Sprint(alerts, err)
		}
		return ""
	})
}
