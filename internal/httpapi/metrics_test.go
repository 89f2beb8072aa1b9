package httpapi

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/audatex-relay/relay/internal/relay"
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
	there.Put("e", store.Aside{Connection: "deleted", Reason: "not-found", UnresolvedAt: hour}, 5)
	there.Put("f", store.Aside{Connection: "deleted", Reason: "forbidden", UnresolvedAt: hour}, 6)
	shown := asides{there, func(connection string) bool { return connection != "elsewhere" },
		func(connection string) bool { return connection == "deleted" }}
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
		`unresolved_entries{reason="connection-gone"} 2`,
		`unresolved_oldest_age_seconds{reason="forbidden"} 36`,
		`unresolved_oldest_age_seconds{reason="site-unknown"} 6`,
	} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("%s is missing in:\n%s", want, got.String())
		}
	}
	for _, not := range []string{`age_seconds{reason="connection-gone"}`, `"not-found"`} {
		if strings.Contains(got.String(), not) {
			t.Errorf("%s is of a connection that is not there:\n%s", not, got.String())
		}
	}
	for _, id := range []string{"a", "b", "c", "e", "f"} {
		there.Removed(id, 9)
	}
	if n := testutil.CollectAndCount(shown); n != 0 {
		t.Errorf("%d series of what is gone", n)
	}
}

// Requests are counted by operation and status, refusals by reason. One that waits for an event is shown while it does,
// and its duration is nobody's.
func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	f := newFixture(t, func(c *Config) { c.Metrics = reg })
	reader := f.client("client-a", relay.RoleRead, "alpha")
	reader.get("/v1/callbacks").want(200)
	reader.get("/v1/callbacks/none-of-mine").want(404)
	reader.get("/v1/nowhere").want(404)
	f.as("").get("/v1/callbacks").want(401)
	value := func(name string, labels ...string) float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				var have []string
				for _, l := range m.GetLabel() {
					have = append(have, l.GetValue())
				}
				if family.GetName() == "audatex_relay_"+name && slices.Equal(have, labels) {
					return m.GetCounter().GetValue() + m.GetGauge().GetValue() +
						float64(m.GetHistogram().GetSampleCount())
				}
			}
		}
		return 0
	}
	waits := make(chan struct{})
	go func() {
		defer close(waits)
		reader.get("/v1/events?waitSeconds=20").want(200)
	}()
	eventually(t, func() bool { return value("long_polls") == 1 })
	f.publish("alpha", "7f0c6c1e-0000-4000-8000-000000000001")
	<-waits
	eventually(t, func() bool {
		return value("long_polls") == 0 && value("http_requests_total", "200", "listEvents") == 1
	})
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"http_requests_total", []string{"200", "listCallbacks"}, 1},
		{"http_requests_total", []string{"401", "listCallbacks"}, 1},
		{"http_requests_total", []string{"404", "getCallback"}, 1},
		{"http_requests_total", []string{"404", noOperation}, 1},
		{"http_refusals_total", []string{"not-found"}, 2}, {"http_refusals_total", []string{"unauthorized"}, 1},
		{"http_refusals_total", []string{"too-many-requests"}, 0},
		{"http_request_duration_seconds", []string{"listCallbacks"}, 2},
		{"http_request_duration_seconds", []string{"listEvents"}, 0},
	} {
		if got := value(c.name, c.labels...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
}
