package poller

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// inbox is a store whose inbox can be shut.
func inbox(t *testing.T) (s *store.Store, shut *atomic.Bool, writes *atomic.Int64) {
	t.Helper()
	shut, writes = new(atomic.Bool), new(atomic.Int64)
	s, err := store.Open(t.Context(), store.Config{
		Conn: natstest.Start(t), Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
		Log: slog.New(slog.DiscardHandler),
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

// TestWhatWasReadIsKeptWhoeverOwnsTheConnection: a shard is given up while the inbox takes nothing. The page stays with
// the process and reaches the inbox when that takes writes again, also if by then the process is told to stop.
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
		page := store.Page{PollID: poll, Connection: "leeds", Generation: "g",
			ReceivedAt: time.Now(), Body: []byte("[]")}
		if _, fate := r.storePage(storing, page,
			audatex.ReadContents(audatex.Page{Body: page.Body})); fate != pageLeft {
			t.Fatal("stored while the inbox is shut")
		}
		if !p.leftPages.has(poll) {
			t.Fatal("not kept")
		}
	}
	keep("one")
	keep("two")
	shut.Store(false)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); len(p.leftPages.list()) > 0; <-tick.C {
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

// TestAPageIsStoredOnceHoweverLateItIsTriedAgain: a try whose response was lost has stored the page, and the inbox has
// forgotten its poll id since.
func TestAPageIsStoredOnceHoweverLateItIsTriedAgain(t *testing.T) {
	t.Parallel()
	s, _, writes := inbox(t)
	p := New(Config{Store: s, Log: slog.New(slog.DiscardHandler)})
	page := store.Page{PollID: "lost answer", Connection: "leeds", Generation: "g",
		ReceivedAt: time.Now(), Body: []byte("[]")}
	for _, poll := range []string{"before", "lost answer", "after"} {
		other := page
		other.PollID = poll
		if _, err := s.Inbox.Append(t.Context(), other); err != nil {
			t.Fatal(err)
		}
	}
	before := writes.Load()
	h := newUnstoredPage(page, audatex.ReadContents(audatex.Page{Body: page.Body}), 1)
	h.since, h.tries = time.Now().Add(-2*onceFor), 1
	if seq, err := p.put(t.Context(), h); err != nil || seq != 2 {
		t.Fatalf("found at %d, %v", seq, err)
	}
	if writes.Load() != before {
		t.Fatal("written again")
	}
	h.page.PollID, h.next.PollID = "never stored", "never stored"
	if seq, err := p.put(t.Context(), h); err != nil || seq != 4 {
		t.Fatalf("stored at %d, %v", seq, err)
	}
}

// A runner may have to end before it has begun: its shard was given up while the runner before it drained.
func TestARunnerThatNeverBeganEndsAtOnce(t *testing.T) {
	t.Parallel()
	s, _, _ := inbox(t)
	p := New(Config{Store: s, Session: strangers(t, s), Interval: time.Hour, Log: slog.New(slog.DiscardHandler)})
	ctx, end := context.WithCancel(t.Context())
	end()
	r := &runner{p: p, log: p.Log, lease: shardtest.Fixed(0, 5), connection: relay.Connection{ID: "leeds"}}
	if wait, goesOn := r.Turn(ctx); goesOn {
		t.Errorf("it goes on in %s", wait)
	}
	if p.pace.ordinary != 0 {
		t.Errorf("%f polls a second are expected of it", p.pace.ordinary)
	}
}

// strangers makes sessions with a vendor that is never called.
func strangers(t *testing.T, s *store.Store) func(relay.Connection) *audatex.Session {
	t.Helper()
	client, err := audatex.New(audatex.Config{BaseURL: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := audatex.NewTokens(audatex.TokensConfig{TokenURL: "http://127.0.0.1:1", Store: s.Tokens})
	if err != nil {
		t.Fatal(err)
	}
	return func(c relay.Connection) *audatex.Session { return audatex.NewSession(client, tokens, c.ID, c.Level) }
}

// What is remembered of polls that were never sent is forgotten once it can matter no more.
func TestAPollThatWasNotSentIsForgotten(t *testing.T) {
	t.Parallel()
	s, shut, _ := inbox(t)
	told := &counting{}
	p := New(Config{Store: s, Session: strangers(t, s), Log: slog.New(slog.DiscardHandler), Operations: told,
		Reconciler: told, PollBound: time.Minute})
	unsent := func(when string, want bool) {
		t.Helper()
		if _, remembered := p.unsentPolls.Load("leeds"); remembered != want {
			t.Errorf("%s: remembered: %v", when, remembered)
		}
	}
	refused := func(epoch uint64) *runner {
		t.Helper()
		r := &runner{p: p, log: p.Log, lease: shardtest.Fixed(0, epoch), generation: "g",
			connection: relay.Connection{ID: "leeds", Generation: "g"}}
		if !r.adopt(t.Context()) {
			t.Fatal("not adopted")
		}
		unsent("adopted", false)
		shut.Store(true)
		if err := r.announce(t.Context(), "poll"); err == nil {
			t.Fatal("announced while the store is shut")
		}
		shut.Store(false)
		unsent("not announced", true)
		return r
	}
	r := refused(3)
	if err := r.saveLate(t.Context()); err != nil {
		t.Fatal(err)
	}
	unsent("the document was stored afterwards", false)

	refused(5) // and is followed by
	r = refused(7)
	ctx, end := context.WithCancel(t.Context())
	end()
	r.Turn(ctx)
	unsent("the connection is gone", false)
}

// counting counts operational events.
type counting struct{ told int }

func (c *counting) Once(
	context.Context, string, relay.Kind, string, string, map[string]any, time.Time, ...string,
) error {
	c.told++
	return nil
}

func (c *counting) Operational(context.Context, string, relay.Kind, string, string, map[string]any) error {
	c.told++
	return nil
}

func (c *counting) Suspected(string, relay.Poll) {}

// TestAnAnnouncementThatIsStoredAfterAllIsNoGap: a write that was not answered may still be carried out when the store
// is back. Of a poll announced like that nothing was sent, which its own process knows when it takes the connection
// again.
func TestAnAnnouncementThatIsStoredAfterAllIsNoGap(t *testing.T) {
	t.Parallel()
	s, shut, _ := inbox(t)
	told := &counting{}
	p := New(Config{Store: s, Log: slog.New(slog.DiscardHandler), Operations: told,
		Reconciler: told, PollBound: time.Minute})
	under := func(epoch uint64) *runner {
		return &runner{p: p, log: p.Log, lease: shardtest.Fixed(0, epoch), generation: "g",
			connection: relay.Connection{ID: "leeds", Generation: "g"}}
	}
	shut.Store(true)
	if err := under(3).announce(t.Context(), "unheard"); err == nil {
		t.Fatal("announced while the store is shut")
	}
	shut.Store(false)
	for _, poll := range []string{"unheard", "sent"} {
		now := time.Now()
		doc := relay.Poll{Generation: "g", Epoch: 3,
			Intent: &relay.PollIntent{PollID: poll, Owner: p.nonce, At: now, Deadline: now.Add(time.Minute)}}
		if _, err := s.Polls.Create(t.Context(), "leeds", doc); err != nil {
			t.Fatal(err)
		}
		r := under(5)
		if !r.adopt(t.Context()) || r.doc.Intent != nil {
			t.Fatalf("%s: not adopted: %+v", poll, r.doc)
		}
		if suspected := told.told > 0 || r.doc.GapSuspectedAt != nil; suspected != (poll == "sent") {
			t.Errorf("%s: a gap is suspected: %v", poll, suspected)
		}
		if err := s.Polls.Delete(t.Context(), "leeds", 0); err != nil {
			t.Fatal(err)
		}
	}
}
