package each_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/each"
)

func TestOf(t *testing.T) {
	t.Parallel()
	if got := each.Of([]string{"a", "b"}, strings.ToUpper); !slices.Equal(got, []string{"A", "B"}) {
		t.Errorf("%q", got)
	}
	if got := each.Of(nil, strings.ToUpper); got == nil || len(got) > 0 {
		t.Errorf("of no list: %#v", got)
	}
}
