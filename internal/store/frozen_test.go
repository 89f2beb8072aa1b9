package store_test

import (
	"bytes"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// ice is a dialer whose connections receive every third read that any copy may serve, and stay
// silent.
type ice struct{ reads atomic.Int64 }

const iced = "$JS.ICE.DIRECT.GET."

func (i *ice) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return &icy{c, i}, err
}

type icy struct {
	net.Conn
	*ice
}

func (c *icy) Write(b []byte) (int, error) {
	api := []byte("$JS.API.DIRECT.GET.")
	if !bytes.Contains(b, api) || c.reads.Add(1)%3 != 0 {
		return c.Conn.Write(b)
	}
	return c.Conn.Write(bytes.Replace(b, api, []byte(iced), 1))
}

// A node that is frozen goes on getting its share of the reads, until its routes are given up.
func TestReadsWhileACopyIsSilent(t *testing.T) {
	t.Parallel()
	const rounds = 8
	nc := natstest.NewCluster(t).Connect(t, nats.SetCustomDialer(&ice{}))
	silent, err := nc.SubscribeSync(iced + ">")
	if err != nil {
		t.Fatal(err)
	}
	o := newOutage(t, nc, 3)
	if _, err := o.Polls.Create(t.Context(), "c", relay.Poll{}); err != nil {
		t.Fatal(err)
	}
	page, err := o.Inbox.Append(t.Context(),
		store.Page{PollID: "p", Connection: "c", ReceivedAt: time.Now(), Body: []byte("[]")})
	if err != nil {
		t.Fatal(err)
	}
	event, err := o.Events.Publish(t.Context(), orderEvent(t, 1), store.InboxRef{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if r := o.Attempts.AppendAll(t.Context(), []relay.AttemptBatch{{Callback: "c"}})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	var reading sync.WaitGroup
	for what, read := range map[string]func(context.Context) error{
		"a document":   func(ctx context.Context) error { _, _, err := o.Polls.Get(ctx, "c"); return err },
		"a page":       func(ctx context.Context) error { _, err := o.Inbox.Page(ctx, page); return err },
		"an event":     func(ctx context.Context) error { _, err := o.Events.Get(ctx, event); return err },
		"the last one": func(ctx context.Context) error { _, err := o.Events.LastOf(ctx, "leeds", order); return err },
		"attempts":     func(ctx context.Context) error { _, err := o.Attempts.Last(ctx, "c"); return err },
		"readiness":    o.Readable,
	} {
		reading.Go(func() {
			for range rounds {
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
				if err := read(ctx); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				cancel()
			}
		})
	}
	reading.Wait()
	if asked, _, err := silent.Pending(); err != nil || asked == 0 {
		t.Errorf("nobody asked the silent one (%v)", err)
	}
	if n, _ := o.Health().Outages(); n != 0 {
		t.Errorf("%d outages while the leaders answer:\n%s", n, o.log.String())
	}
}
