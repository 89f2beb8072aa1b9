package poller_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
)

// While any log takes nothing more, also one that polling does not write, nothing is taken out of the vendor's queue.
func TestNothingIsTakenWhileALogIsFull(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.start()
	ctx, cancel := context.WithCancel(t.Context())
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		_ = r.store.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-looked
	})
	eventually(t, "the subscription", r.subscribed)

	limit := func(bytes int64) {
		t.Helper()
		js := r.store.JetStream()
		s, err := js.Stream(t.Context(), r.store.Topology().Attempts())
		if err != nil {
			t.Fatal(err)
		}
		c := s.CachedInfo().Config
		c.MaxBytes, c.Discard = bytes, jetstream.DiscardNew
		if _, err := js.UpdateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	limit(1)
	if results := r.store.Attempts.AppendAll(t.Context(),
		[]relay.AttemptBatch{{Callback: "receiver"}}); results[0].Err == nil {
		t.Fatal("a full log has taken something")
	}
	if err := r.poller.PollNow(t.Context(), "a"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a poll that was asked for was answered %v", err)
	}
	polls, since := r.polls(), time.Now()
	eventually(t, "no poll for a second", func() bool {
		if n := r.polls(); n != polls { // under way when it filled up
			polls, since = n, time.Now()
		}
		return time.Since(since) > time.Second
	})
	r.order()
	since = time.Now()
	eventually(t, "a second", func() bool { return time.Since(since) > time.Second })
	if n := r.polls() - polls; n > 0 {
		t.Fatalf("%d polls while a log is full", n)
	}
	limit(-1)
	eventually(t, "a poll can be asked for", func() bool { return r.poller.PollNow(t.Context(), "a") == nil })
	eventually(t, "polling goes on", func() bool { _, n := r.notifications("a"); return n == 1 })
}
