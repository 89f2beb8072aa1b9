package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// living is a store at work: both logs are followed, and watched.
type living struct {
	*store.Store
	t     *testing.T
	ended chan error                       // of WatchLogs
	back  chan func(context.Context) error // is run by setBack
	lost  chan *store.LostError            // as setBack was called with
	mu    sync.Mutex
	shown map[string]uint64 // of each log
}

func openLogs(t *testing.T, nc *nats.Conn, replicas int, retention time.Duration) (s *store.Store) {
	t.Helper()
	if err := natstest.Patiently(func() (err error) {
		s, err = store.Open(t.Context(), store.Config{
			Conn: nc, Topology: topology.Topology{Prefix: "relay", Replicas: replicas, Retention: retention},
			Log: slog.New(slog.DiscardHandler),
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// live has a store follow and watch its logs until the test ends.
func live(t *testing.T, s *store.Store) *living {
	t.Helper()
	l := &living{Store: s, t: t, ended: make(chan error, 1), back: make(chan func(context.Context) error, 1),
		lost: make(chan *store.LostError, 1), shown: map[string]uint64{}}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	running.Go(func() { _ = s.Run(ctx) })
	for name, log := range map[string]struct {
		bounds func(context.Context) (uint64, uint64, error)
		tail   func(context.Context, uint64) (*store.Tail, error)
	}{"inbox": {s.Inbox.Bounds, s.Inbox.Tail}, "events": {s.Events.Bounds, s.Events.Tail}} {
		_, last, err := log.bounds(ctx)
		if err != nil {
			t.Fatal(err)
		}
		l.shown[name] = last
		running.Go(func() {
			for ; ctx.Err() == nil; backoff.Sleep(ctx, 10*time.Millisecond) {
				l.follow(ctx, name, log.tail)
			}
		})
	}
	running.Go(func() {
		l.ended <- s.WatchLogs(ctx, func(ctx context.Context, lost *store.LostError) error {
			l.lost <- lost
			select {
			case f := <-l.back:
				return f(ctx)
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	return l
}

// follow reads a log from where it was read to, as the relay's readers do.
func (l *living) follow(
	ctx context.Context, name string, tail func(context.Context, uint64) (*store.Tail, error),
) {
	following, err := tail(ctx, l.shownOf(name)+1)
	if err != nil {
		return
	}
	defer following.Stop()
	for {
		m, err := following.Next(ctx)
		if err != nil {
			return
		}
		l.mu.Lock()
		l.shown[name] = m.Seq
		l.mu.Unlock()
	}
}

func (l *living) shownOf(name string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shown[name]
}

// fill writes pages of a connection, and an event of each, and returns where the logs end.
func fill(t *testing.T, s *store.Store, connection string, n int) (last uint64) {
	t.Helper()
	for range n {
		page := store.Page{PollID: relay.NewID(), Connection: connection, Generation: "g", ReceivedAt: time.Now(),
			Body: []byte("[]")}
		seq, err := s.Inbox.Append(t.Context(), page)
		if err != nil {
			t.Fatal(err)
		}
		ev := orderEvent(t, seq)
		ev.Subject = fmt.Sprintf("5f0c1f6e-0000-4000-8000-%012d", seq)
		if last, err = s.Events.Publish(t.Context(), ev, store.InboxRef{Connection: connection, Seq: seq}, 0); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

// await waits until the logs were shown up to a number.
func (l *living) await(seq uint64) {
	l.t.Helper()
	until(l.t, fmt.Sprintf("message %d of both logs", seq), func() bool {
		return l.shownOf("inbox") >= seq && l.shownOf("events") >= seq
	})
}

// unharmed fails unless the logs are compared once more, and found to be whole.
func (l *living) unharmed() {
	l.t.Helper()
	l.DoubtLogs()
	until(l.t, "the logs to be compared", func() bool { return l.Compared() || len(l.ended) > 0 })
	if len(l.ended) > 0 {
		l.t.Fatal(<-l.ended)
	}
}

// A server comes back without what was written last, and in the meantime others have written
// nothing, as much as was lost, or more: then the numbers alone show nothing. The loss is noticed
// with the exact end of what is left.
func TestALogThatLostItsEndIsNoticed(t *testing.T) {
	t.Parallel()
	for name, written := range map[string]int{"nothing since": 0, "as much since": 5, "more since": 12} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const payload, kept, gone = 1 << 20, 10, 5
			server := natstest.StartLimited(t, payload)
			gate := make(chan struct{})
			nc, err := nats.Connect(server.URL(), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
				nats.CustomReconnectDelay(func(int) time.Duration {
					<-gate
					return time.Millisecond
				}))
			if err != nil {
				t.Fatal(err)
			}
			open := sync.OnceFunc(func() { close(gate) })
			t.Cleanup(nc.Close)
			t.Cleanup(open)
			s := openLogs(t, nc, 1, time.Hour)
			l := live(t, s)
			fill(t, s, "leeds", kept)
			l.await(kept)
			copied := server.Copy()
			fill(t, s, "york", gone)
			l.await(kept + gone)
			position := cursor.Document{V: 1, Position: kept + gone, Carried: cursor.Carried{Generation: "g"}}
			revision, err := s.Cursors.Create(t.Context(), store.CallbackCursor("bms"), position)
			if err != nil {
				t.Fatal(err)
			}

			server.Lose(payload, copied)
			before := time.Now()
			if written > 0 {
				fill(t, openLogs(t, server.Conn(), 1, time.Hour), "bath", written)
			}
			open()
			until(t, "the loss to be noticed", func() bool { return len(l.lost) > 0 })
			lost := <-l.lost
			for _, cut := range []*store.Cut{lost.Inbox, lost.Events} {
				if cut == nil {
					t.Fatalf("one log is whole: %v", lost)
				}
				if cut.End != kept || cut.Known != kept+gone || !slices.Equal(cut.Connections, []string{"york"}) ||
					cut.EndAt.IsZero() || cut.EndAt.After(before) || cut.Grown.IsZero() != (written == 0) ||
					written > 0 && cut.Grown.Before(cut.EndAt) {
					t.Errorf("%+v", cut)
				}
			}
			// The position is written by those who set it back, and by nobody else, neither now nor
			// while the relay ends.
			refused := func() {
				t.Helper()
				_, err := s.Cursors.Update(t.Context(), store.CallbackCursor("bms"), position, revision)
				if all := s.Cursors.PutAll(t.Context(), []store.Put[cursor.Document]{{Key: store.CallbackCursor("bms"),
					Value: position, Revision: revision}}); !errors.Is(err, store.ErrUnavailable) ||
					!errors.Is(all[0].Err, store.ErrUnavailable) {
					t.Errorf("a position was written: %v, %v", err, all[0].Err)
				}
			}
			refused()
			l.back <- func(ctx context.Context) (err error) {
				position.Position = kept
				revision, err = s.Cursors.Create(ctx, store.CallbackCursor("bms"), position)
				return err
			}
			if err := <-l.ended; !errors.As(err, &lost) {
				t.Errorf("ended with %v", err)
			}
			refused()
		})
	}
}

// A write whose number is not new shows at once that what had it before is lost, also where the
// connection has stayed and nobody follows the logs.
func TestANumberThatComesTwiceIsNoticed(t *testing.T) {
	t.Parallel()
	s := openLogs(t, natstest.Start(t), 1, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	lost, ended := make(chan *store.LostError, 1), make(chan error, 1)
	go func() {
		ended <- s.WatchLogs(ctx, func(_ context.Context, l *store.LostError) error {
			lost <- l
			return nil
		})
	}()
	t.Cleanup(cancel)
	fill(t, s, "leeds", 10)
	until(t, "the logs to be compared", s.Compared)
	stream, err := s.JetStream().Stream(t.Context(), s.Topology().Inbox())
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	if err := s.JetStream().DeleteStream(t.Context(), config.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := s.JetStream().CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Inbox.Append(t.Context(), store.Page{PollID: "p", Connection: "bath"}); err != nil {
		t.Fatal(err)
	}
	until(t, "the loss to be noticed", func() bool { return len(lost) > 0 })
	if cut := (<-lost).Inbox; cut == nil || cut.Known != 10 || cut.End != 0 {
		t.Errorf("%+v", cut)
	}
	var want *store.LostError
	if err := <-ended; !errors.As(err, &want) || want.Events != nil {
		t.Errorf("ended with %v", err)
	}
}

// What happens to a server every day is no loss.
func TestWhatIsNoLossIsNotTakenForOne(t *testing.T) {
	t.Parallel()
	t.Run("restart", func(t *testing.T) {
		t.Parallel()
		server := natstest.StartLimited(t, 1<<20)
		s := openLogs(t, server.Conn(), 1, time.Hour)
		l := live(t, s)
		for range 3 {
			l.await(fill(t, s, "leeds", 5))
			server.Restart(1 << 20)
			l.unharmed()
		}
		l.await(fill(t, s, "leeds", 5))
	})
	t.Run("age", func(t *testing.T) {
		t.Parallel()
		s := openLogs(t, natstest.Start(t), 1, time.Second)
		l := live(t, s)
		last := fill(t, s, "leeds", 5)
		l.await(last)
		until(t, "the log to be empty", func() bool {
			first, _, err := s.Inbox.Bounds(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return first > last
		})
		l.unharmed()
		l.await(fill(t, s, "leeds", 5))
		l.unharmed()
	})
	t.Run("repeat", func(t *testing.T) {
		t.Parallel()
		s := openLogs(t, natstest.Start(t), 1, time.Hour)
		l := live(t, s)
		page := store.Page{PollID: "p", Connection: "leeds", Generation: "g", ReceivedAt: time.Now(), Body: []byte("[]")}
		for range 3 { // the second and the third are the first
			if _, err := s.Inbox.Append(t.Context(), page); err != nil {
				t.Fatal(err)
			}
			l.await(fill(t, s, "york", 3))
		}
		if n := s.Signs(); n > 0 {
			t.Errorf("a page that was stored already is taken for a sign of a loss, %d times", n)
		}
	})
}

// The leader of a log changes: the next one has all that was acknowledged, if only a moment later.
func TestANewLeaderIsNoLoss(t *testing.T) {
	t.Parallel()
	cluster := natstest.NewCluster(t)
	s := openLogs(t, cluster.Connect(t), 3, time.Hour)
	l := live(t, s)
	for _, log := range []string{"relay_inbox", "relay_events", "relay_events"} {
		last := uint64(0)
		until(t, "the logs to take something", func() bool {
			_, err := s.Inbox.Append(t.Context(), store.Page{PollID: relay.NewID(), Connection: "leeds", Generation: "g",
				ReceivedAt: time.Now(), Body: []byte("[]")})
			if err == nil {
				_, last, err = s.Inbox.Bounds(t.Context())
			}
			return err == nil
		})
		until(t, "what was written", func() bool { return l.shownOf("inbox") >= last })
		leader := cluster.Leader(t, log)
		cluster.Stop(leader)
		l.unharmed()
		cluster.Start(t, leader)
		cluster.Settle(t)
	}
	l.unharmed()
}
