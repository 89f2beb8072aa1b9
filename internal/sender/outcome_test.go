package sender_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sender"
)

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
		{502, "", sender.Refused, 0},
		{502, "60", sender.Refused, time.Minute},
		{504, "60", sender.Refused, time.Minute},
		{504, "nonsense", sender.Refused, 0},
		{500, "60", sender.Refused, 0},
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
				t.Errorf("%v, status %d, wait %v; want %v, %d, %v",
					a.Outcome, a.Status, a.RetryAfter, c.want, c.status, c.wait)
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

func TestOutcomesOfBadAnswers(t *testing.T) {
	t.Parallel()
	const (
		notHTTP, http2, otherTLS = "the answer is not HTTP", "the receiver speaks HTTP/2 only",
			"the receiver speaks TLS here"
		malformed, within = "the answer's status line is malformed", "connection closed within the status line"
		interim, large    = "only interim answers (1xx) came", "interim answers (1xx) are larger than 64 KiB"
		closed            = "connection closed before an answer"
	)
	cases := map[string]struct{ text, reason string }{
		"nothing":           {"", closed},
		"an empty line":     {"\r\n", closed},
		"SSH":               {"SSH-2.0-OpenSSH_9.9\r\n", notHTTP + ": an SSH server"},
		"ICY":               {"ICY 200 OK\r\n\r\n", notHTTP + ": a streaming server"},
		"SMTP":              {"220 mail.example ESMTP\r\n", notHTTP},
		"a page alone":      {"<html>200 OK</html>", notHTTP},
		"JSON alone":        {`{"status":200}`, notHTTP},
		"two bytes":         {"OK", notHTTP},
		"a gRPC server":     {"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00", http2},
		"HTTP/2 that goes":  {"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01", http2},
		"HTTP/2 preface":    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", http2},
		"TLS alert":         {"\x15\x03\x01\x00\x02\x02\x46", otherTLS},
		"TLS handshake":     {"\x16\x03\x03\x00\x02\x02\x46", otherTLS},
		"no status":         {"HTTP/1.1 \r\n\r\n", malformed},
		"no space":          {"HTTP/1.1\r\n\r\n", malformed},
		"no version":        {"HTTP/ 200 OK\r\n\r\n", malformed},
		"bad status":        {"HTTP/1.1 abc OK\r\n\r\n", malformed},
		"two digits":        {"HTTP/1.1 20 OK\r\n\r\n", malformed},
		"four digits":       {"HTTP/1.1 2000 OK\r\n\r\n", malformed},
		"negative status":   {"HTTP/1.1 -200 OK\r\n\r\n", malformed},
		"status below 100":  {"HTTP/1.1 020 OK\r\n\r\n", malformed},
		"cut version":       {"HTT", within},
		"cut status":        {"HTTP/1.1 20", within},
		"no line end":       {"HTTP/1.1 200 OK", within},
		"endless continues": {strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", 2000), interim},
		"large continues": {"HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("x", 70<<10) + "\r\n\r\n",
			large},
		"a continue alone":     {"HTTP/1.1 100 Continue\r\n\r\n", "connection closed after an interim answer"},
		"a cut continue alone": {"HTTP/1.1 100 Continue\r\n", "connection closed within an interim answer"},
	}
	s := newSender(t, nil)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := s.Send(t.Context(), request("http://"+rawReceiver(t, answeringOnce(c.text))))
			if a.Outcome != sender.BadAnswer || a.Status != 0 || !strings.HasPrefix(a.Error, c.reason) {
				t.Errorf("%+v, want %q", a, c.reason)
			}
		})
	}
	t.Run("a protocol whose server waits", func(t *testing.T) { // shows at once what it is
		t.Parallel()
		a := s.Send(t.Context(), request("http://"+rawReceiver(t, answering(cases["SMTP"].text))))
		if a.Outcome != sender.BadAnswer || a.Error == "" || a.Duration > 8*time.Second {
			t.Errorf("%+v", a)
		}
	})
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
	t.Run("switches protocols", func(t *testing.T) {
		t.Parallel()
		a := s.Send(t.Context(), request("http://"+rawReceiver(t,
			answering("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"))))
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
		check(t, s.Send(t.Context(), request(strings.Replace(srv.URL, "127.0.0.1", "localhost", 1))), sender.TLSFailed,
			"another host")
	})
	t.Run("old version", func(t *testing.T) {
		t.Parallel()
		srv := tlsReceiver(t, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			ok)
		s := newSender(t, func(c *sender.Config) { c.RootCAs = rootsOf(srv) })
		check(t, s.Send(t.Context(), request(srv.URL)), sender.TLSFailed, "refused the handshake: ")
	})
	t.Run("wants a client certificate", func(t *testing.T) {
		t.Parallel()
		srv := tlsReceiver(t, func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }, ok)
		s := newSender(t, func(c *sender.Config) { c.RootCAs = rootsOf(srv) })
		// TLS 1.3 reports this after the handshake. The alert may come too late to be read before
		// the connection is reset.
		if a := s.Send(t.Context(), request(srv.URL)); a.Outcome != sender.TLSFailed && a.Outcome != sender.BadAnswer {
			t.Errorf("%+v", a)
		}
	})
	t.Run("plain http on the port", func(t *testing.T) {
		t.Parallel()
		srv := receiver(t, ok)
		check(t, newSender(t, nil).Send(t.Context(), request(strings.Replace(srv.URL, "http:", "https:", 1))),
			sender.TLSFailed, "does not speak TLS")
	})
	t.Run("hangs up", func(t *testing.T) {
		t.Parallel()
		addr := rawReceiver(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<14)) })
		check(t, newSender(t, nil).Send(t.Context(), request("https://"+addr)), sender.TLSFailed, "handshake failed")
	})
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
	for _, url := range []string{"", "hook", "ftp://127.0.0.1/", "http:///hook", "http://user:pass@127.0.0.1/",
		"http://127.0.0.1:port/", "http://[::1/"} {
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

func TestOutcomeNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, o := range sender.Outcomes() {
		name := o.String()
		if seen[name] || strings.HasPrefix(name, "outcome_") ||
			strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "" {
			t.Errorf("outcome %d is called %q", o, name)
		}
		seen[name] = true
	}
	if next := sender.Outcome(len(sender.Outcomes()) + 1); !strings.HasPrefix(next.String(), "outcome_") {
		t.Errorf("%v is missing from Outcomes", next)
	}
}
