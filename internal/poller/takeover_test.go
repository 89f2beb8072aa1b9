package poller_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/poller"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
	"github.com/audatex-relay/relay/internal/store"
)

// replica is one poller among several on a store.
type replica struct {
	*poller.Poller
	r *rig
}

// replica starts a poller that holds nothing yet. It has its own way to the store, with a gate.
func (r *rig) replica(g store.Gate, change func(*poller.Config)) *replica {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := poller.Config{
		Store: r.open(g), Operations: r, Reconciler: r, Interval: 20 * time.Millisecond,
		PollBound: r.client.PollBound(), Grace: 5 * time.Second,
		Log: slog.New(slog.NewTextHandler(r, nil)),
		Session: func(c relay.Connection) *audatex.Session {
			return audatex.NewSession(r.client, r.tokens, c.ID, c.Level)
		},
	}
	if change != nil {
		change(&c)
	}
	p := &replica{poller.New(c), r}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Run(ctx)
	}()
	r.t.Cleanup(func() {
		cancel()
		<-done
	})
	return p
}

// own holds the shard of a connection until giveUp, which waits for the drain.
func (p *replica) own(connection string, epoch uint64) (lease *shardtest.Manual, giveUp func()) {
	lease = shardtest.NewManual(relay.ShardOf(connection), epoch)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Own(ctx, lease.Lease)
	}()
	giveUp = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	p.r.t.Cleanup(giveUp)
	return lease, giveUp
}

// polls counts the polls that the vendor was sent.
func (r *rig) polls() int64 { return r.sandbox.Counters().Requests[sandbox.OpPoll] }

// document reads a connection's poll document.
func (r *rig) document(id string) relay.Poll {
	doc, _, err := r.store.Polls.Get(r.t.Context(), id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		r.t.Error(err)
	}
	return doc
}

// announced makes a connection in whose document another process's intent stands.
func (r *rig) announced(id string, in relay.PollIntent) relay.Connection {
	r.t.Helper()
	c := r.connect(id)
	subscription, err := audatex.NewSession(r.client, r.tokens, c.ID, c.Level).Subscribe(r.t.Context(), poller.Topic)
	if err != nil {
		r.t.Fatal(err)
	}
	doc := relay.Poll{Epoch: 3, Generation: c.Generation, SubscriptionID: subscription, Intent: &in}
	if _, err := r.store.Polls.Create(r.t.Context(), id, doc); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// A poll of another process has ended by its deadline, whatever the clocks show, and nobody polls before.
func TestTheIntentOfAnotherProcessIsWaitedFor(t *testing.T) {
	t.Parallel()
	const soon, late = 1500 * time.Millisecond, 30 * time.Minute // the second is not waited for
	for name, c := range map[string]struct {
		at        time.Duration // of the intent, from now
		stated    time.Duration // from then to its deadline
		exclusive bool
		least     time.Duration
	}{
		"just announced":         {at: 0, stated: soon, least: soon},
		"its deadline is over":   {at: -time.Hour, stated: late},
		"its clock is far ahead": {at: time.Hour, stated: soon, least: soon},
		"no other process":       {at: 0, stated: late, exclusive: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, sandbox.Config{})
			now := time.Now()
			in := relay.PollIntent{PollID: relay.NewID(), Owner: "another", At: now.Add(c.at),
				Deadline: now.Add(c.at + c.stated)}
			r.announced("a", in)
			p := r.replica(store.Gate{}, func(conf *poller.Config) { conf.Exclusive = c.exclusive })
			p.own("a", 7)
			eventually(t, "it polls", func() bool { return r.polls() > 0 })
			if took := time.Since(now); took < c.least-50*time.Millisecond {
				t.Errorf("polled after %s, want %s", took, c.least)
			}
			if n := r.told(relay.KindGapSuspected); n != 1 {
				t.Errorf("%d gaps told, want 1", n)
			}
			eventually(t, "the outcome", func() bool { return r.document("a").Outcome != nil })
			if doc := r.document("a"); doc.Epoch != 7 || doc.GapSuspectedAt == nil || !doc.GapSuspectedAt.Equal(in.At) {
				t.Errorf("document: %+v", doc)
			}
		})
	}
}

// The process that polled is well and only late: its outcome, or its page, is the end of the wait, and no gap.
func TestTheEndOfAnotherProcessesPollIsFound(t *testing.T) {
	t.Parallel()
	for _, late := range []string{"outcome", "page", "page and a later one"} {
		t.Run(late, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, sandbox.Config{})
			now := time.Now()
			stated := 2 * time.Second
			if late == "outcome" {
				stated = time.Hour
			}
			in := relay.PollIntent{PollID: relay.NewID(), Owner: "another", At: now, Deadline: now.Add(stated)}
			c := r.announced("a", in)
			page := func(poll string) uint64 {
				seq, err := r.store.Inbox.Append(t.Context(), store.Page{PollID: poll, Connection: "a",
					Generation: c.Generation, ReceivedAt: now, Site: "leeds",
					Body: []byte(`[{"NotificationId":"5f0c0000-0000-4000-8000-000000000001"}]`)})
				if err != nil {
					t.Fatal(err)
				}
				return seq
			}
			doc, revision, err := r.store.Polls.Get(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			doc.InboxSeq = page(relay.NewID())
			if revision, err = r.store.Polls.Update(t.Context(), "a", doc, revision); err != nil {
				t.Fatal(err)
			}
			r.replica(store.Gate{}, nil).own("a", 7)
			eventually(t, "it waits", func() bool { return r.logged("waiting for its end") == 1 })
			if late == "outcome" {
				doc.Intent, doc.Outcome = nil, &relay.PollOutcome{PollID: in.PollID, At: now, Result: "done"}
				if _, err := r.store.Polls.Update(t.Context(), "a", doc, revision); err != nil {
					t.Fatal(err)
				}
			} else {
				page(in.PollID)
				if late == "page and a later one" {
					page(relay.NewID())
				}
			}
			eventually(t, "it polls", func() bool { return r.polls() > 0 })
			if n := r.told(relay.KindGapSuspected); n != 0 {
				t.Errorf("%d gaps told", n)
			}
		})
	}
}

// An owner is suspended with a page in its hands. Its successor waits, suspects a gap and polls on. When the first one
// wakes, what it holds reaches the inbox, and nothing else: not its outcome, not another poll.
func TestAnOwnerThatWakesUpWithAPage(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	at, woken := make(chan struct{}), make(chan struct{})
	hold := sync.OnceFunc(func() {
		close(at)
		<-woken
	})
	a := r.replica(store.Gate{Before: func(w store.Write) error {
		if strings.HasPrefix(w.Subject, "relay.inbox.") {
			hold()
		}
		return nil
	}}, func(c *poller.Config) { c.PollBound = 100 * time.Millisecond })
	lease, _ := a.own("a", 3)
	eventually(t, "the subscription", r.subscribed)
	r.order()
	<-at
	lease.Expire()
	intent := r.document("a").Intent

	b := r.replica(store.Gate{}, nil)
	other, _ := b.own("a", 8)
	before := r.polls()
	eventually(t, "the successor polls", func() bool { return r.polls() > before })
	if now := time.Now(); now.Before(intent.Deadline) {
		t.Errorf("%s before the end of the poll that was under way", intent.Deadline.Sub(now))
	}
	r.order()
	eventually(t, "the successor's page", func() bool { pages, _ := r.notifications("a"); return pages == 1 })
	close(woken)
	eventually(t, "the page of the one that woke", func() bool { _, n := r.notifications("a"); return n == 2 })
	eventually(t, "it steps back", func() bool { return errors.Is(a.PollNow(t.Context(), "a"), poller.ErrNotOwned) })
	if found := lease.Found(); len(found) != 1 || found[0] != 8 {
		t.Errorf("told the lease of %v", found)
	}
	if len(other.Found()) != 0 {
		t.Errorf("the successor steps back before %v", other.Found())
	}
	if doc := r.document("a"); doc.Epoch != 8 || doc.Outcome.PollID == intent.PollID {
		t.Errorf("document %+v", doc)
	}
	if n := r.told(relay.KindGapSuspected); n != 1 {
		t.Errorf("%d gaps told, want 1", n)
	}
	if n := r.sandbox.Counters().PollsOverlapping; n != 0 {
		t.Errorf("%d polls overlapped", n)
	}
}

// An owner is suspended between its intent and its call. When it wakes its lease has run out: it sends nothing, and
// steps back when it looks.
func TestAnOwnerThatWakesUpBeforeItsCall(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	c := r.connect("a")
	subscription, err := audatex.NewSession(r.client, r.tokens, c.ID, c.Level).Subscribe(t.Context(), poller.Topic)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.store.Polls.Create(t.Context(), "a",
		relay.Poll{Epoch: 2, Generation: c.Generation, SubscriptionID: subscription}); err != nil {
		t.Fatal(err)
	}
	r.order()
	at, woken := make(chan struct{}), make(chan struct{})
	hold := sync.OnceFunc(func() {
		close(at)
		<-woken
	})
	writes := 0
	a := r.replica(store.Gate{After: func(w store.Write) error {
		if strings.Contains(w.Subject, "_polls.") {
			if writes++; writes == 2 { // the first takes over, the second is the intent
				hold()
			}
		}
		return nil
	}}, func(c *poller.Config) { c.PollBound = 0 })
	lease, _ := a.own("a", 3)
	<-at
	lease.Expire()
	b := r.replica(store.Gate{}, func(c *poller.Config) { c.Exclusive = true }) // as if a minute had passed
	_, giveUp := b.own("a", 8)
	eventually(t, "the successor's page", func() bool { _, n := r.notifications("a"); return n == 1 })
	giveUp() // every poll from here on is the first one's
	polls := r.polls()
	close(woken)
	eventually(t, "it steps back", func() bool { return errors.Is(a.PollNow(t.Context(), "a"), poller.ErrNotOwned) })
	if found := lease.Found(); len(found) != 1 || found[0] != 8 {
		t.Errorf("told the lease of %v", found)
	}
	if n := r.polls(); n != polls {
		t.Errorf("%d polls by the one that woke", n-polls)
	}
}

// While the lease is not valid nothing is polled; when it is again, polling goes on where it was.
func TestALeaseThatIsNotValidStopsPolling(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	p := r.replica(store.Gate{}, nil)
	lease, _ := p.own("a", 3)
	eventually(t, "the outcome", func() bool { return r.document("a").Outcome != nil })
	lease.Expire()
	eventually(t, "the poll under way has ended", func() bool { return r.document("a").Intent == nil })
	last := r.polls()
	r.order()
	for range 20 {
		if err := p.PollNow(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond)
	}
	if now := r.polls(); now != last {
		t.Errorf("%d polls under a lease that is not valid", now-last)
	}
	lease.Renew(time.Hour)
	eventually(t, "it goes on", func() bool { _, n := r.notifications("a"); return n == 1 })
	if n := r.told(relay.KindGapSuspected); n != 0 {
		t.Errorf("%d gaps told", n)
	}
}

// A shard that changes hands is no reason to poll: the connection's turn comes when it would have come, unless somebody
// asks.
func TestAConnectionThatIsTakenOverIsPolledInItsTurn(t *testing.T) {
	t.Parallel()
	// the second is longer than anything is waited for; a first poll comes within a tenth of it
	const short, long = 3 * time.Second, 75 * time.Second
	for name, c := range map[string]struct {
		interval, ago time.Duration
		early         bool
	}{
		"in its turn":            {short, 0, false},
		"its turn is over":       {long, time.Hour, true},
		"its clock is far ahead": {short, -time.Hour, false},
		"asked for":              {long, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			interval, ago, early := c.interval, c.ago, c.early
			r := newRig(t, sandbox.Config{})
			c := r.connect("a")
			subscription, err := audatex.NewSession(r.client, r.tokens, c.ID,
				c.Level).Subscribe(t.Context(), poller.Topic)
			if err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			doc := relay.Poll{
				Epoch: 2, Generation: c.Generation, SubscriptionID: subscription,
				Outcome: &relay.PollOutcome{PollID: relay.NewID(), At: now.Add(-ago), Result: "done"},
			}
			if _, err := r.store.Polls.Create(t.Context(), "a", doc); err != nil {
				t.Fatal(err)
			}
			p := r.replica(store.Gate{}, func(c *poller.Config) { c.Interval = interval })
			p.own("a", 3)
			if name == "asked for" {
				eventually(t, "asked", func() bool { return p.PollNow(t.Context(), "a") == nil })
			}
			eventually(t, "it polls", func() bool { return r.polls() > 0 })
			if turn := poller.NextOrdinary("a", interval, now); !early && time.Now().Before(turn) {
				t.Errorf("polled %s before its turn", time.Until(turn))
			}
		})
	}
}

// Two replicas hand a connection back and forth while orders come in: each notification is stored once, no two polls
// overlap, and no gap is suspected.
func TestHandOverUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	replicas := []*replica{r.replica(store.Gate{}, nil), r.replica(store.Gate{}, nil)}
	orders := 0
	for round := range 12 {
		p := replicas[round%2]
		_, giveUp := p.own("a", uint64(round+1))
		if round == 0 {
			eventually(t, "the subscription", r.subscribed)
		}
		for range 20 {
			r.order()
			orders++
		}
		before := r.polls()
		eventually(t, "some polls", func() bool { return r.polls() > before+int64(round%4) })
		giveUp()
	}
	_, giveUp := replicas[0].own("a", 100)
	defer giveUp()
	eventually(t, "everything is stored", func() bool { _, n := r.notifications("a"); return n >= orders })
	if _, n := r.notifications("a"); n != orders {
		t.Errorf("%d notifications stored of %d", n, orders)
	}
	if n := r.told(relay.KindGapSuspected); n != 0 {
		t.Errorf("%d gaps told", n)
	}
	if c := r.sandbox.Counters(); c.PollsOverlapping != 0 || c.SpentRefreshTokens != 0 {
		t.Errorf("overlapping polls %d, spent tokens %d", c.PollsOverlapping, c.SpentRefreshTokens)
	}
}

// Taking over is cut off before and after each of its writes: the next owner reports the gap if nobody has, and polls.
func TestTakingOverIsCutOffAtEveryWrite(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		for at := 1; at <= 3; at++ {
			t.Run(fmt.Sprintf("write %d after %v", at, after), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, sandbox.Config{})
				now := time.Now()
				r.announced("a", relay.PollIntent{PollID: relay.NewID(), Owner: "another", At: now.Add(-time.Hour),
					Deadline: now.Add(-59 * time.Minute)})
				r.order()
				dead := make(chan struct{})
				var mu sync.Mutex
				writes := 0
				cut := func(before bool) func(store.Write) error {
					return func(w store.Write) error {
						mu.Lock()
						defer mu.Unlock()
						if before {
							writes++
						}
						switch {
						case writes < at, writes == at && before && after:
							return nil
						case writes == at:
							close(dead)
							writes++
						}
						return fmt.Errorf("%w: cut off", store.ErrUnavailable)
					}
				}
				a := r.replica(store.Gate{Before: cut(true), After: cut(false)}, func(c *poller.Config) {
					c.PollBound, c.Grace = 0, 0
				})
				_, giveUp := a.own("a", 5)
				<-dead
				giveUp()
				r.replica(store.Gate{}, func(c *poller.Config) { c.Exclusive = true }).own("a", 9)
				eventually(t, "it polls on", func() bool { _, n := r.notifications("a"); return n == 1 })
				if n := r.told(relay.KindGapSuspected); n < 1 || n > 2 {
					t.Errorf("%d gaps told", n)
				}
				if doc := r.document("a"); doc.Epoch != 9 || doc.GapSuspectedAt == nil {
					t.Errorf("document %+v", doc)
				}
			})
		}
	}
}
