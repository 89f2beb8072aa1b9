package sender_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sender"
)

func TestTimeouts(t *testing.T) {
	t.Parallel()
	hold := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	trickle := func(head, drop string) func(net.Conn) {
		return func(c net.Conn) {
			if !readRequest(bufio.NewReader(c)) {
				return
			}
			_, err := io.WriteString(c, head)
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for err == nil {
				<-tick.C
				_, err = io.WriteString(c, drop)
			}
		}
	}
	s := newSender(t, nil)
	released := make(chan struct{})
	cases := []struct {
		name    string
		scheme  string
		timeout time.Duration
		body    int // bytes
		serve   func(net.Conn)
		want    sender.Outcome
		text    string
	}{
		{"never answers", "http", 150 * time.Millisecond, 100, hold, sender.Timeout, "no answer within 150ms"},
		{"never shakes hands", "https", 150 * time.Millisecond, 100, hold, sender.Timeout,
			"not connected within 150ms"},
		{"never reads", "http", 300 * time.Millisecond, 8 << 20, /* more than the sockets buffer */
			func(net.Conn) { <-released }, sender.Timeout, "no answer"},
		{"status trickles", "http", 150 * time.Millisecond, 100, trickle("HTTP/1.1 200 ", "O"),
			sender.Timeout, "no answer"},
		{"success's header trickles", "http", 150 * time.Millisecond, 100, trickle("HTTP/1.1 200 OK\r\n", "X-A: b\r\n"),
			sender.Success, ""},
		{"refusal's header trickles", "http", 150 * time.Millisecond, 100, trickle("HTTP/1.1 500 Oh\r\n", "X-A: b\r\n"),
			sender.Refused, "answered 500; its header did not end"},
		{"refusal's body trickles", "http", 5 * time.Second, 100,
			trickle("HTTP/1.1 500 Oh\r\nContent-Length: 60000\r\n\r\n", "x"), sender.Refused, "answered 500"},
		{"success's body trickles", "http", 5 * time.Second, 100,
			trickle("HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", "x"), sender.Success, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			addr := rawReceiver(t, c.serve)
			if c.name == "never reads" {
				t.Cleanup(func() { close(released) }) // runs before the receiver waits for its connections
			}
			r := request(c.scheme + "://" + addr)
			r.Timeout = c.timeout
			r.Body = bytes.Repeat([]byte("x"), c.body)
			a := s.Send(t.Context(), r)
			if a.Outcome != c.want || !strings.HasPrefix(a.Error, c.text) {
				t.Errorf("%+v", a)
			}
			if a.Duration < 100*time.Millisecond || a.Duration > 4*time.Second { // a trickling body gets a second
				t.Errorf("took %v", a.Duration)
			}
		})
	}
}

func TestLongBodyDoesNotBlock(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 500} {
		srv := receiver(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			chunk := bytes.Repeat([]byte("y"), 32<<10)
			for { // without end
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		})
		a := newSender(t, nil).Send(t.Context(), request(srv.URL))
		if a.Status != status || a.Duration > 5*time.Second {
			t.Errorf("%+v", a)
		}
		if status == 500 && a.Excerpt != strings.Repeat("y", 256) {
			t.Errorf("excerpt of %d bytes", len(a.Excerpt))
		}
	}
}

func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	var opened atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/big":
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write(bytes.Repeat([]byte("z"), 60<<10))
		case "/small":
			_, _ = w.Write([]byte(`{"ok":true}`))
		}
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	s := newSender(t, nil)
	for range 20 {
		for _, path := range []string{"/", "/small", "/big"} {
			if a := s.Send(t.Context(), request(srv.URL+path)); a.Status == 0 {
				t.Fatalf("%+v", a)
			}
		}
	}
	if n := opened.Load(); n != 3 {
		t.Errorf("%d connections for three URLs and 60 attempts one after another", n)
	}
}

// A receiver that closes idle connections just when the next request comes costs no failed attempt;
// one that hangs up on an event does not get it once for each idle connection.
func TestStaleConnections(t *testing.T) {
	t.Parallel()
	var requests, refuse atomic.Int32
	gather := make(chan struct{})
	addr := rawReceiver(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for readRequest(r) {
			requests.Add(1)
			if refuse.Load() != 0 {
				refuse.Add(-1)
				return
			}
			<-gather
			if _, err := io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n"); err != nil {
				return
			}
		}
	})
	s := newSender(t, nil)
	fill := func() { // ten connections, idle
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if a := s.Send(t.Context(), request("http://"+addr)); a.Outcome != sender.Success {
					t.Errorf("%+v", a)
				}
			})
		}
		for deadline := time.Now().Add(20 * time.Second); requests.Load() < 10 && time.Now().Before(deadline); {
			<-time.After(time.Millisecond) // between two looks at a condition
		}
		close(gather)
		wg.Wait()
	}
	fill()

	requests.Store(0)
	refuse.Store(1)
	if a := s.Send(t.Context(), request("http://"+addr)); a.Outcome != sender.Success || requests.Load() != 2 {
		t.Errorf("after one stale connection: %+v, %d requests", a, requests.Load())
	}
	requests.Store(0)
	refuse.Store(1000)
	if a := s.Send(t.Context(), request("http://"+addr)); a.Outcome != sender.BadAnswer || requests.Load() != 2 {
		t.Errorf("a receiver that hangs up: %+v, %d requests", a, requests.Load())
	}
}

// With a hundred attempts stuck at one receiver another is as fast as ever.
func TestStuckReceiverDelaysNoOther(t *testing.T) {
	t.Parallel()
	stuck := rawReceiver(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	healthy := receiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	s := newSender(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if a := s.Send(ctx, request("http://"+stuck)); a.Outcome != sender.Cancelled {
				t.Errorf("%+v", a)
			}
		})
	}
	for range 200 {
		if a := s.Send(t.Context(), request(healthy.URL)); a.Outcome != sender.Success {
			t.Errorf("%+v", a)
		}
	}
	cancel()
	wg.Wait()
}
