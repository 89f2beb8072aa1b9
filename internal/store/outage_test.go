package store_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// outage is a store whose health is looked after and whose log is kept.
type outage struct {
	*store.Store
	js jetstream.JetStream

	mu  sync.Mutex
	log bytes.Buffer
}

func (o *outage) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log.Write(b)
}

// logged counts the lines of the log that hold a text.
func (o *outage) logged(text string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Count(o.log.String(), text)
}

func newOutage(t *testing.T, nc *nats.Conn, replicas int) *outage {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	o := &outage{js: js}
	if err := natstest.Patiently(func() (err error) {
		o.Store, err = store.Open(t.Context(), store.Config{
			Conn: nc, Topology: topology.Topology{Prefix: "relay", Replicas: replicas, Retention: time.Hour},
			Log: slog.New(slog.NewTextHandler(o, nil)),
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = o.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return o
}

// until waits for a condition, for as long as a busy machine may need.
func until(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	began, tick := time.Now(), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > 90*time.Second {
			t.Fatalf("waited for %s", what)
		}
		<-tick.C
	}
	return time.Since(began)
}

func (o *outage) healthy() bool { return o.Health().Trouble().Since.IsZero() }

// told checks that the log has one line for each beginning and each end of so many outages.
func (o *outage) told(t *testing.T, outages int) {
	t.Helper()
	until(t, "the log to tell of the end", func() bool { return o.logged("the store works again") >= outages })
	if n, _ := o.Health().Outages(); n != outages {
		t.Errorf("%d outages, want %d", n, outages)
	}
	if began, ended := o.logged("level=ERROR"),
		o.logged("the store works again"); began != outages || ended != outages {
		t.Errorf("the log tells of %d beginnings and %d ends of %d outages:\n%s", began, ended, outages, o.log.String())
	}
}

// write is a small write within a time.
func (o *outage) write(t *testing.T, patience time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := o.Polls.Create(ctx, relay.NewID(), relay.Poll{})
	return err
}

// A cluster loses the leader of a stream, then two of its three nodes. Writes fail in the time that
// they are given and with an error that shows how, the outage is logged once, and it ends by
// itself, also when nobody writes.
func TestAClusterThatLosesItsLeaderAndItsQuorum(t *testing.T) {
	t.Parallel()
	cluster := natstest.NewCluster(t)
	o := newOutage(t, cluster.Connect(t), 3)
	if err := o.write(t, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	checkHeads(t, o.Store)
	if _, _, err := o.Polls.Get(t.Context(), "nobody"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a document that is not there: %v", err)
	}
	_, kept, err := func() (relay.Poll, uint64, error) {
		if _, err := o.Polls.Create(t.Context(), "kept", relay.Poll{}); err != nil {
			t.Fatal(err)
		}
		return o.Polls.Get(t.Context(), "kept")
	}()
	if err != nil {
		t.Fatal(err)
	}

	// The leader of a stream goes while somebody writes.
	gone := cluster.Leader(t, "KV_relay_polls")
	cluster.Stop(gone)
	failures := 0
	away := until(t, "writes after a leader is gone", func() bool {
		err := o.write(t, 2*time.Second)
		if err == nil {
			return true
		}
		if !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrUnclear) {
			t.Errorf("a write without a leader: %v", err)
		}
		failures++
		return false
	})
	t.Logf("leader gone: %d writes failed, back after %s", failures, away)
	until(t, "the end of the first outage", o.healthy)
	cluster.Start(t, gone)
	cluster.Settle(t)
	until(t, "the node that was away", func() bool {
		st, err := o.js.Stream(t.Context(), "KV_relay_polls")
		if err != nil {
			return false
		}
		info := st.CachedInfo()
		return info.Cluster != nil && len(info.Cluster.Replicas) == 2 && info.Cluster.Replicas[0].Current &&
			info.Cluster.Replicas[1].Current
	})
	before, _ := o.Health().Outages()
	until(t, "the first outage to be told", func() bool { return o.logged("the store works again") == before })

	// Two of three go.
	first := cluster.Leader(t, "KV_relay_polls")
	cluster.Stop(first)
	cluster.Stop((first + 1) % 3)
	// the node of the connection may be one of the two
	until(t, "writes to fail for want of a quorum, not of a connection", func() bool {
		trouble := o.Health().Trouble()
		return o.write(t, 2*time.Second) != nil && trouble.Writes && trouble.Reason != store.Unreachable
	})
	for range 3 {
		began := time.Now()
		if err := o.write(t, time.Second); !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrUnclear) {
			t.Errorf("a write without a quorum: %v", err)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("a write that was given a second took %s", took)
		}
	}
	trouble := o.Health().Trouble()
	if trouble.Since.IsZero() || !trouble.Writes {
		t.Errorf("without a quorum the health says %+v", trouble)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	_, revision, err := o.Polls.Get(ctx, "kept")
	cancel()
	t.Logf("without a quorum: %s (%s); a document is read: %v", trouble.Reason, trouble.Err, err)
	if err == nil && revision != kept {
		t.Errorf("revision %d, want %d", revision, kept)
	}

	// They come back, and nobody writes: the health learns of it all the same.
	cluster.Start(t, first)
	cluster.Start(t, (first+1)%3)
	back := until(t, "the end of the second outage", o.healthy)
	t.Logf("back %s after the restart", back)
	until(t, "writes", func() bool { return o.write(t, 5*time.Second) == nil })
	until(t, "health", o.healthy)
	outages, _ := o.Health().Outages()
	if outages != before+1 {
		t.Errorf("%d outages became %d, want one more:\n%s", before, outages, o.log.String())
	}
	o.told(t, outages)
	if _, _, err := o.Polls.Get(t.Context(), "kept"); err != nil {
		t.Errorf("what was stored before: %v", err)
	}
}

// single runs one server with limits of the test's.
func single(t *testing.T, limits func(*server.Options), more ...nats.Option) (*server.Server, *nats.Conn) {
	t.Helper()
	opts := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(),
		NoSigs: true, NoLog: true, JetStreamMaxStore: 1 << 30}
	if limits != nil {
		limits(opts)
	}
	s := run(t, opts)
	nc, err := nats.Connect(s.ClientURL(),
		append(more, nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), nats.ReconnectWait(20*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return s, nc
}

func run(t *testing.T, opts *server.Options) *server.Server {
	t.Helper()
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server takes no connections")
	}
	return s
}

// A server goes away and comes back. Without a connection nothing is sent and every caller gets an
// error at once.
func TestAServerThatGoesAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, nc := single(t, func(o *server.Options) { o.StoreDir = dir })
	o := newOutage(t, nc, 1)
	if _, err := o.Polls.Create(t.Context(), "kept", relay.Poll{}); err != nil {
		t.Fatal(err)
	}
	port := s.Addr().String()
	s.Shutdown()
	s.WaitForShutdown()
	until(t, "the loss to be noticed", func() bool { return !o.healthy() })
	until(t, "nothing else", func() bool { return o.Health().Trouble().Reason == store.Unreachable })
	for what, ask := range map[string]func() error{
		"write": func() error { return o.write(t, time.Minute) },
		"many":  func() error { return o.Polls.PutAll(t.Context(), []store.Put[relay.Poll]{{Key: "b"}})[0].Err },
		"get":   func() error { _, _, err := o.Polls.Get(t.Context(), "kept"); return err },
		"list": func() error {
			_, err := o.Polls.All(t.Context(), "", func(string, error) {})
			return err
		},
		"last":     func() error { _, err := o.Inbox.Last(t.Context(), "a"); return err },
		"bounds":   func() error { _, _, err := o.Events.Bounds(t.Context()); return err },
		"readable": func() error { return o.Readable(t.Context()) },
	} {
		began := time.Now()
		if err := ask(); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s without a server: %v", what, err)
		}
		if took := time.Since(began); took > 30*time.Second { // a minute was given
			t.Errorf("%s without a server took %s", what, took)
		}
	}
	_, at, _ := strings.Cut(port, ":")
	opts := &server.Options{Host: "127.0.0.1", JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
		JetStreamMaxStore: 1 << 30}
	for _, digit := range at {
		opts.Port = opts.Port*10 + int(digit-'0')
	}
	run(t, opts)
	until(t, "the end of the outage", o.healthy)
	if err := o.write(t, 10*time.Second); err != nil {
		t.Error(err)
	}
	if err := o.Readable(t.Context()); err != nil {
		t.Error(err)
	}
	o.told(t, 1)
}

// A stream, and a server, that are full by their own limits. When there is room again, also the
// health of what nobody writes to learns of it.
func TestAStoreThatIsFull(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		limit func(*server.Options)
		fill  func(t *testing.T, o *outage)
		room  func(t *testing.T, o *outage)
	}{
		{
			name: "stream",
			fill: func(t *testing.T, o *outage) { o.limitInbox(t, 64<<10) },
			room: func(t *testing.T, o *outage) { o.limitInbox(t, -1) },
		},
		{
			name:  "server",
			limit: func(o *server.Options) { o.JetStreamMaxStore = 256 << 10 },
			room: func(t *testing.T, o *outage) {
				st, err := o.js.Stream(t.Context(), "relay_inbox")
				if err == nil {
					err = st.Purge(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, nc := single(t, tt.limit)
			o := newOutage(t, nc, 1)
			if tt.fill != nil {
				tt.fill(t, o)
			}
			page := store.Page{Connection: "a", Site: "leeds", ReceivedAt: time.Now(),
				Body: bytes.Repeat([]byte("x"), 8<<10)}
			put := func() error {
				page.PollID = relay.NewID()
				_, err := o.Inbox.Append(t.Context(), page)
				return err
			}
			var refused error
			until(t, "a refusal", func() bool { refused = put(); return refused != nil })
			if !errors.Is(refused, store.ErrUnavailable) {
				t.Errorf("a page without room: %v", refused)
			}
			if trouble := o.Health().Trouble(); trouble.Reason != store.Full || !trouble.Writes || trouble.Reads {
				t.Errorf("without room the health says %+v", trouble)
			}
			t.Logf("refused: %v", refused)
			if _, err := o.Inbox.Last(t.Context(), "a"); err != nil {
				t.Errorf("a read without room: %v", err)
			}
			if err := o.Readable(t.Context()); err != nil {
				t.Errorf("readiness without room: %v", err)
			}
			tt.room(t, o)
			until(t, "the end of the outage", o.healthy)
			if err := put(); err != nil {
				t.Errorf("with room again: %v", err)
			}
			o.told(t, 1)
		})
	}
}

// A page that found no room was taken from the vendor already. Until there is room for as much
// again the log counts as full, even if it still takes smaller writes: the next page may be as
// large.
func TestALogThatIsTooFullForWhatWasRefused(t *testing.T) {
	t.Parallel()
	const left = 20 << 10
	for name, refused := range map[string]int{"much larger": left + 10<<10,
		"larger with its headers only": left - 100} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, nc := single(t, nil)
			o := newOutage(t, nc, 1)
			put := func(size int) error {
				_, err := o.Inbox.Append(t.Context(), store.Page{
					PollID: relay.NewID(), Connection: "a", Site: "leeds", ReceivedAt: time.Now(),
					Body: bytes.Repeat([]byte("x"), size),
				})
				return err
			}
			if err := put(100); err != nil {
				t.Fatal(err)
			}
			st, err := o.js.Stream(t.Context(), "relay_inbox")
			if err != nil {
				t.Fatal(err)
			}
			o.limitInbox(t, int64(st.CachedInfo().State.Bytes)+left)
			if err := put(refused); !errors.Is(err, store.ErrUnavailable) {
				t.Fatalf("a page without room: %v", err)
			}
			<-time.After(2500 * time.Millisecond) // more than two looks
			if err := put(100); err != nil {
				t.Errorf("a small page: %v", err)
			}
			if trouble := o.Health().Trouble(); trouble.Reason != store.Full || !trouble.Writes {
				t.Errorf("without room for what was refused the health says %+v", trouble)
			}
			o.limitInbox(t, -1)
			until(t, "the end of the outage", o.healthy)
			o.told(t, 1)
		})
	}
}

// A relay that starts while a log is full knows it before it has read anything that it could not
// store, and learns when there is room.
func TestALogThatIsFullAtTheStart(t *testing.T) {
	t.Parallel()
	_, nc := single(t, nil)
	before := newOutage(t, nc, 1)
	before.limitInbox(t, 64<<10)
	page := store.Page{Connection: "a", Site: "leeds", ReceivedAt: time.Now(), Body: bytes.Repeat([]byte("x"), 8<<10)}
	until(t, "a refusal", func() bool {
		page.PollID = relay.NewID()
		_, err := before.Inbox.Append(t.Context(), page)
		return err != nil
	})
	o := newOutage(t, nc, 1)
	if trouble := o.Health().Trouble(); trouble.Reason != store.Full || !trouble.Writes || trouble.Reads {
		t.Errorf("at the start the health says %+v", trouble)
	}
	before.limitInbox(t, -1)
	until(t, "the end of the outage", o.healthy)
	o.told(t, 1)
	if again := newOutage(t, nc, 1); !again.healthy() {
		t.Errorf("with room the health says %+v", again.Health().Trouble())
	}
}

func (o *outage) limitInbox(t *testing.T, bytes int64) {
	t.Helper()
	st, err := o.js.Stream(t.Context(), "relay_inbox")
	if err != nil {
		t.Fatal(err)
	}
	c := st.CachedInfo().Config
	c.MaxBytes = bytes
	if _, err := o.js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// What is wrong with what was asked must not be waited for at start; what is wrong with the store
// must.
func TestWhatWaitingMayMend(t *testing.T) {
	t.Parallel()
	_, nc := single(t, func(o *server.Options) { o.JetStream = false })
	config := store.Config{Conn: nc, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
		Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := store.Open(ctx, config); err == nil ||
		!errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrUnclear) {
		t.Errorf("without JetStream: %v", err)
	}
	_, nc = single(t, nil)
	config.Conn = nc
	config.Topology.Replicas = 3
	if _, err := store.Open(t.Context(), config); err == nil || store.Passing(err) {
		t.Errorf("three copies on one server: %v, which may pass: %v", err, store.Passing(err))
	}
	nc.Close()
	if _, err := store.Open(t.Context(), config); !store.Passing(err) {
		t.Errorf("without a connection: %v", err)
	}
}

// unheard makes the stream of the polls stop responding to writes, or respond to them again.
func unheard(t *testing.T, s *store.Store, silent bool) {
	t.Helper()
	st, err := s.JetStream().Stream(t.Context(), "KV_relay_polls")
	if err != nil {
		t.Fatal(err)
	}
	c := st.CachedInfo().Config
	c.NoAck = silent
	if _, err := s.JetStream().UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// A write that was sent before the end of an outage and given up after it shows nothing about the
// store as it is now. Nor does one that got little time, or whose caller has limited all its work.
func TestALateTimeOutIsNoOutage(t *testing.T) {
	t.Parallel()
	for what, write := range map[string]func(context.Context, *store.Store, string) error{
		"one": func(ctx context.Context, s *store.Store, key string) error {
			_, err := s.Polls.Create(ctx, key, relay.Poll{})
			return err
		},
		"many": func(ctx context.Context, s *store.Store, key string) error {
			return s.Polls.PutAll(ctx, []store.Put[relay.Poll]{{Key: key}})[0].Err
		},
	} {
		s := open(t, t.TempDir())
		unheard(t, s, true)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		late := make(chan error, 1)
		go func() { late <- write(ctx, s, "late") }()
		<-time.After(200 * time.Millisecond) // it has reached the server
		unheard(t, s, false)
		if err := write(t.Context(), s, "next"); err != nil {
			t.Fatal(err)
		}
		if err := <-late; !errors.Is(err, store.ErrUnclear) {
			t.Errorf("%s: a write without an answer: %v", what, err)
		}
		cancel()
		if n, _ := s.Health().Outages(); n != 0 {
			t.Errorf("%s: %d outages", what, n)
		}
		unheard(t, s, true)
		rest, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := write(rest, s, "rest"); !errors.Is(err, store.ErrUnclear) || !s.Health().Trouble().Since.IsZero() {
			t.Errorf("%s: what had a tenth of a second (%v) is trouble", what, err)
		}
		cancel()
		within, cancel := store.Within(t.Context(), time.Second)
		if err := write(within, s, "within"); !errors.Is(err, store.ErrUnclear) ||
			!s.Health().Trouble().Since.IsZero() {
			t.Errorf("%s: what its caller gave up (%v) is trouble", what, err)
		}
		cancel()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := write(short, s, "now"); err == nil || s.Health().Trouble().Since.IsZero() {
			t.Errorf("%s: what is not answered now (%v) is no trouble", what, err)
		}
		cancel()
	}
}

// A stream of the embedded server that no longer responds is not waited for without end. Only a
// restart repairs it.
func TestAStreamThatAnswersNoMore(t *testing.T) {
	t.Parallel()
	s := openWith(t, t.TempDir(), store.NewRoomOf(func() (uint64, uint64, error) { return 1 << 30, 4 << 30, nil }))
	s.SetDeadAfter(300 * time.Millisecond)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- s.Run(ctx) }()
	write := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		_, err := s.Polls.Create(ctx, relay.NewID(), relay.Poll{})
		return err
	}
	// A response ends the silence.
	unheard(t, s, true)
	for range 2 {
		if err := write(); !errors.Is(err, store.ErrUnclear) {
			t.Fatalf("a write without an answer: %v", err)
		}
	}
	unheard(t, s, false)
	if err := write(); err != nil {
		t.Fatal(err)
	}

	unheard(t, s, true)
	for range 3 {
		_ = write()
	}
	until(t, "the end", func() bool {
		_ = write()
		select {
		case err := <-ended:
			if !errors.Is(err, store.ErrDead) || !strings.Contains(err.Error(), "KV_relay_polls") {
				t.Errorf("the watch ended with %v", err)
			}
			return true
		default:
			return false
		}
	})
}
