package docs

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// message is a row of logs.md, or what the source has of one message in all places.
type message struct{ levels, fields []string }

// TestEveryMessageOfTheLogIsOnItsPage compares logs.md with the source, both ways.
func TestEveryMessageOfTheLogIsOnItsPage(t *testing.T) {
	t.Parallel()
	source, where := map[string]message{}, map[string]string{}
	for _, l := range sourceMessages(t) {
		m := source[l.message]
		m.levels, m.fields = union(m.levels, l.levels), union(m.fields, l.fields)
		source[l.message], where[l.message] = m, l.at
	}
	page := pageMessages(t)
	for text, m := range source {
		trouble := slices.Contains(m.levels, "WARN") || slices.Contains(m.levels, "ERROR")
		switch row, ok := page[text]; {
		case !ok && trouble && text == "…":
			t.Errorf("%s: this test cannot see which message is logged; pass it as a literal", where[text])
		case !ok && trouble:
			t.Errorf("%s: logs.md has no row for %q (fields %s)", where[text], text, m.fields)
		case ok && (!slices.Equal(row.levels, m.levels) || !slices.Equal(row.fields, m.fields)):
			t.Errorf("%s: logs.md has %q with %s, the source with %s", where[text], text, row, m)
		}
	}
	for text := range page {
		if _, ok := source[text]; !ok {
			t.Errorf("logs.md has a row for %q, and nothing logs that", text)
		}
	}
	if len(page) < 150 {
		t.Errorf("logs.md has %d rows", len(page))
	}
}

// pageMessages reads the rows of logs.md.
func pageMessages(t *testing.T) map[string]message {
	t.Helper()
	raw, err := os.ReadFile("logs.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]message{}
	for line := range strings.Lines(string(raw)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		if len(cells) != 5 || strings.TrimSpace(cells[4]) == "" {
			t.Errorf("logs.md: not five cells: %s", line)
			continue
		}
		text := strings.TrimSpace(strings.Trim(strings.TrimSpace(cells[0]), "`"))
		if strings.HasPrefix(strings.TrimSpace(cells[0]), "`` ") { // it holds backticks
			text = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(cells[0]), "`` "), " ``")
		}
		if _, twice := rows[text]; twice {
			t.Errorf("logs.md has two rows for %q", text)
		}
		fields := strings.FieldsFunc(cells[2], func(r rune) bool { return strings.ContainsRune("`, ", r) })
		rows[text] = message{union(nil, strings.Fields(cells[1])), union(nil, fields)}
	}
	return rows
}

func union(a, b []string) []string {
	all := append(slices.Clone(a), b...)
	slices.Sort(all)
	return slices.Compact(all)
}
