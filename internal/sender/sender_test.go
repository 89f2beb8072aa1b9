package sender_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/signature"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// newSender makes a Sender that may reach loopback, and ends it with the test.
func newSender(t testing.TB, change func(*sender.Config)) *sender.Sender {
	t.Helper()
	c := sender.Config{AllowCIDRs: loopback, UserAgent: "audatex-relay/test"}
	if change != nil {
		change(&c)
	}
	s := sender.New(c)
	t.Cleanup(s.Close)
	return s
}

func receiver(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func tlsReceiver(t testing.TB, configure func(*tls.Config), h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.TLS = &tls.Config{}
	if configure != nil {
		configure(srv.TLS)
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

func rootsOf(srv *httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	return pool
}

// rawReceiver accepts connections and hands each to serve, which must return when the connection is closed.
func rawReceiver(t testing.TB, serve func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// readRequest reads one request whole, so that the connection can be answered or closed cleanly.
func readRequest(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

// answering gives back text for every request and then waits for the other side to close.
func answering(text string) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		for readRequest(r) {
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
}

var testSecret = signature.NewSecret()

func request(url string) sender.Request {
	return sender.Request{
		URL: url, EventID: "evt_1", Body: []byte(`{"id":"evt_1"}`),
		Secrets: []signature.Secret{testSecret}, Timeout: 10 * time.Second,
	}
}

func TestSendCarriesTheSignedEvent(t *testing.T) {
	t.Parallel()
	older := signature.NewSecret()
	type seen struct {
		header http.Header
		method string
		uri    string
		host   string
		proto  string
		body   []byte
		length int64
	}
	got := make(chan seen, 1)
	srv := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read body: %v", err)
		}
		got <- seen{r.Header, r.Method, r.RequestURI, r.Host, r.Proto, b, r.ContentLength}
		w.WriteHeader(http.StatusNoContent)
	})
	s := newSender(t, nil)
	r := request(srv.URL + "/hook?site=a%20b")
	r.Secrets = append(r.Secrets, older)
	r.ContentType = "application/cloudevents+json"
	r.Auth = sender.Bearer("tok-123456")
	r.Headers = map[string]string{
		"x-tenant": "north", "authorization": "Basic other", // auth goes before it
		"webhook-id": "forged", "Content-Type": "text/plain", "user-agent": "forged", "Host": "forged.example", "Connection": "close", "Content-Length": "1", "Idempotency-Key": "same",
	}
	a := s.Send(t.Context(), r)
	if a.Outcome != sender.Success || a.Status != 204 || a.Error != "" || a.Excerpt != "" {
		t.Fatalf("attempt %+v", a)
	}
	if a.RemoteAddr.String() != srv.Listener.Addr().String() || a.Duration <= 0 {
		t.Errorf("remote %v after %v, want %v", a.RemoteAddr, a.Duration, srv.Listener.Addr())
	}
	g := <-got
	if g.method != "POST" || g.uri != "/hook?site=a%20b" || g.proto != "HTTP/1.1" || g.host != srv.Listener.Addr().String() || g.length != int64(len(r.Body)) || !bytes.Equal(g.body, r.Body) {
		t.Errorf("request %+v", g)
	}
	for _, s := range []signature.Secret{testSecret, older} {
		if err := signature.Verify(s, g.header, g.body, a.At, time.Second); err != nil {
			t.Error(err)
		}
	}
	want := map[string]string{
		"Content-Type": "application/cloudevents+json", "User-Agent": "audatex-relay/test", "Webhook-Id": "evt_1",
		"Webhook-Timestamp": strconv.FormatInt(a.At.Unix(), 10), "Authorization": "Bearer tok-123456", "X-Tenant": "north",
		"Content-Length": strconv.Itoa(len(r.Body)),
	}
	g.header.Del("Webhook-Signature")
	for name, value := range want {
		if v := g.header.Values(name); len(v) != 1 || v[0] != value {
			t.Errorf("%s: %q, want %q", name, v, value)
		}
		g.header.Del(name)
	}
	if len(g.header) != 0 {
		t.Errorf("headers nobody asked for: %v", g.header)
	}
}

func TestOutcomesOfAnswers(t *testing.T) {
	t.Parallel()
	cases := []struct {
		status     int
		retryAfter string
		want       sender.Outcome
		wait       time.Duration
	}{
		{200, "", sender.Success, 0},
		{201, "", sender.Success, 0},
		{202, "60", sender.Success, 0},
		{299, "", sender.Success, 0},
		{300, "", sender.Refused, 0},
		{301, "", sender.Refused, 0},
		{304, "", sender.Refused, 0},
		{400, "60", sender.Refused, 0},
		{401, "", sender.Refused, 0},
		{404, "", sender.Refused, 0},
		{410, "", sender.Gone, 0},
		{429, "", sender.Throttled, 0},
		{429, "60", sender.Throttled, time.Minute},
		{429, "nonsense", sender.Throttled, 0},
		{500, "", sender.Refused, 0},
		{503, "", sender.Refused, 0},
		{503, "nonsense", sender.Refused, 0},
		{503, "0", sender.Throttled, 0},
		{503, "7200", sender.Throttled, 2 * time.Hour},
		{503, "9999999", sender.Throttled, sender.MaxRetryAfter},
		{599, "", sender.Refused, 0},
	}
	s := newSender(t, nil)
	for _, c := range cases {
		t.Run(fmt.Sprintf("%d %s", c.status, c.retryAfter), func(t *testing.T) {
			t.Parallel()
			srv := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				if c.retryAfter != "" {
					w.Header().Set("Retry-After", c.retryAfter)
				}
				w.WriteHeader(c.status)
				if c.status != http.StatusNotModified {
					fmt.Fprintf(w, "because\n\tof %d", c.status)
				}
			})
			a := s.Send(t.Context(), request(srv.URL))
			if a.Outcome != c.want || a.Status != c.status || a.RetryAfter != c.wait {
				t.Errorf("%v, status %d, wait %v; want %v, %d, %v", a.Outcome, a.Status, a.RetryAfter, c.want, c.status, c.wait)
			}
			excerpt := fmt.Sprintf("because of %d", c.status)
			if c.want == sender.Success || c.status == http.StatusNotModified {
				excerpt = ""
			}
			if a.Excerpt != excerpt {
				t.Errorf("excerpt %q, want %q", a.Excerpt, excerpt)
			}
			if (a.Error == "") != (c.want == sender.Success) {
				t.Errorf("error %q with %v", a.Error, a.Outcome)
			}
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var followed atomic.Int32
	other := receiver(t, func(http.ResponseWriter, *http.Request) { followed.Add(1) })
	s := newSender(t, nil)
	for _, status := range []int{301, 302, 303, 307, 308} {
		srv := receiver(t, func(w http.ResponseWriter, r *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "1"})
			if len(r.Cookies()) != 0 {
				t.Error("a cookie came back")
			}
			http.Redirect(w, r, other.URL, status)
		})
		for range 2 {
			if a := s.Send(t.Context(), request(srv.URL)); a.Outcome != sender.Refused || a.Status != status {
				t.Errorf("%d: %+v", status, a)
			}
		}
	}
	if n := followed.Load(); n != 0 {
		t.Errorf("followed %d redirects", n)
	}
}

func TestOutcomesOfBadAnswers(t *testing.T) {
	t.Parallel()
	cases := map[string]string{
		"not HTTP":          "SSH-2.0-OpenSSH_9.9\r\n",
		"no status":         "HTTP/1.1 \r\n\r\n",
		"bad status":        "HTTP/1.1 abc OK\r\n\r\n",
		"bad header":        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
		"bad length":        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"two lengths":       "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"HTTP/2 preface":    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"header too large":  "HTTP/1.1 200 OK\r\nX-Big: " + strings.Repeat("x", 40<<10) + "\r\n\r\n",
		"too many headers":  "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Many: y\r\n", 4<<10) + "\r\n",
		"endless continues": strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", 2000),
	}
	s := newSender(t, nil)
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := s.Send(t.Context(), request("http://"+rawReceiver(t, answering(text))))
			if a.Outcome != sender.BadAnswer || a.Status != 0 || a.Error == "" {
				t.Errorf("%+v", a)
			}
		})
	}
	t.Run("hangs up", func(t *testing.T) {
		t.Parallel()
		var requests atomic.Int32
		addr := rawReceiver(t, func(c net.Conn) {
			if readRequest(bufio.NewReader(c)) {
				requests.Add(1)
			}
		})
		a := s.Send(t.Context(), request("http://"+addr))
		if a.Outcome != sender.BadAnswer {
			t.Errorf("%+v", a)
		}
		if n := requests.Load(); n != 1 {
			t.Errorf("a fresh connection was tried %d times", n)
		}
	})
	t.Run("cut head", func(t *testing.T) {
		t.Parallel()
		a := s.Send(t.Context(), request("http://"+rawReceiver(t, func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-")
		})))
		if a.Outcome != sender.BadAnswer {
			t.Errorf("%+v", a)
		}
	})
	t.Run("switches protocols", func(t *testing.T) {
		t.Parallel()
		a := s.Send(t.Context(), request("http://"+rawReceiver(t, answering("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"))))
		if a.Outcome != sender.Refused || a.Status != 101 {
			t.Errorf("%+v", a)
		}
	})
}

func TestConnectFailed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	a := newSender(t, nil).Send(t.Context(), request("http://"+addr))
	if a.Outcome != sender.ConnectFailed || !strings.Contains(a.Error, "connection refused") || a.RemoteAddr.IsValid() {
		t.Errorf("%+v", a)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ok := func(w http.ResponseWriter, r *http.Request) {
		if r.Proto != "HTTP/1.1" {
			t.Errorf("spoke %s", r.Proto)
		}
		w.WriteHeader(http.StatusOK)
	}
	check := func(t *testing.T, a sender.Attempt, want sender.Outcome, text string) {
		t.Helper()
		if a.Outcome != want || !strings.Contains(a.Error, text) {
			t.Errorf("%v %q; want %v, %q", a.Outcome, a.Error, want, text)
		}
	}
	t.Run("trusted", func(t *testing.T) {
		t.Parallel()
		srv := tlsReceiver(t, func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }, ok)
		s := newSender(t, func(c *sender.Config) { c.RootCAs = rootsOf(srv) })
		check(t, s.Send(t.Context(), request(srv.URL)), sender.Success, "")
	})
	t.Run("unknown authority", func(t *testing.T) {
		t.Parallel()
		srv := tlsReceiver(t, nil, ok)
		s := newSender(t, func(c *sender.Config) { c.RootCAs = x509.NewCertPool() })
		check(t, s.Send(t.Context(), request(srv.URL)), sender.TLSFailed, "unknown authority")
	})
	t.Run("another host", func(t *testing.T) {
		t.Parallel()
		srv := tlsReceiver(t, nil, ok)
		s := newSender(t, func(c *sender.Config) { c.RootCAs = rootsOf(srv) })
		check(t, s.Send(t.Context(), request(strings.Replace(srv.URL, "127.0.0.1", "localhost", 1))), sender.TLSFailed, "another host")
	})
	t.Run("old version", func(t *testing.T) {
		t.Parallel()
		srv := tlsReceiver(t, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, ok)
		s := newSender(t, func(c *sender.Config) { c.RootCAs = rootsOf(srv) })
		check(t, s.Send(t.Context(), request(srv.URL)), sender.TLSFailed, "refused the handshake: ")
	})
	t.Run("wants a client certificate", func(t *testing.T) {
		t.Parallel()
		srv := tlsReceiver(t, func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }, ok)
		s := newSender(t, func(c *sender.Config) { c.RootCAs = rootsOf(srv) })
		// TLS 1.3 tells after the handshake; the alert may come too late to be read before the connection is reset.
		if a := s.Send(t.Context(), request(srv.URL)); a.Outcome != sender.TLSFailed && a.Outcome != sender.BadAnswer {
			t.Errorf("%+v", a)
		}
	})
	t.Run("plain http on the port", func(t *testing.T) {
		t.Parallel()
		srv := receiver(t, ok)
		check(t, newSender(t, nil).Send(t.Context(), request(strings.Replace(srv.URL, "http:", "https:", 1))), sender.TLSFailed, "does not speak TLS")
	})
	t.Run("hangs up", func(t *testing.T) {
		t.Parallel()
		addr := rawReceiver(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<14)) })
		check(t, newSender(t, nil).Send(t.Context(), request("https://"+addr)), sender.TLSFailed, "handshake failed")
	})
}

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
		{"never shakes hands", "https", 150 * time.Millisecond, 100, hold, sender.Timeout, "not connected within 150ms"},
		{"never reads", "http", 300 * time.Millisecond, 8 << 20 /* more than the sockets buffer */, func(net.Conn) { <-released }, sender.Timeout, "no answer"},
		{"header trickles", "http", 150 * time.Millisecond, 100, trickle("HTTP/1.1 200 OK\r\n", "X-A: b\r\n"), sender.Timeout, "no answer"},
		{"refusal's body trickles", "http", 5 * time.Second, 100, trickle("HTTP/1.1 500 Oh\r\nContent-Length: 100000\r\n\r\n", "x"), sender.Refused, "answered 500"},
		{"success's body trickles", "http", 5 * time.Second, 100, trickle("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "x"), sender.Success, ""},
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

func TestCancelled(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 1)
	addr := rawReceiver(t, func(c net.Conn) {
		readRequest(bufio.NewReader(c))
		arrived <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
	})
	s := newSender(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan sender.Attempt)
	go func() { done <- s.Send(ctx, request("http://"+addr)) }()
	<-arrived
	cancel()
	if a := <-done; a.Outcome != sender.Cancelled {
		t.Errorf("cancelled on the way: %+v", a)
	}
	if a := s.Send(ctx, request("http://"+addr)); a.Outcome != sender.Cancelled {
		t.Errorf("cancelled before: %+v", a)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	go func() { done <- s.Send(ctx, request("http://"+addr)) }()
	<-arrived
	if a := <-done; a.Outcome != sender.Cancelled {
		t.Errorf("the caller's deadline: %+v", a)
	}
	s.Close()
	if a := s.Send(t.Context(), request("http://"+addr)); a.Outcome != sender.Cancelled {
		t.Errorf("after Close: %+v", a)
	}
}

func TestInvalid(t *testing.T) {
	t.Parallel()
	s := newSender(t, nil)
	for _, url := range []string{"", "hook", "ftp://127.0.0.1/", "http:///hook", "http://user:pass@127.0.0.1/", "http://127.0.0.1:port/", "http://[::1/"} {
		if a := s.Send(t.Context(), request(url)); a.Outcome != sender.Invalid || a.Error == "" {
			t.Errorf("%q: %+v", url, a)
		}
	}
	srv := receiver(t, func(http.ResponseWriter, *http.Request) { t.Error("an unsigned or broken request was sent") })
	r := request(srv.URL)
	r.Secrets = nil
	if a := s.Send(t.Context(), r); a.Outcome != sender.Invalid {
		t.Errorf("without a secret: %+v", a)
	}
	r = request(srv.URL)
	r.Headers = map[string]string{"X-A": "b\r\nX-Injected: c"}
	if a := s.Send(t.Context(), r); a.Outcome != sender.Invalid || strings.Contains(a.Error, "Injected") {
		t.Errorf("with a broken header: %+v", a)
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
	// One, were it not that net/http gives up a connection whose writer has not reported within 50 ms, which happens on
	// a machine under load.
	if n := opened.Load(); n > 6 {
		t.Errorf("%d connections for 60 attempts one after another", n)
	}
}

// A receiver that closes idle connections just when the next request comes costs no failed attempt; one that hangs up
// on an event does not get it once for each idle connection.
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
		for requests.Load() < 10 {
			time.Sleep(time.Millisecond)
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
	if a := s.Send(t.Context(), request("http://"+addr)); a.Outcome != sender.BadAnswer || requests.Load() != 3 {
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

func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	const token, password, value = "tok-verysecret-1", "hunter2-hunter2", "header-secret-9"
	echo := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		plain := ""
		if _, p, ok := r.BasicAuth(); ok {
			plain = p
		}
		pad := strings.Repeat("p", 240) // so that one secret lies over the end of the excerpt
		fmt.Fprintf(w, "%s %s %s %s %s", r.Header.Get("Authorization"), strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), plain, r.Header.Get("X-Key"), pad[:40])
		fmt.Fprint(w, testSecret.Reveal(), pad)
	}
	srv := receiver(t, echo)
	s := newSender(t, nil)
	targets := []string{srv.URL + "/hook/tok-in-path-77", "http://127.0.0.1:1/tok-in-path-77", "https://10.0.0.1/tok-in-path-77", "https://user:tok-in-path-77@x/", "http://a b/tok-in-path-77", "http://" + rawReceiver(t, answering(token+"\r\n\r\n"+value))}
	for _, auth := range []sender.Auth{sender.Bearer(token), sender.Basic("user", password), {}} {
		for _, target := range targets {
			r := request(target)
			r.Auth = auth
			r.Headers = map[string]string{"X-Key": value, "Authorization": "Token " + token}
			a := s.Send(t.Context(), r)
			shown := fmt.Sprintf("%+v %#v %v %+v %#v %d %s", a, a, r, r, r, r, auth)
			for _, leak := range []string{token, password, value, testSecret.Reveal()[6:], "tok-in-path-77", base64.StdEncoding.EncodeToString([]byte("user:" + password))} {
				if strings.Contains(shown, leak) {
					t.Errorf("%s: %q is in %s", target, leak, shown)
				}
			}
			if a.Outcome == sender.Success || a.Error == "" {
				t.Errorf("%+v", a)
			}
		}
	}
}

func TestOutcomeNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, o := range sender.Outcomes() {
		name := o.String()
		if seen[name] || strings.HasPrefix(name, "outcome_") || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "" {
			t.Errorf("outcome %d is called %q", o, name)
		}
		seen[name] = true
	}
	if next := sender.Outcome(len(sender.Outcomes()) + 1); !strings.HasPrefix(next.String(), "outcome_") {
		t.Errorf("%v is missing from Outcomes", next)
	}
}
