package backlog

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
)

// A callback has two series, and more only while there is trouble; each names its client.
func TestGauges(t *testing.T) {
	t.Parallel()
	hour := time.Now().Add(-time.Hour)
	g := Gauges{Each: func(_ context.Context, each func(Condition)) {
		each(Condition{Callback: "well", Client: "acme", Events: 2, OldestSeconds: 0.5})
		each(Condition{Callback: "down", Client: "acme", Events: 40, OldestSeconds: 3600, FailingSince: hour,
			Failure: sender.Refused, Open: true, Retrying: 3})
		each(Condition{Callback: "taken", Client: "", FailingSince: hour})
		each(Condition{Callback: "off", Client: "bond", Disabled: &relay.Disabled{Reason: "gone", At: hour}})
		each(Condition{Callback: "rests", Client: "bond", Paused: true, Congested: true, CertificateEnds: hour})
	}}
	reg := prometheus.NewRegistry()
	reg.MustRegister(g)
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
		`backlog{callback="well",client="acme"} 2`, `oldest_waiting_seconds{callback="well",client="acme"} 0.5`,
		`backlog{callback="down",client="acme"} 40`,
		`failing_seconds{callback="down",client="acme",outcome="refused"} 36`,
		`circuit_open{callback="down",client="acme"} 1`,
		`failing_seconds{callback="taken",client="",outcome="unknown"} 36`,
		`retrying_orders{callback="down",client="acme"} 3`,
		`disabled_seconds{callback="off",client="bond",reason="gone"} 36`, `backlog{callback="off",client="bond"} 0`,
		`paused{callback="rests",client="bond"} 1`, `congested{callback="rests",client="bond"} 1`,
		`certificate_expires_seconds{callback="rests",client="bond"} -36`,
	} {
		if !strings.Contains(got.String(), fmt.Sprintf("audatex_relay_callback_%s", want)) {
			t.Errorf("%s is missing in:\n%s", want, got.String())
		}
	}
	if n := testutil.CollectAndCount(g); n != 2*5+8 {
		t.Errorf("%d series", n)
	}
	if problems, err := testutil.CollectAndLint(g); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// A thousand callbacks have two series each, and at most seven where each is in trouble.
func TestSeriesOfManyCallbacks(t *testing.T) {
	t.Parallel()
	const many = 1000
	series := func(of Condition) int {
		return testutil.CollectAndCount(Gauges{Each: func(_ context.Context, each func(Condition)) {
			for i := range many {
				of.Callback = fmt.Sprint("callback-", i)
				each(of)
			}
		}})
	}
	if n := series(Condition{}); n != 2*many {
		t.Errorf("%d series while all are well", n)
	}
	now := time.Now()
	if n := series(Condition{FailingSince: now, Open: true, Retrying: 1, Congested: true,
		CertificateEnds: now}); n > 7*many {
		t.Errorf("%d series while all are in trouble", n)
	}
}
