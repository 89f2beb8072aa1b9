package topology_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/topology"
)

var table = topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour}

func open(t *testing.T) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc := natstest.Start(t)
	return nc, newJS(t, nc)
}

func newJS(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func apply(t *testing.T, js jetstream.JetStream, table topology.Topology) {
	t.Helper()
	if err := natstest.Patiently(func() error { return table.Apply(t.Context(), js) }); err != nil {
		t.Fatal(err)
	}
}

// found returns the finding of one stream.
func found(t *testing.T, js jetstream.JetStream, table topology.Topology, stream string) topology.Finding {
	t.Helper()
	findings, err := table.Check(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		if f.Stream == stream {
			return f
		}
	}
	t.Fatalf("no finding of stream %s", stream)
	return topology.Finding{}
}

func config(t *testing.T, js jetstream.JetStream, stream string) jetstream.StreamConfig {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}

func change(t *testing.T, js jetstream.JetStream, stream string, edit func(*jetstream.StreamConfig)) {
	t.Helper()
	c := config(t, js, stream)
	edit(&c)
	if _, err := js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func TestApplyMakesWhatCheckThenFindsInOrder(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	for _, f := range check(t, js, table) {
		if f.State != topology.StateMissing {
			t.Errorf("before: %+v", f)
		}
	}
	if names := names(t, js); len(names) != 0 {
		t.Fatalf("a check made %v", names)
	}
	for range 2 {
		apply(t, js, table)
		for _, f := range check(t, js, table) {
			if f.State != topology.StateOK || f.Version != topology.Formats {
				t.Errorf("after: %+v", f)
			}
		}
	}
	if got, want := len(names(t, js)), 4+len(topology.Buckets); got != want {
		t.Errorf("%d streams, want %d", got, want)
	}
}

// A bucket must be what nats.go makes of the same description: its key-value functions rely on it.
func TestBucketsAreThoseOfTheLibrary(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	for _, c := range table.KeyValues() {
		if _, err := js.CreateKeyValue(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range check(t, js, table) {
		if !strings.HasPrefix(f.Stream, "KV_") {
			continue
		}
		if f.State != topology.StateDiffers || len(f.Differences) != 1 ||
			f.Differences[0].Field != "metadata.audatex-relay" {
			t.Errorf("%s: %s, %v", f.Stream, f.State, f.Differences)
		}
	}
}

func TestThreeRelaysApplyAtOnce(t *testing.T) {
	t.Parallel()
	nc, _ := open(t)
	var all sync.WaitGroup
	for range 3 {
		js := newJS(t, nc)
		all.Go(func() {
			if err := table.Apply(t.Context(), js); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	m, err := table.ReadMark(t.Context(), newJS(t, nc))
	if err != nil || m.Formats != topology.Formats {
		t.Fatalf("a fresh store's mark is %+v, %v", m, err)
	}
}

func TestSomebodyElsesStreamIsLeftAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, says string
		config     jetstream.StreamConfig
	}{
		{"subjects",
			`stream relay_inbox is not the relay's and is left alone: .*subjects is ["orders.>"], wanted ["relay.inbox.*.*"]`, jetstream.StreamConfig{Name: "relay_inbox", Subjects: []string{"orders.>"}}},
		{"storage", `storage is "memory", wanted "file"`, jetstream.StreamConfig{Name: "relay_inbox",
			Subjects: []string{"relay.inbox.*.*"}, Storage: jetstream.MemoryStorage}},
		{"retention", `retention is "workqueue", wanted "limits"`, jetstream.StreamConfig{Name: "relay_inbox",
			Subjects: []string{"relay.inbox.*.*"}, Retention: jetstream.WorkQueuePolicy}},
		{"mirror", `mirror is {`,
			jetstream.StreamConfig{Name: "relay_inbox", Mirror: &jetstream.StreamSource{Name: "origin"}}},
		{"sources", `sources is [`,
			jetstream.StreamConfig{Name: "KV_relay_orders", Sources: []*jetstream.StreamSource{{Name: "origin"}}}},
		{"plain", `left alone`, jetstream.StreamConfig{Name: "relay_attempts", Subjects: []string{"relay.attempts.*"}}},
		{"overlap", `its subjects [relay.inbox.*.*] belong to stream other, which is not the relay's`,
			jetstream.StreamConfig{Name: "other", Subjects: []string{"relay.>"}}},
		{"mark", `metadata.audatex-relay is "two", wanted a version`, jetstream.StreamConfig{Name: "relay_inbox",
			Subjects: []string{"relay.inbox.*.*"}, Metadata: map[string]string{"audatex-relay": "two"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, js := open(t)
			if _, err := js.CreateStream(t.Context(),
				jetstream.StreamConfig{Name: "origin", Subjects: []string{"origin"}}); err != nil {
				t.Fatal(err)
			}
			if _, err := js.CreateStream(t.Context(), c.config); err != nil {
				t.Fatal(err)
			}
			before := config(t, js, c.config.Name)
			err := table.Apply(t.Context(), js)
			if !errors.Is(err, topology.ErrForeign) || !contains(err.Error(), c.says) {
				t.Errorf("refused with %v, want %s", err, c.says)
			}
			if after := config(t, js, c.config.Name); !equalJSON(t, before, after) {
				t.Errorf("it was changed from %+v to %+v", before, after)
			}
			if len(names(t, js)) != 2 {
				t.Errorf("streams were made beside it: %v", names(t, js))
			}
		})
	}
}

// A stream with our mark holds what is ours, no matter how it was changed. It is refused, with all
// that differs, and no message advises to delete it.
func TestOurStreamThatWasChangedIsToBeSetBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		edit func(*jetstream.StreamConfig)
		says []string
	}{
		"republish": {func(c *jetstream.StreamConfig) { c.RePublish = nil }, []string{`republish is unset, wanted {`}},
		"subject": {func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "orders.>") }, []string{
			`subjects is ["relay.publish.>","orders.>"], wanted ["relay.publish.>"]`,
		}},
		"sealed": {func(c *jetstream.StreamConfig) { c.Sealed = true }, []string{`sealed is true, wanted unset`}},
		"several": {func(c *jetstream.StreamConfig) {
			c.RePublish, c.DenyPurge, c.MaxAge, c.Duplicates = nil, true, 90*time.Minute, time.Minute
		}, []string{
			`republish is unset, wanted {`, `deny_purge is true, wanted unset`, `max_age is 1h30m0s, wanted 1h0m0s`,
			`duplicate_window is 1m0s, wanted 1s`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, js := open(t)
			apply(t, js, table)
			change(t, js, "relay_events", c.edit)
			before := config(t, js, "relay_events")
			if f := found(t, js, table, "relay_events"); f.State != topology.StateChanged ||
				f.Version != topology.Formats {
				t.Errorf("found %+v", f)
			}
			err := table.Apply(t.Context(), js)
			if !errors.Is(err, topology.ErrRefused) || errors.Is(err, topology.ErrForeign) {
				t.Fatalf("applied: %v", err)
			}
			text := err.Error()
			for _, says := range append(c.says, "stream relay_events is the relay's but was changed", "Set it back") {
				if !strings.Contains(text, says) {
					t.Errorf("%q is not in: %s", says, text)
				}
			}
			if contains(strings.ToLower(text), "delete or") || strings.Contains(text, "PREFIX") {
				t.Errorf("bad advice: %s", text)
			}
			if after := config(t, js, "relay_events"); !equalJSON(t, before, after) {
				t.Errorf("it was changed from %+v to %+v", before, after)
			}
		})
	}
}

// Check must not promise that Apply makes a stream that the server would refuse for its subjects.
func TestTheHolderOfOurSubjectsIsNamed(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	for name, subject := range map[string]string{"other": "relay.inbox.32.a", "mirror-of-keys": "$KV.relay_orders.>"} {
		if _, err := js.CreateStream(t.Context(),
			jetstream.StreamConfig{Name: name, Subjects: []string{subject}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range check(t, js, table) {
		want := map[string]string{"relay_inbox": "other", "KV_relay_orders": "mirror-of-keys"}[f.Stream]
		switch {
		case want == "" && f.State != topology.StateMissing:
			t.Errorf("%+v", f)
		case want != "" && (f.State != topology.StateForeign || f.Holder != want || len(f.Differences) != 1 ||
			f.Differences[0].Found != "held by stream "+want):
			t.Errorf("%+v", f)
		}
	}
	if err := table.Apply(t.Context(), js); !errors.Is(err, topology.ErrForeign) ||
		!errors.Is(err, topology.ErrRefused) {
		t.Errorf("applied: %v", err)
	}
	for _, name := range []string{"other", "mirror-of-keys"} {
		if err := js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, js, table)
}

// What an operator may set stays; what is ours to set is set again.
func TestOperatorsChangesAreKept(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	apply(t, js, table)
	change(t, js, "relay_events", func(c *jetstream.StreamConfig) {
		c.MaxBytes, c.MaxMsgs, c.Compression, c.Description = 1<<30, 1e6, jetstream.S2Compression, "the log of leeds"
		c.Metadata["team"] = "orders"
		c.Placement = &jetstream.Placement{Tags: []string{"ssd"}}
	})
	if f := found(t, js, table, "relay_events"); f.State != topology.StateOK {
		t.Fatalf("harmless changes: %+v", f)
	}
	change(t, js, "relay_events", func(c *jetstream.StreamConfig) {
		c.Discard, c.MaxMsgsPerSubject, c.MaxAge = jetstream.DiscardOld, 5, time.Minute
	})
	f := found(t, js, table, "relay_events")
	if f.State != topology.StateDiffers || len(f.Differences) != 3 {
		t.Fatalf("%+v", f)
	}
	if got := f.Differences[0].String(); got != `discard is "old", wanted "new"` {
		t.Error(got)
	}
	apply(t, js, table)
	c := config(t, js, "relay_events")
	if c.Discard != jetstream.DiscardNew || c.MaxMsgsPerSubject > 0 || c.MaxAge != time.Hour {
		t.Errorf("not set again: %+v", c)
	}
	if c.MaxBytes != 1<<30 || c.MaxMsgs != 1e6 || c.Compression != jetstream.S2Compression ||
		c.Description != "the log of leeds" ||
		c.Metadata["team"] != "orders" || c.Placement == nil || c.Placement.Tags[0] != "ssd" {
		t.Errorf("an operator's change was undone: %+v", c)
	}
}

func TestRetentionFollowsTheSetting(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	apply(t, js, table)
	longer := table
	longer.Retention = 48 * time.Hour
	apply(t, js, longer)
	if c := config(t, js, "relay_inbox"); c.MaxAge != 48*time.Hour || c.Duplicates != 2*time.Minute {
		t.Errorf("%+v", c)
	}
}

// Streams without our mark count as ours if they match the table exactly, as when an operator has
// made them. Documents without the mark of the formats count as version 1: a power cut in a store's
// first second leaves them so.
func TestUnmarkedStreamsOfTheSameShapeAreTakenOver(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	for _, c := range table.Streams() {
		if _, err := js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range table.KeyValues() {
		if _, err := js.CreateKeyValue(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := js.Publish(t.Context(), "$KV.relay_connections.leeds", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	apply(t, js, table)
	for _, f := range check(t, js, table) {
		if f.State != topology.StateOK || f.Version != topology.Formats {
			t.Errorf("%+v", f)
		}
	}
	if m, err := table.ReadMark(t.Context(), js); err != nil || m.Formats != 1 {
		t.Errorf("what lay there before the mark has version 1, not %+v, %v", m, err)
	}
}

func TestAnUnmarkedStreamOfAnotherRetentionIsLeftAlone(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	c := table.Streams()[0]
	c.MaxAge = 48 * time.Hour
	if _, err := js.CreateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := table.Apply(t.Context(), js); !errors.Is(err, topology.ErrForeign) ||
		!contains(err.Error(), "max_age is 48h0m0s, wanted 1h0m0s") {
		t.Errorf("applied: %v", err)
	}
	if now := config(t, js, c.Name); now.MaxAge != c.MaxAge {
		t.Errorf("it was changed to %+v", now)
	}
}

// A relay that is rolled back, or not yet rolled forward, leaves the shape that a newer one has
// given.
func TestAnOlderTableDoesNotUndoANewerOne(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	apply(t, js, table)
	change(t, js, "KV_relay_orders", func(c *jetstream.StreamConfig) {
		c.Metadata["audatex-relay"], c.MaxMsgsPerSubject = "3", 2
	})
	apply(t, js, table)
	if c := config(t, js, "KV_relay_orders"); c.MaxMsgsPerSubject != 2 || c.Metadata["audatex-relay"] != "3" {
		t.Errorf("%+v", c)
	}
}

func TestUnknownStreamsOfOurPrefixAreListed(t *testing.T) {
	t.Parallel()
	_, js := open(t)
	apply(t, js, table)
	for _, name := range []string{"relay_invoices", "other_invoices", "KV_relay_extra"} {
		if _, err := js.CreateStream(t.Context(),
			jetstream.StreamConfig{Name: name, Subjects: []string{name}}); err != nil {
			t.Fatal(err)
		}
	}
	var unknown []string
	for _, f := range check(t, js, table) {
		if f.State == topology.StateUnknown {
			unknown = append(unknown, f.Stream)
		}
	}
	if got := strings.Join(unknown, " "); got != "KV_relay_extra relay_invoices" {
		t.Error(got)
	}
	apply(t, js, table)
	if len(names(t, js)) != 4+len(topology.Buckets)+3 {
		t.Error("an unknown stream was removed")
	}
}

func TestReplicasAreRaisedNotLowered(t *testing.T) {
	t.Parallel()
	cluster := natstest.NewCluster(t)
	js := newJS(t, cluster.Connect(t))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	apply(t, js, table)
	if c := config(t, js, "relay_events"); c.Replicas != 1 {
		t.Fatalf("%d replicas", c.Replicas)
	}
	// The client's server may not know yet which server listens for the stream.
	if _, err := js.Publish(ctx, "relay.inbox.56.leeds", []byte("[]"), jetstream.WithRetryAttempts(100)); err != nil {
		t.Fatal(err)
	}
	three := table
	three.Replicas = 3
	if f := found(t, js, three, "relay_inbox"); f.State != topology.StateDiffers ||
		f.Differences[0].String() != "num_replicas is 1, wanted 3" {
		t.Fatalf("%+v", f)
	}
	apply(t, js, three)
	for _, name := range []string{"relay_inbox", "relay_events", "KV_relay_orders"} {
		if c := config(t, js, name); c.Replicas != 3 {
			t.Errorf("%s has %d replicas", name, c.Replicas)
		}
	}
	apply(t, js, table) // a relay with a lower setting
	if c := config(t, js, "relay_events"); c.Replicas != 3 {
		t.Errorf("lowered to %d", c.Replicas)
	}
	s, err := js.Stream(ctx, "relay_inbox")
	if err != nil || s.CachedInfo().State.Msgs != 1 {
		t.Errorf("the page is gone: %+v, %v", s, err)
	}
}

// A cluster that has just come together may report for a moment that it has too few servers. Apply
// waits for that, and for nothing else.
func TestApplyWaitsForTheServersOfACluster(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t)
	refusals, code := atomic.Int64{}, atomic.Int64{}
	api, err := nc.Subscribe("young.API.>", func(m *nats.Msg) {
		what := strings.TrimPrefix(m.Subject, "young.API.")
		if strings.HasPrefix(what, "STREAM.CREATE.") && refusals.Add(-1) >= 0 {
			_ = m.Respond(fmt.Appendf(nil, `{"error":{"code":400,"err_code":%d,`+
				`"description":"no suitable peers for placement, peer offline"}}`, code.Load()))
			return
		}
		if answer, err := nc.Request(jetstream.DefaultAPIPrefix+what, m.Data, 10*time.Second); err == nil {
			_ = m.Respond(answer.Data)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = api.Unsubscribe() }()
	js, err := jetstream.NewWithAPIPrefix(nc, "young.API")
	if err != nil {
		t.Fatal(err)
	}
	refusals.Store(1)
	code.Store(10023) // insufficient resources
	if err := table.Apply(t.Context(), js); err == nil {
		t.Error("another answer was waited for")
	}
	refusals.Store(3)
	code.Store(10005)
	if err := table.Apply(t.Context(), js); err != nil || refusals.Load() >= 0 {
		t.Errorf("%v, with %d refusals left", err, refusals.Load()+1)
	}
}
