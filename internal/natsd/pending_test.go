package natsd

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Each of them stays within its own bound, but what waits for all together would fill the memory.
func TestSubscribersThatDoNotReadGiveWayTogether(t *testing.T) {
	t.Parallel()
	// all connections together hold many events before it is too much
	const most, size, events = 4 << 20, 128 << 10, 200
	d := openDoor(t, Limits{Pending: 256 << 20, Together: most})
	for range 6 { // they log in, subscribe, and read no more
		c, err := net.Dial("tcp", d.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.(*net.TCPConn).SetReadBuffer(4096)
		in := bufio.NewReader(c)
		_, _ = in.ReadString('\n')
		_, _ = fmt.Fprintf(c,
			"CONNECT {\"user\":%q,\"pass\":%q,\"verbose\":false}\r\nSUB audatex.leeds.> 1\r\nPING\r\n", d.ids[0],
			d.keys[0])
		if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "PONG") {
			t.Fatalf("login: %q %v", line, err)
		}
	}
	reader := d.must(0)
	got := make(chan struct{}, events)
	if _, err := reader.Subscribe("audatex.leeds.>", func(*nats.Msg) { got <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	if err := reader.Flush(); err != nil {
		t.Fatal(err)
	}
	own, err := d.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	body := make([]byte, size)
	for range events { // one at a time, so that whoever reads is never far behind
		if err := own.Publish("audatex.leeds.parts.order.updated.x", body); err != nil {
			t.Fatal(err)
		}
		select {
		case <-got:
		case <-time.After(time.Minute):
			t.Fatalf("the one that reads gets nothing; connected: %v; log: %s", reader.IsConnected(),
				strings.Join(d.log.lines(), "\n"))
		}
	}
	soon(t, "too much waits for all of them together", func() bool {
		open, err := d.server.Connz(&server.ConnzOptions{State: server.ConnOpen})
		if err != nil {
			t.Fatal(err)
		}
		together := 0
		for _, c := range open.Conns {
			together += c.Pending
		}
		return together <= most && len(open.Conns) < 8
	})
	if log := strings.Join(d.log.lines(), "\n"); !reader.IsConnected() ||
		!strings.Contains(log, "too much waits for all subscribers") {
		t.Errorf("the one that reads is connected: %v; log: %s", reader.IsConnected(), log)
	}
}
