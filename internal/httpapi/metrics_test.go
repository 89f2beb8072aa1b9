package httpapi

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/audatex-relay/relay/internal/store"
)

// What is set aside is counted by reason, by the replica that owns the connection, until it is gone.
func TestMetricsOfWhatIsSetAside(t *testing.T) {
	t.Parallel()
	there := store.NewMirror(store.MirrorConfig[store.Aside]{Log: slog.New(slog.DiscardHandler), What: "unresolved"})
	hour, minute := time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
	there.Put("a", store.Aside{Connection: "leeds", Reason: "forbidden", UnresolvedAt: minute}, 1)
	there.Put("b", store.Aside{Connection: "leeds", Reason: "forbidden", UnresolvedAt: hour}, 2)
	there.Put("c", store.Aside{Connection: "york", Reason: "site-unknown", UnresolvedAt: minute}, 3)
	there.Put("d", store.Aside{Connection: "elsewhere", Reason: "malformed", UnresolvedAt: hour}, 4)
	shown := asides{there, func(connection string) bool { return connection != "elsewhere" }}
	reg := prometheus.NewRegistry()
	reg.MustRegister(shown)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&got, f); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{
		`unresolved_entries{reason="forbidden"} 2`, `unresolved_entries{reason="site-unknown"} 1`,
		`unresolved_oldest_age_seconds{reason="forbidden"} 36`, `unresolved_oldest_age_seconds{reason="site-unknown"} 6`,
	} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("%s is missing in:\n%s", want, got.String())
		}
	}
	for _, id := range []string{"a", "b", "c"} {
		there.Removed(id, 9)
	}
	if n := testutil.CollectAndCount(shown); n != 0 {
		t.Errorf("%d series of what is gone", n)
	}
}
