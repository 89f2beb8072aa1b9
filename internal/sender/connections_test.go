package sender_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/audatex-relay/relay/internal/sender"
)

// seen is one request as a raw receiver got it.
type seen struct {
	conn   int // which connection, counted from 1
	nth    int // which request on it, counted from 1
	header http.Header
}

// scripted is a receiver that writes what answer returns for each request, and hangs up after an
// empty text. It uses TLS if a configuration is given.
func scripted(t testing.TB, config *tls.Config, answer func(net.Conn, seen) string) (base string, conns *atomic.Int32) {
	t.Helper()
	conns = new(atomic.Int32)
	addr := rawReceiver(t, func(c net.Conn) {
		n := int(conns.Add(1))
		if config != nil {
			c = tls.Server(c, config)
		}
		r := bufio.NewReader(c)
		for nth := 1; ; nth++ {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			text := answer(c, seen{n, nth, req.Header})
			if _, err := io.WriteString(c, text); err != nil || text == "" {
				return
			}
		}
	})
	if config != nil {
		return "https://" + addr, conns
	}
	return "http://" + addr, conns
}

// arrived waits until the other side's kernel has what was written, so that no test depends on how
// soon that is.
func arrived(c net.Conn) {
	if secured, ok := c.(*tls.Conn); ok {
		c = secured.NetConn()
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	for unsent := 1; err == nil && unsent > 0; {
		controlled := raw.Control(func(fd uintptr) { unsent, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
		err = cmp.Or(err, controlled)
		runtime.Gosched()
	}
}

const noContent = "HTTP/1.1 204 No Content\r\n\r\n"

// tlsOf is the configuration of a server whose certificate the returned Sender trusts.
func tlsOf(t testing.TB, change func(*tls.Config)) (*tls.Config, func(*sender.Config)) {
	t.Helper()
	srv := tlsReceiver(t, nil, func(http.ResponseWriter, *http.Request) {})
	config := &tls.Config{Certificates: srv.TLS.Certificates}
	if change != nil {
		change(config)
	}
	return config, func(c *sender.Config) { c.RootCAs = rootsOf(srv) }
}

func TestConnectionsServeOneCallbackAtOneURL(t *testing.T) {
	t.Parallel()
	base, conns := scripted(t, nil, func(net.Conn, seen) string { return noContent })
	s := newSender(t, nil)
	for range 5 {
		for _, callback := range []string{"a 1", "a 2", "b 1"} {
			for _, path := range []string{"/x", "/y"} {
				r := request(base + path)
				r.Callback = callback
				if a := s.Send(t.Context(), r); a.Outcome != sender.Success {
					t.Errorf("%+v", a)
				}
			}
		}
	}
	if n := conns.Load(); n != 6 {
		t.Errorf("%d connections for 3 callbacks at 2 URLs each, one attempt at a time", n)
	}
}

// What a response leaves behind settles no other event: each text is the response to the first event
// and brings with it what would be a success for the second, which is refused with 500.
func TestLeftoverBytesSettleNoOtherEvent(t *testing.T) {
	t.Parallel()
	const fake = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	announced := fmt.Sprintf("Content-Length: %d\r\n\r\n", len(fake))
	cases := map[string]struct {
		now, later string // later comes when the first attempt has ended
		first      sender.Outcome
	}{
		"after a success": {fake + fake, "", sender.Success},
		"after a refusal": {"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\noh" + fake, "", sender.Refused},
		"after chunks": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + fake, "",
			sender.Success},
		"a body of 204 not announced": {noContent + fake, "", sender.Success},
		"a body of 204 announced":     {"HTTP/1.1 204 No Content\r\n" + announced, fake, sender.Success},
		"a body of 304 announced":     {"HTTP/1.1 304 Not Modified\r\n" + announced, fake, sender.Refused},
		"chunks of 204 announced": {"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", fake,
			sender.Success},
		"on the idle connection": {noContent, fake, sender.Success},
		"part of it":             {noContent, "HTTP/1.1 2", sender.Success},
		"a line end":             {noContent, "\r\n", sender.Success},
		"anything on the idle":   {noContent, "x", sender.Success},
		"a 408 on the idle connection": {noContent, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n",
			sender.Success},
		"a length that is too short": {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx" + fake, "", sender.Success},
		"an end at odds with chunks": {
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" +
				fake, "", sender.Success},
		"two lengths": {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 39\r\n\r\n" + fake, "",
			sender.Success},
		"a length behind an odd line": {"HTTP/1.1 200 OK\r\nContent-Length : 39\r\nContent-Length: 0\r\n\r\n" + fake,
			"",
			sender.Success},
		"a length on a folded line": {"HTTP/1.1 200 OK\r\nX-A: b\r\n Content-Length: 39\r\nContent-Length: 0\r\n\r\n" +
			fake, "", sender.Success},
		"an unknown coding": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n" + fake, "",
			sender.Success},
		"an upgrade that nobody wanted": {"HTTP/1.1 101 Switching Protocols\r\n\r\n" + fake, "", sender.Refused},
	}
	config, trusting := tlsOf(t, nil)
	s := newSender(t, trusting)
	for name, c := range cases {
		for _, scheme := range []string{"http", "https"} {
			t.Run(name+" by "+scheme, func(t *testing.T) {
				t.Parallel()
				over := config
				if scheme == "http" {
					over = nil
				}
				var mu sync.Mutex
				var first net.Conn
				var closing []bool
				base, conns := scripted(t, over, func(conn net.Conn, q seen) string {
					mu.Lock()
					defer mu.Unlock()
					closing = append(closing, q.header.Get("Connection") == "close")
					if q.conn == 1 && q.nth == 1 {
						first = conn
						return c.now
					}
					return "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"
				})
				if a := s.Send(t.Context(), request(base)); a.Outcome != c.first {
					t.Errorf("the first: %+v", a)
				}
				if c.later != "" {
					mu.Lock()
					_, _ = io.WriteString(first, c.later) // it may be closed already, which is as well
					arrived(first)
					mu.Unlock()
				}
				if a := s.Send(t.Context(), request(base)); a.Outcome != sender.Refused || a.Status != 500 {
					t.Errorf("the second: %+v", a)
				}
				if n := conns.Load(); n != 2 {
					t.Errorf("%d connections", n)
				}
				_ = s.Send(t.Context(), request(base))
				mu.Lock()
				defer mu.Unlock()
				// Those are not read to the end, or are no fault of the receiver: the connection is
				// closed, and that is all.
				odd := strings.Contains(name, "at odds") || strings.Contains(name, "two lengths") ||
					strings.Contains(name, "odd line") ||
					strings.Contains(name, "folded") || strings.Contains(name, "coding") ||
					strings.Contains(name, "upgrade") ||
					strings.Contains(name, "408")
				if last := closing[len(closing)-1]; last == odd {
					t.Errorf("Connection: close by request: %v", closing)
				}
			})
		}
	}
}

// What is known of a callback's habits is forgotten with its URL, and is known of no other
// callback.
func TestDistrustIsOfOneCallbackAtOneURL(t *testing.T) {
	t.Parallel()
	base, _ := scripted(t, nil, func(_ net.Conn, q seen) string {
		return "HTTP/1.1 200 OK\r\nContent-Length: " + fmt.Sprint(len(q.header.Get("Connection"))) + "\r\n\r\n" +
			q.header.Get("Connection") + "stray"
	})
	var mu sync.Mutex
	closing := map[string]int{}
	clean, _ := scripted(t, nil, func(_ net.Conn, q seen) string {
		mu.Lock()
		defer mu.Unlock()
		closing[q.header.Get("Webhook-Id")] += len(q.header.Values("Connection"))
		return noContent
	})
	s := newSender(t, nil)
	send := func(callback, url, id string) {
		r := request(url)
		r.Callback, r.EventID = callback, id
		if a := s.Send(t.Context(), r); a.Outcome != sender.Success {
			t.Errorf("%+v", a)
		}
	}
	for range 3 {
		send("a", base, "stray")
		send("a", clean, "moved")
		send("b", clean, "other")
	}
	mu.Lock()
	defer mu.Unlock()
	if closing["moved"] != 0 || closing["other"] != 0 || len(closing) != 2 {
		t.Errorf("Connection: close %v", closing)
	}
}

// A response counts though the receiver reads neither the request nor anything later; its connection
// is not used again.
func TestEarlyAnswers(t *testing.T) {
	t.Parallel()
	config, trusting := tlsOf(t, nil)
	s := newSender(t, trusting)
	for _, scheme := range []string{"http", "https"} {
		for _, size := range []int{12 << 10, 200 << 10, 8 << 20} {
			for _, answer := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
				"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"} {
				t.Run(fmt.Sprint(scheme, size, answer[9:12]), func(t *testing.T) {
					t.Parallel()
					var conns, asked atomic.Int32
					released := make(chan struct{})
					addr := rawReceiver(t, func(c net.Conn) {
						conns.Add(1)
						_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
						if scheme == "https" {
							c = tls.Server(c, config)
						}
						begin := make([]byte, 4096)
						n, _ := c.Read(begin)
						if bytes.Contains(begin[:n], []byte("\r\nConnection: close\r\n")) {
							asked.Add(1)
						}
						_, _ = io.WriteString(c, answer)
						<-released
					})
					t.Cleanup(func() { close(released) }) // before the receiver waits for its connections
					for i := range 2 {
						r := request(scheme + "://" + addr)
						r.Body = bytes.Repeat([]byte("x"), size)
						a := s.Send(t.Context(), r)
						if fmt.Sprint(a.Status) != answer[9:12] || a.Duration > 8*time.Second {
							t.Errorf("attempt %d: %+v", i, a)
						}
						if size < 8<<20 {
							return // all of it has left for the receiver's side: whether it was read cannot be seen
						}
					}
					if size == 8<<20 && (conns.Load() != 2 || asked.Load() != 1) {
						t.Errorf("%d connections, %d with Connection: close", conns.Load(), asked.Load())
					}
				})
			}
		}
	}
}

// A response counts although its receiver has read nothing, or closes its side early.
func TestAnswerWithoutReading(t *testing.T) {
	t.Parallel()
	s := newSender(t, nil)
	addr := rawReceiver(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nConnection: close\r\n\r\n")
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	for _, size := range []int{10, 8 << 20} {
		r := request("http://" + addr)
		r.Body = bytes.Repeat([]byte("x"), size)
		if a := s.Send(t.Context(), r); a.Outcome != sender.Throttled || a.RetryAfter != 7*time.Second {
			t.Errorf("%+v", a)
		}
	}
}

// Nor is a response lost with the connection that its receiver closes without reading.
func TestAnswerBeforeAReset(t *testing.T) {
	t.Parallel()
	s := newSender(t, nil)
	addr := rawReceiver(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 100))
		_, _ = io.WriteString(c, "HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
	})
	for _, size := range []int{10, 5000, 300 << 10} {
		r := request("http://" + addr)
		r.Body = bytes.Repeat([]byte("x"), size)
		if a := s.Send(t.Context(), r); a.Outcome != sender.Gone {
			t.Errorf("%d bytes: %+v", size, a)
		}
	}
}

// On a connection that was used before, anything else than a response is a hang-up: the request is
// sent once more over a new connection, and that result counts.
func TestSentOnceMoreOverANewConnection(t *testing.T) {
	t.Parallel()
	s := newSender(t, nil)
	for name, c := range map[string]struct {
		second string // on the used connection
		third  string // on the new one
		want   sender.Outcome
		sent   int32
	}{
		"hangs up":         {"", noContent, sender.Success, 3},
		"not HTTP":         {"}{\r\n", noContent, sender.Success, 3},
		"malformed status": {"HTTP/1.1 OK\r\n\r\n", noContent, sender.Success, 3},
		"cut status":       {"HTTP/1.1 2", noContent, sender.Success, 3},
		"408 and closes": {"HTTP/1.1 408 Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", noContent,
			sender.Success, 3},
		"an empty line before": {"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", sender.Refused, 3},
		"an empty line alone":  {"\r\n", noContent, sender.Success, 3},
		"408 of the request":   {"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n", noContent, sender.Refused, 2},
		"refuses the second":   {"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", noContent, sender.Refused, 2},
		"hangs up after 1xx":   {"HTTP/1.1 102 Processing\r\n\r\n", noContent, sender.BadAnswer, 2},
		"hangs up twice":       {"", "", sender.BadAnswer, 3},
		"then refuses":         {"", "HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", sender.Gone, 3},
		"then talks no HTTP":   {"junk\r\n", "junk\r\n", sender.BadAnswer, 3},
		"cut after the status": {"HTTP/1.1 200 OK\r\n", noContent, sender.Success, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			addr := rawReceiver(t, func(conn net.Conn) {
				r := bufio.NewReader(conn)
				for readRequest(r) {
					text := noContent
					switch requests.Add(1) {
					case 2:
						text = c.second
					case 3:
						text = c.third
					}
					_, _ = io.WriteString(conn, text)
					if text != noContent {
						return
					}
				}
			})
			if a := s.Send(t.Context(), request("http://"+addr)); a.Outcome != sender.Success {
				t.Errorf("the first: %+v", a)
			}
			if a := s.Send(t.Context(), request("http://"+addr)); a.Outcome != c.want || requests.Load() != c.sent {
				t.Errorf("%+v after %d requests; want %v after %d", a, requests.Load(), c.want, c.sent)
			}
		})
	}
}

// Idle connections of any callback give way when a connection is needed at the bound, the oldest
// first; more are never open.
func TestMaxConnections(t *testing.T) {
	t.Parallel()
	const bound = 4
	var waiting, total atomic.Int32
	addr := rawReceiver(t, func(c net.Conn) {
		total.Add(1)
		for r := bufio.NewReader(c); readRequest(r); {
			if n := waiting.Add(1); n > bound { // each for its response, on a connection of its own
				t.Errorf("%d requests at once with a bound of %d connections", n, bound)
			}
			runtime.Gosched()
			waiting.Add(-1)
			if _, err := io.WriteString(c, noContent); err != nil {
				return
			}
		}
	})
	s := newSender(t, func(c *sender.Config) { c.MaxConnections = bound })
	send := func(callback int) {
		r := request("http://" + addr)
		r.Callback = fmt.Sprint(callback)
		if a := s.Send(t.Context(), r); a.Outcome != sender.Success {
			t.Errorf("%+v", a)
		}
	}
	for i := range 10 {
		send(i)
	}
	if n := total.Load(); n != 10 {
		t.Errorf("%d connections for 10 callbacks", n)
	}
	for i := range 10 * bound { // those that were used last are still there
		send(10 - bound + i%bound)
	}
	if n := total.Load(); n != 10 {
		t.Errorf("%d connections, though the last %d callbacks have theirs", n, bound)
	}
	send(0) // the connection of the callback that was served longest ago gives way, so the others keep theirs
	send(9)
	send(8)
	send(7)
	if n := total.Load(); n != 11 {
		t.Errorf("%d connections after one more", n)
	}
	var wg sync.WaitGroup
	for i := range 40 { // more at once than there may be: they wait
		wg.Go(func() { send(100 + i%20) })
	}
	wg.Wait()
}

// An attempt that finds all connections under way waits, and ends without a word about the receiver
// when it was too long, when its caller gives up, or when the Sender is closed.
func TestNoConnectionToSpare(t *testing.T) {
	t.Parallel()
	taken := make(chan struct{}, 1)
	addr := rawReceiver(t, func(c net.Conn) {
		if readRequest(bufio.NewReader(c)) {
			taken <- struct{}{}
			_, _ = io.Copy(io.Discard, c)
		}
	})
	s := newSender(t, func(c *sender.Config) { c.MaxConnections = 1 })
	ctx, release := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Send(ctx, request("http://"+addr)) })
	<-taken
	r := request("http://" + addr)
	r.Timeout = 20 * time.Millisecond
	if a := s.Send(t.Context(), r); a.Outcome != sender.Cancelled || a.Error != "the relay had no connection to spare" {
		t.Errorf("%+v", a)
	}
	gone, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if a := s.Send(gone, request("http://"+addr)); a.Outcome != sender.Cancelled {
		t.Errorf("%+v", a)
	}
	time.AfterFunc(10*time.Millisecond, s.Close)
	if a := s.Send(t.Context(), request("http://"+addr)); a.Outcome != sender.Cancelled {
		t.Errorf("%+v", a)
	}
	release()
	wg.Wait()
}

// Connections over TLS are kept, in both versions, and those that were closed cost a short
// handshake only.
func TestConnectionsOverTLSAreKept(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		var resumed atomic.Int32
		config, trusting := tlsOf(t, func(c *tls.Config) {
			c.MinVersion, c.MaxVersion = version, version
			c.VerifyConnection = func(s tls.ConnectionState) error {
				if s.DidResume {
					resumed.Add(1)
				}
				return nil
			}
		})
		base, conns := scripted(t, config, func(_ net.Conn, q seen) string {
			if q.conn == 1 && q.nth == 10 {
				return "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
			}
			return "HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + strings.Repeat("x", 60000)
		})
		s := newSender(t, trusting)
		for range 20 {
			r := request(base)
			r.Body = bytes.Repeat([]byte("x"), 50000)
			if a := s.Send(t.Context(), r); a.Outcome != sender.Success {
				t.Errorf("%+v", a)
			}
		}
		if conns.Load() != 2 || resumed.Load() != 1 {
			t.Errorf("TLS %x: %d connections, %d resumed", version, conns.Load(), resumed.Load())
		}
	}
}

// Versions and headers that leave a connection open, and those that do not.
func TestWhichConnectionsAreKept(t *testing.T) {
	t.Parallel()
	s := newSender(t, nil)
	for answer, kept := range map[string]bool{
		noContent: true,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok":                                        true,
		"HTTP/1.1 200 OK\r\ncontent-length:2\r\nCONNECTION: keep-alive\r\n\r\nok":               true,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX: y\r\n\r\n": true,
		"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n000\r\n\r\n":           true,
		"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok":              true,
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n" +
			"Content-Length: 0\r\n\r\n": true,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok":                      true,
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok":                                           false,
		"HTTP/1.1 200 OK\r\nConnection: upgrade, Close\r\nContent-Length: 2\r\n\r\nok":             false,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nno colon\r\n\r\nok":                               false,
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": false,
		"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok":                                           false,
		"HTTP/1.1 200 OK\nContent-Length: 2\n\nok":                                                 false,
		"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" +
			strings.Repeat("x", 70000): false,
	} {
		base, conns := scripted(t, nil, func(net.Conn, seen) string { return answer })
		for range 2 {
			if a := s.Send(t.Context(), request(base)); a.Status == 0 {
				t.Errorf("%q: %+v", answer, a)
			}
		}
		if n := conns.Load(); n == 1 != kept {
			t.Errorf("%.60q: %d connections", answer, n)
		}
	}
}

// A proxy that is itself reached by TLS carries both kinds of callbacks.
func TestProxyByTLS(t *testing.T) {
	t.Parallel()
	config, trusting := tlsOf(t, nil)
	base, conns := scripted(t, config, func(net.Conn, seen) string { return noContent })
	var connects, forwards atomic.Int32
	proxy := rawReceiver(t, func(c net.Conn) {
		outer := tls.Server(c, config)
		r := bufio.NewReader(outer)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.Method != http.MethodConnect {
				forwards.Add(1)
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(outer,
					"HTTP/1.1 202 OK\r\nContent-Length: 0\r\nX-URI: "+req.RequestURI+"\r\n\r\n")
				continue
			}
			connects.Add(1)
			up, err := net.Dial("tcp", strings.TrimPrefix(base, "https://"))
			if err != nil {
				return
			}
			defer up.Close()
			_, _ = io.WriteString(outer, "HTTP/1.1 200 Fine\r\n\r\n")
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, _ = io.Copy(outer, up)
				c.Close()
			}()
			_, _ = io.Copy(up, r)
			up.Close()
			<-ended
			return
		}
	})
	resolver := nameServer(t, map[string][]string{"example.com": {"93.184.215.14"}, "lan.example": {"10.1.1.1"}})
	s := newSender(t, func(c *sender.Config) {
		trusting(c)
		c.AllowCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		c.Proxy, c.Resolver = &url.URL{Scheme: "https", Host: proxy}, resolver
	})
	for range 3 {
		if a := s.Send(t.Context(), request("https://example.com/")); a.Status != 204 {
			t.Errorf("%+v", a)
		}
		if a := s.Send(t.Context(), request("http://lan.example/")); a.Status != 202 {
			t.Errorf("%+v", a)
		}
	}
	if conns.Load() != 1 || connects.Load() != 1 || forwards.Load() != 3 {
		t.Errorf("%d connections, %d tunnels, %d forwarded", conns.Load(), connects.Load(), forwards.Load())
	}

	// The proxy's certificate is not the receiver's: not where there is no other, nor where it is refused itself.
	late := time.Now().AddDate(100, 0, 0)
	test := func(address string) (a sender.Attempt, certificates int) {
		var seen sender.Inspection
		r := request(address)
		r.Callback, r.Inspect = address, &seen
		a = s.Send(t.Context(), r)
		if _, known := s.CertificateEnds(address, late); known != (len(seen.Certificates) > 0) {
			t.Errorf("%s: %d certificates are shown, and the end of one is known: %t",
				address, len(seen.Certificates), known)
		}
		return a, len(seen.Certificates)
	}
	if a, n := test("https://example.com/"); a.Status != 204 || n == 0 {
		t.Errorf("by TLS: %+v, %d certificates", a, n)
	}
	if a, n := test("http://lan.example/"); a.Status != 202 || n != 0 {
		t.Errorf("without TLS: %+v, %d certificates", a, n)
	}
	s.Trust(x509.NewCertPool())
	if a, n := test("https://example.com/another"); a.Outcome != sender.ConnectFailed || n != 0 {
		t.Errorf("with a proxy that is not trusted: %+v, %d certificates", a, n)
	}
}
