package store_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// silence is a dialer whose connection shows nothing for a while after a reader has asked for
// messages, or after some of them have come: a client that stands still, or a server that does.
type silence struct {
	mu     sync.Mutex
	pulls  int // that are passed over before
	bytes  int // that come before
	length time.Duration
	begun  bool
}

func (s *silence) arm(pulls, bytes int, length time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pulls, s.bytes, s.length, s.begun = pulls, bytes, length, false
}

func (s *silence) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return &silent{c, s}, err
}

type silent struct {
	net.Conn
	*silence
}

func (c *silent) Write(b []byte) (int, error) {
	c.mu.Lock()
	if n := bytes.Count(b, []byte("CONSUMER.MSG.NEXT")); n > 0 && c.length > 0 {
		c.pulls -= n
		c.begun = c.pulls < 0
	}
	c.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *silent) Read(b []byte) (int, error) {
	c.mu.Lock()
	most := len(b)
	if c.begun && c.bytes > 0 {
		most = min(most, c.bytes)
	}
	c.mu.Unlock()
	n, err := c.Conn.Read(b[:most])
	c.mu.Lock()
	wait := time.Duration(0)
	if c.begun {
		if c.bytes -= n; c.bytes <= 0 {
			wait, c.length, c.begun = c.length, 0, false
		}
	}
	c.mu.Unlock()
	<-time.After(wait) // the silence itself
	return n, err
}

// The client library gives up on messages that let a second pass, and the server does not send them
// a second time. All the same, everything that is read must be complete.
func TestNothingIsLostWhenAReaderStandsStill(t *testing.T) {
	t.Parallel()
	s := &silence{}
	_, nc := single(t, nil, nats.SetCustomDialer(s))
	o := newOutage(t, nc, 1)
	const n = 5000 // more than are fetched at a time
	puts, ids := make([]store.Put[relay.Poll], n), make([]string, 100)
	for i := range puts {
		puts[i] = store.Put[relay.Poll]{Key: fmt.Sprintf("c%04d", i)}
	}
	for i, r := range o.Polls.PutAll(t.Context(), puts) {
		if r.Err != nil {
			t.Fatal(i, r.Err)
		}
	}
	heads := map[string]uint64{}
	for i := range ids {
		ids[i] = fmt.Sprintf("c%04d", i)
		for p := range 2 {
			at, err := o.Inbox.Append(t.Context(), store.Page{PollID: fmt.Sprint(ids[i], p), Connection: ids[i],
				ReceivedAt: time.Now(), Body: []byte("[1]")})
			if err != nil {
				t.Fatal(err)
			}
			heads[ids[i]] = at
		}
	}
	for _, first := range []struct{ pulls, bytes int }{{0, 0}, {0, 100_000}, {1, 0}, {1, 20_000}} {
		s.arm(first.pulls, first.bytes, 1200*time.Millisecond)
		all, err := o.Polls.All(t.Context(), "", func(key string, err error) { t.Errorf("%s: %v", key, err) })
		if err != nil {
			t.Fatal(err)
		}
		keys := make([]string, len(all))
		for i, e := range all {
			keys[i] = e.Key
		}
		slices.Sort(keys)
		if whole := slices.Compact(keys); len(whole) != n || len(all) != n {
			t.Errorf("silence at %+v: %d documents of %d, %d in all", first, len(whole), n, len(all))
		}
	}
	for _, bytes := range []int{0, 8000} {
		s.arm(0, bytes, 1200*time.Millisecond)
		got, err := o.Inbox.Heads(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, heads) {
			t.Errorf("silence after %d bytes: the last pages are %v, not %v", bytes, got, heads)
		}
	}
}

// Who reads gently gets the same, a few messages at a time.
func TestWhatIsReadGentlyIsWhole(t *testing.T) {
	t.Parallel()
	_, nc := single(t, nil)
	o := newOutage(t, nc, 1)
	pulls, err := nc.SubscribeSync("$JS.API.CONSUMER.MSG.NEXT.>")
	if err != nil {
		t.Fatal(err)
	}
	const n = 100
	var last uint64
	for i := range n {
		if last, err = o.Events.Publish(t.Context(), orderEvent(t, uint64(i+1)), store.InboxRef{}, last); err != nil {
			t.Fatal(err)
		}
	}
	for _, read := range []struct {
		of    *store.Events
		least int
	}{{o.Events, 1}, {o.Events.Gently(), 4}} {
		events, more, err := read.of.ScanWithin(t.Context(), 2, nil, n-2, 1<<20)
		if err != nil || !more || len(events) != n-2 {
			t.Fatalf("%d events, more %t: %v", len(events), more, err)
		}
		for i, ev := range events {
			if ev.Seq != uint64(i+2) || len(ev.Body) == 0 {
				t.Errorf("event %d is %d with %d bytes", i, ev.Seq, len(ev.Body))
			}
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		times := 0
		for _, err = pulls.NextMsg(0); err == nil; _, err = pulls.NextMsg(0) {
			times++
		}
		if times < read.least || read.least == 1 && times > 2 {
			t.Errorf("they were fetched in %d parts", times)
		}
	}
}

// While one document is overwritten all the time the server counts it as gone before it counts it
// as there: its word that nothing is left must not be taken for the end of what nobody touches.
func TestWhatNobodyTouchesIsListedBesideWhatIsOverwritten(t *testing.T) {
	t.Parallel()
	_, nc := single(t, nil)
	o := newOutage(t, nc, 1)
	for _, key := range []string{"still-a", "hot", "still-b"} {
		if _, err := o.Polls.Create(t.Context(), key, relay.Poll{}); err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	defer writing.Wait()
	defer stop()
	writing.Go(func() {
		for ctx.Err() == nil {
			for range 500 {
				if _, err := js.PublishAsync("$KV.relay_polls.hot", []byte("{}")); err != nil {
					t.Error(err)
					return
				}
			}
			<-js.PublishAsyncComplete()
		}
	})
	for range natstest.Long(15, 60) {
		all, err := o.Polls.All(t.Context(), "", func(key string, err error) { t.Errorf("%s: %v", key, err) })
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, e := range all {
			found[e.Key] = true
		}
		if !found["still-a"] || !found["still-b"] {
			t.Fatalf("of two documents that nobody touches these were listed: %v", found)
		}
		watching, end := context.WithCancel(t.Context())
		found, first := map[string]bool{}, map[string]bool{}
		_ = o.Polls.Watch(watching, func(e store.Entry[relay.Poll]) { found[e.Key] = true },
			func() { first = maps.Clone(found); end() }, func(key string, err error) { t.Errorf("%s: %v", key, err) })
		if !first["still-a"] || !first["still-b"] {
			t.Fatalf("of two documents that nobody touches a watch told at first of: %v", first)
		}
	}
}
