package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// A watch whose server has died shows nothing until its watcher misses heartbeats. What is written
// meanwhile is heard all the same, each change once and in order, also when the watch is back.
func TestAChangeIsHeardThoughTheServerOfTheWatchHasDied(t *testing.T) {
	t.Parallel()
	cluster := natstest.NewCluster(t)
	o := newOutage(t, cluster.Connect(t), 3)
	revision, err := o.Connections.Create(t.Context(), "leeds", relay.Connection{ID: "leeds"})
	if err != nil {
		t.Fatal(err)
	}

	type change struct {
		revision uint64
		deleted  bool
	}
	heard, ready := make(chan change, 100), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = o.Connections.Watch(ctx, func(e store.Entry[relay.Connection]) { heard <- change{e.Revision, e.Deleted} },
			func() { close(ready) },
			func(key string, err error) { t.Errorf("%s: %v", key, err) })
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	<-ready
	if first := <-heard; first.revision != revision {
		t.Fatalf("heard %+v, want revision %d", first, revision)
	}

	stream, err := o.js.Stream(t.Context(), "KV_relay_connections")
	if err != nil {
		t.Fatal(err)
	}
	consumers, server := stream.ListConsumers(t.Context()), -1
	for c := range consumers.Info() {
		if _, err := fmt.Sscanf(c.Cluster.Leader, "n%d", &server); err != nil {
			t.Fatal(err)
		}
	}
	if err := consumers.Err(); err != nil || server < 0 {
		t.Fatalf("the watch lives on no server: %v", err)
	}
	cluster.Stop(server)

	hear := func(want change) {
		t.Helper()
		written := time.Now()
		select {
		case got := <-heard:
			if got != want {
				t.Fatalf("heard %+v, want %+v", got, want)
			}
			t.Logf("heard after %s", time.Since(written))
		case <-time.After(5 * time.Second): // a watch is silent for ten
			t.Fatalf("%+v is not heard", want)
		}
	}
	until(t, "a write without the server", func() bool {
		next, err := o.Connections.Update(t.Context(), "leeds", relay.Connection{ID: "leeds", Paused: true}, revision)
		if err != nil { // its response may have been lost
			_, revision, _ = o.Connections.Get(t.Context(), "leeds")
			return false
		}
		revision = next
		return true
	})
	for settled := false; !settled; { // writes whose responses were lost may be reported before
		select {
		case got := <-heard:
			settled = got.revision == revision
		case <-time.After(5 * time.Second):
			t.Fatal("the first write is not heard")
		}
	}
	for range 3 {
		if revision, err = o.Connections.Update(t.Context(), "leeds",
			relay.Connection{ID: "leeds"}, revision); err != nil {
			t.Fatal(err)
		}
		hear(change{revision: revision})
	}
	if err := o.Connections.Delete(t.Context(), "leeds", revision); err != nil {
		t.Fatal(err)
	}
	hear(change{revision: revision + 1, deleted: true})

	cluster.Start(t, server)
	until(t, "the watch to be made anew", func() bool {
		n := 0
		for range stream.ListConsumers(t.Context()).Info() {
			n++
		}
		return n > 0
	})
	if revision, err = o.Connections.Create(t.Context(), "york", relay.Connection{ID: "york"}); err != nil {
		t.Fatal(err)
	}
	hear(change{revision: revision})
}
