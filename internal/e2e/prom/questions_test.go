package prom

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	asked = regexp.MustCompile("(?m)^\\*\\*([0-9]+\\. [^*]+\\?)\\*\\*[^`]*(?:`[^`\n]+`[^`]*)*\n\n```promql\n" +
		"((?s:.*?))\n```$")
	space    = regexp.MustCompile(`\s+`)
	matcher  = regexp.MustCompile(`\{job=~"\$job"\}|job=~"\$job", `)
	sorted   = regexp.MustCompile(`^sort_desc\((.*)\)$`)
	joined   = regexp.MustCompile(` (and on \(job\)|unless on \(job, instance\)) $`)
	fallback = `( >= 0)?( and on \(job\) audatex_relay_build_info)?( or on\(\) .*max\(audatex_relay_build_info\).*)?$`
)

// TestEveryQuestionHasOneQueryAndOnePanel: the list of docs/metrics.md is the only one, and each of its queries is that
// of the overview's panel of the same title. The panel chooses a relay, and shows something where nothing is wrong.
func TestEveryQuestionHasOneQueryAndOnePanel(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	listed := asked.FindAllStringSubmatch(string(text), -1)
	panels := Questions(t, root)
	if len(listed) != 10 || len(panels) != 10 || strings.Count(string(text), "```promql") != 10 {
		t.Fatalf("%d questions and %d panels, %d queries in all",
			len(listed), len(panels), strings.Count(string(text), "```promql"))
	}
	for i, q := range listed {
		query := sorted.ReplaceAllString(space.ReplaceAllString(strings.TrimSpace(q[2]), " "), "$1")
		query = strings.NewReplacer("( ", "(", " )", ")").Replace(query)
		shown := matcher.ReplaceAllString(panels[i].Targets[0].Expr, "")
		if panels[i].Title != q[1] || !regexp.MustCompile(`^(`+regexp.QuoteMeta(query)+`|\(`+regexp.QuoteMeta(query)+
			`\))`+fallback).MatchString(shown) {
			t.Errorf("the question %q is answered by\n%s\nand the panel %q by\n%s", q[1], query, panels[i].Title, shown)
		}
	}
}

// adds is how what several replicas show of a gauge comes to one value of the relay. Counters are summed. A gauge about
// one connection, callback or key is its owner's; after a takeover two replicas may show it for a moment.
var adds = map[string]string{
	// Each replica counts what it owns.
	"audatex_relay_connections": "sum", "audatex_relay_unresolved_entries": "sum", "audatex_relay_shards_held": "sum",
	"audatex_relay_reconciliation_orders_left": "sum",
	// Each replica counts what goes through it.
	"audatex_relay_attempts_under_way": "sum", "audatex_relay_attempts_limit": "sum",
	"audatex_relay_callbacks_waiting_for_attempts": "sum", "audatex_relay_long_polls": "sum",
	"audatex_relay_nats_clients": "sum", "audatex_relay_listener_connections": "sum",
	"audatex_relay_vendor_requests_waiting": "sum",
	// All see the same thing, and one may be cut off from it.
	"audatex_relay_members": "max", "audatex_relay_shards_without_owner": "min", "audatex_relay_store_bytes": "max",
	"audatex_relay_store_limit_bytes": "max", "audatex_relay_disk_bytes": "min max",
	"audatex_relay_disk_free_bytes": "min", "audatex_relay_store_full_in_seconds": "min",
	// The replica for which it is worst.
	"audatex_relay_store_failing": "max", "audatex_relay_unresolved_oldest_age_seconds": "max",
	"audatex_relay_vendor_circuit_open": "max", "audatex_relay_vendor_clock_skew_seconds": "max",
	"audatex_relay_vendor_budget_used_ratio": "max", "audatex_relay_vendor_rate_ratio": "min",
	"audatex_relay_callback_certificate_expires_seconds": "min", "audatex_relay_api_key_expires_seconds": "min",
	// What is about a replica itself.
	"audatex_relay_build_info": "max count", "up": "sum count",
}

// howItAdds returns how replicas add up in a metric, and whether the table has it.
func howItAdds(name string) (string, bool) {
	for _, suffix := range []string{"_total", "_bucket", "_count", "_sum"} {
		if strings.HasSuffix(name, suffix) {
			return "sum", true
		}
	}
	for _, owned := range []string{"audatex_relay_connection_", "audatex_relay_callback_",
		"audatex_relay_notifications_"} {
		if strings.HasPrefix(name, owned) && adds[name] == "" {
			return "max", true
		}
	}
	how, known := adds[name]
	return how, known
}

var aggregation = regexp.MustCompile(`\b(sum|max|min|count|avg|topk|group)(?: by \([a-z_, ]*\))? ?$`)

// innermost returns the aggregation that a place of an expression is in, "" for none.
func innermost(expression string) string {
	var open []int
	for i, c := range expression {
		switch c {
		case '(':
			open = append(open, i)
		case ')':
			open = open[:len(open)-1]
		}
	}
	for _, at := range slices.Backward(open) {
		if m := aggregation.FindStringSubmatch(expression[:at]); m != nil {
			return m[1]
		}
	}
	return ""
}

// TestPanelsAddReplicasUp: three replicas of a hundred connections each are three hundred connections, and three that
// see one stream of a gigabyte are one gigabyte.
func TestPanelsAddReplicasUp(t *testing.T) {
	t.Parallel()
	for file, d := range Dashboards(t, root) {
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				expression := quoted.ReplaceAllStringFunc(target.Expr, func(s string) string {
					return strings.Repeat("_", len(s))
				})
				for _, at := range metric.FindAllStringIndex(expression, -1) {
					name, by := expression[at[0]:at[1]], innermost(expression[:at[0]])
					if joined.MatchString(expression[:at[0]]) {
						continue // its value is not shown
					}
					if how, known := howItAdds(name); !known || !slices.Contains(strings.Fields(how), by) {
						t.Errorf("%s, panel %q: %s is added up by %q and not by %q", file, p.Title, name, by, how)
					}
				}
			}
		}
	}
}
