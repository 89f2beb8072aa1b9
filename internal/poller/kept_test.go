package poller

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// inbox is a store whose inbox can be shut.
func inbox(t *testing.T) (s *store.Store, shut *atomic.Bool, writes *atomic.Int64) {
	t.Helper()
	shut, writes = new(atomic.Bool), new(atomic.Int64)
	s, err := store.Open(t.Context(), store.Config{
		Conn: natstest.Start(t), Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour}, Log: slog.New(slog.DiscardHandler),
		Gate: store.Gate{Before: func(store.Write) error {
			if shut.Load() {
				return store.ErrUnavailable
			}
			writes.Add(1)
			return nil
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, shut, writes
}

func pagesOf(t *testing.T, s *store.Store, connection string) []store.Page {
	t.Helper()
	pages, _, err := s.Inbox.Scan(t.Context(), connection, 1, 10)
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

// TestWhatWasReadIsKeptWhoeverOwnsTheConnection: a shard is given up while the inbox takes nothing. The page stays with the process and
// reaches the inbox when that takes writes again, also if by then the process is told to stop.
func TestWhatWasReadIsKeptWhoeverOwnsTheConnection(t *testing.T) {
	t.Parallel()
	s, shut, _ := inbox(t)
	shut.Store(true)
	p := New(Config{Store: s, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Run(ctx) }()
	keep := func(poll string) {
		t.Helper()
		storing, giveUp := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer giveUp()
		r := &runner{p: p, log: p.Log}
		if _, ok := r.keep(storing, store.Page{PollID: poll, Connection: "leeds", Generation: "g", ReceivedAt: time.Now(), Body: []byte("[]")}); ok {
			t.Fatal("stored while the inbox is shut")
		}
		if !p.kept.holds(poll) {
			t.Fatal("not kept")
		}
	}
	keep("one")
	keep("two")
	shut.Store(false)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); len(p.kept.list()) > 0; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("still kept after 30 s")
		}
	}
	if pages := pagesOf(t, s, "leeds"); len(pages) != 2 || pages[0].PollID != "one" || pages[1].PollID != "two" {
		t.Fatalf("pages %+v", pages)
	}
	shut.Store(true)
	keep("three")
	shut.Store(false)
	cancel()
	<-done
	if pages := pagesOf(t, s, "leeds"); len(pages) != 3 || pages[2].PollID != "three" {
		t.Fatalf("pages %+v", pages)
	}
}

// TestAPageIsStoredOnceHoweverLateItIsTriedAgain: a try whose answer was lost has stored the page, and the inbox has forgotten its poll id since.
func TestAPageIsStoredOnceHoweverLateItIsTriedAgain(t *testing.T) {
	t.Parallel()
	s, _, writes := inbox(t)
	p := New(Config{Store: s, Log: slog.New(slog.DiscardHandler)})
	page := store.Page{PollID: "lost answer", Connection: "leeds", Generation: "g", ReceivedAt: time.Now(), Body: []byte("[]")}
	for _, poll := range []string{"before", "lost answer", "after"} {
		other := page
		other.PollID = poll
		if _, err := s.Inbox.Append(t.Context(), other); err != nil {
			t.Fatal(err)
		}
	}
	before := writes.Load()
	h := &held{page: page, after: 1, since: time.Now().Add(-2 * onceFor), tries: 1}
	if seq, err := p.put(t.Context(), h); err != nil || seq != 2 {
		t.Fatalf("found at %d, %v", seq, err)
	}
	if writes.Load() != before {
		t.Fatal("written again")
	}
	h.page.PollID = "never stored"
	if seq, err := p.put(t.Context(), h); err != nil || seq != 4 {
		t.Fatalf("stored at %d, %v", seq, err)
	}
}
