// Package charts tests of the Helm chart what helm and helm-unittest, which .ci/charts runs, cannot. The chart's page
// must name every value with its default, and values must reach the program as they are. Begin reading at
// TestReadmeTellsEveryValue, then at literal_test.go.
package charts

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const chart = "../../deploy/helm/relay/"

// The page's tables name every value and no other, and have the defaults that values.yaml holds.
func TestReadmeTellsEveryValue(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(chart + "values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(raw, &values); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(chart + "README.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Za-z.]+)` \\| (.*?) \\|").FindAllStringSubmatch(string(page),
		-1) {
		if _, twice := told[row[1]]; twice {
			t.Errorf("README.md tells of %s twice", row[1])
		}
		told[row[1]] = row[2]
	}
	if len(told) == 0 {
		t.Fatal("README.md has no table of values")
	}
	for _, leaf := range leaves("", values, told) {
		if _, ok := told[leaf.name]; !ok {
			t.Errorf("README.md does not tell of %s", leaf.name)
			continue
		}
		if scalar := leaf.scalar(); scalar != "" && !strings.Contains(told[leaf.name], "`"+scalar+"`") {
			t.Errorf("README.md: the default of %s is %s, not %s", leaf.name, scalar, told[leaf.name])
		}
		delete(told, leaf.name)
	}
	for name := range told {
		t.Errorf("README.md tells of %s, which values.yaml does not have", name)
	}
}

type leaf struct {
	name  string
	value any
}

// scalar is the default as the page must write it, or nothing where it is empty, or more than a word.
func (l leaf) scalar() string {
	switch l.value.(type) {
	case string, bool, float64:
		text, err := yaml.Marshal(l.value)
		if err != nil {
			return ""
		}
		return strings.Trim(strings.TrimSpace(string(text)), `"`)
	}
	return ""
}

// leaves are the values that have none inside, or that the page describes as a whole.
func leaves(prefix string, values map[string]any, whole map[string]string) []leaf {
	var found []leaf
	for key, value := range values {
		name := prefix + key
		if inner, ok := value.(map[string]any); ok && len(inner) > 0 && !has(whole, name) {
			found = append(found, leaves(name+".", inner, whole)...)
			continue
		}
		found = append(found, leaf{name, value})
	}
	slices.SortFunc(found, func(a, b leaf) int { return strings.Compare(a.name, b.name) })
	return found
}

func has(names map[string]string, name string) bool {
	_, ok := names[name]
	return ok
}
