package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/demo"
)

// documented is a row of a table in docs/metrics.md: name, labels, kind.
var documented = regexp.MustCompile("(?m)^\\| `(audatex_relay_[a-z_]+)` \\| ([a-z_, `]*) ?\\| " +
	"(counter|gauge|histogram|while)\\b")

// described is how the library writes what a metric is.
var described = regexp.MustCompile(
	`fqName: "(audatex_relay_[a-z_]+)", help: ".*", constLabels: {(.*)}, variableLabels: {(.*)}}`)

// docs/metrics.md lists every metric that a running relay can show, those of trouble among them, with its labels, and
// no others.
func TestEveryMetricIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, row := range documented.FindAllStringSubmatch(string(page), -1) {
		want[row[1]] = labels(strings.ReplaceAll(row[2], "`", ""), ",")
	}
	seen := map[string]bool{}
	for desc := range registered(t) {
		of := described.FindStringSubmatch(desc)
		if of == nil {
			continue // of the Go runtime, or of the library itself
		}
		constant := regexp.MustCompile(`([a-z_]+)="[^"]*"`).ReplaceAllString(of[2], "$1")
		have := labels(constant+","+of[3], ",")
		if documented, there := want[of[1]]; !there || documented != have {
			t.Errorf("%s has the labels {%s}; docs/metrics.md has it: %t, with {%s}", of[1], have, there, documented)
		}
		seen[of[1]] = true
	}
	for name := range want {
		if !seen[name] {
			t.Errorf("docs/metrics.md lists %s, and a running relay cannot show it", name)
		}
	}
}

// registered returns the descriptions of all that a running relay has registered.
func registered(t *testing.T) map[string]bool {
	vendor := httptest.NewServer(http.NotFoundHandler())
	defer vendor.Close()
	given := demoSettings(demo.Relay{Dir: t.TempDir(), VendorURL: vendor.URL,
		AdminToken: "an-admin-token-for-this-test"}, true)
	given.NATSListen = "127.0.0.1:0"
	config, err := given.Check()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	descs := map[string]bool{}
	if err := serve(ctx, config, slog.New(slog.DiscardHandler), func(at addresses) {
		ch := make(chan *prometheus.Desc)
		go func() { at.registry.Describe(ch); close(ch) }()
		for d := range ch {
			descs[d.String()] = true
		}
		stop()
	}); err != nil {
		t.Fatal(err)
	}
	return descs
}

// labels sorts a list of names.
func labels(list, by string) string {
	var names []string
	for name := range strings.SplitSeq(list, by) {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ",")
}
